"""Float32 rows to rows of GGUF blocks, as gguf_types reads them.

Every block is searched for the scale (and minimum) with the least squared error, weighted by how much each input
matters where that is known (`importance`, one weight per column: the mean of the squared inputs, as `lanewise
calibrate` collects them); Q2_K and Q3_K are then enlarged to the length that this takes from them. Rows go through in
pieces, over threads (NumPy releases the GIL); a block's bits depend on that block and the importance alone, so they are
the same for any pieces, threads and machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import quantize_32, quantize_256
from .gguf_types import TYPES, TensorType, expand
from .quantize_search import Bytes, Columns, Floats, Ints

PIECE = 1 << 18  # weights at a time and thread: fewer, and the interpreter's lock is what threads wait for
_KINDS = {kind.name: kind for kind in TYPES.values()}
_BLOCKS = {name: (32, how) for name, how in quantize_32.QUANTIZERS.items()} | quantize_256.QUANTIZERS
WRITABLE = ("F32", "F16", "BF16", *_BLOCKS)


def kind_of(type: str) -> TensorType:
    """The type of that name, in any case. ValueError unless it can be written."""
    name = type.upper()
    if name not in WRITABLE:
        raise ValueError(f"{type!r} is no type that can be written; known: {', '.join(WRITABLE)}")
    return _KINDS[name]


def quantize_rows(
    rows: Floats,
    type: str,
    importance: np.ndarray[Any, Any] | None = None,
    *,
    threads: int | None = None,
    first: int = 0,
) -> Bytes:
    """float32[n, k] as uint8[n, bytes of a row], blocks of the GGUF type named `type`.

    importance: float[k], the weight of each column's squared errors, not negative; None: all alike. threads: at most
    so many; None: as many as this process may use. first: the row that messages call rows[0]. Raises ValueError for a
    type that cannot be written, a k that is no whole number of blocks, a number that is not finite or does not fit
    (naming its index).
    """
    kind = kind_of(type)
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError(f"rows must be float32[n, k], not {rows.dtype}{list(rows.shape)}")
    n, k = rows.shape
    if k % kind.block:
        raise ValueError(f"rows of {k} numbers are no whole number of {kind.name} blocks of {kind.block}")
    weights = None if importance is None else check_importance(importance, k)
    out = np.empty((n, k // kind.block * kind.size), np.uint8)
    if not out.size:
        return out
    check_finite(rows, first)
    if kind.name not in _BLOCKS:
        out[:] = _plain(np.ascontiguousarray(rows), kind, first).reshape(n, -1)
        return out
    blocks = np.ascontiguousarray(rows).reshape(-1, kind.block)
    written = out.reshape(-1, kind.size)
    step = max(1, PIECE // kind.block)
    pieces = [(start, min(start + step, len(blocks))) for start in range(0, len(blocks), step)]

    def work(piece: tuple[int, int]) -> None:
        start, stop = piece
        with np.errstate(all="ignore"):
            written[start:stop] = _quantized(blocks[start:stop], kind, weights, start)

    _spread(work, pieces, threads or len(os.sched_getaffinity(0)))
    return out


def dequantize_rows(rows: Bytes, type: str) -> Floats:
    """uint8[n, bytes of a row] as float32[n, k]: the exact values of the blocks."""
    return expand(rows, kind_of(type))


def check_finite(rows: Floats, first: int = 0) -> None:
    """ValueError naming the first number that is NaN or infinite."""
    _refuse(~np.isfinite(rows), rows, first, "not a finite number")


def _refuse(wrong: np.ndarray[Any, np.dtype[np.bool_]], rows: Floats, first: int, why: str) -> None:
    if wrong.any():
        i, j = (int(i) for i in np.unravel_index(int(wrong.argmax()), rows.shape))
        raise ValueError(f"the weight at [{first + i}, {j}] is {rows[i, j]}, {why}")


def check_importance(importance: np.ndarray[Any, Any], k: int) -> Floats | None:
    """As float32[k], the greatest 1; None when all are alike. ValueError unless it is float[k], finite, from 0 on."""
    given = np.asarray(importance, np.float64)
    if given.shape != (k,):
        raise ValueError(f"importance must have the shape [{k}], not {list(given.shape)}")
    wrong = ~(np.isfinite(given) & (given >= 0))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"the importance of column {i} is {given[i]}, not a finite number from 0 on")
    greatest = float(given.max(initial=0.0))
    return None if (given == greatest).all() else (given / greatest).astype(np.float32)


def _plain(rows: Floats, kind: TensorType, first: int) -> Bytes:
    """F32, F16 (rounded), BF16 (rounded to nearest, ties to even)."""
    if kind.name == "F32":
        return rows.astype("<f4").view(np.uint8)
    if kind.name == "BF16":
        bits = rows.view(np.uint32)
        bits = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
        short = (bits >> np.uint32(16)).astype("<u2")
        wrong = short & np.uint16(0x7F80) == np.uint16(0x7F80)
    else:
        with np.errstate(over="ignore"):
            short = rows.astype("<f2")
        wrong = ~np.isfinite(short)
    _refuse(wrong, rows, first, f"too large for {kind.name}")
    return short.view(np.uint8)


def _quantized(blocks: Floats, kind: TensorType, weights: Floats | None, first: int) -> Bytes:
    """float32[n, block] as uint8[n, size]; `first`: which block of the tensor blocks[0] is."""
    part, how = _BLOCKS[kind.name]
    parts = kind.block // part
    exponent: Ints = np.frexp(np.abs(blocks).max(axis=1))[1].astype(np.int32)
    x = np.ldexp(blocks, -exponent[:, None]).reshape(-1, part).T
    w = None
    if weights is not None:
        per_row = weights.reshape(-1, part)
        which = np.arange(first * parts, (first + len(blocks)) * parts) % len(per_row)
        w = np.ascontiguousarray(per_row[which].T)
        w[:, w.max(axis=0) == 0] = 1  # a part that no input reaches
    return how(Columns(np.ascontiguousarray(x), w), exponent)


def _spread(work: Callable[[tuple[int, int]], None], pieces: list[tuple[int, int]], threads: int) -> None:
    if threads == 1 or len(pieces) == 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, pieces):
            pass
