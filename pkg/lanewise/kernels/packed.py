"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _native
from . import contexts
from .arrays import Float32, array, float32, vector
from .quantised import quantize, quantized

Format = Literal["float32", "bfloat16", "int8"]
FORMATS: tuple[Format, ...] = ("float32", "bfloat16", "int8")
LANES = 16
# Quantised types that products take as they are: values in a block, and its bytes. Those of GGUF; and the wider classes
# of its types IQ1, IQ2 and IQ3, whose blocks are d (float32), 16 scales (int8) and 256 nibbles (docs/layouts.md).
QUANTISED = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q2_k": (256, 84),
    "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210), "iq4_nl": (32, 18),
    "iq4_xs": (256, 136), "mxfp4": (32, 17), "iq2_w": (256, 148), "iq3_xxs_w": (256, 148), "iq3_s_w": (256, 148),
}  # fmt: skip


class PackedMatrix:
    """A matrix [n, k] of weights in the order in which the kernels read it; made by `pack` or `pack_gated`.

    scales: float32 [n] for int8 weights that stand for scale * integer, else None. gated: the number of outputs of a
    matrix that `pack_gated` made (n counts both halves, each padded to 16), else 0.
    """

    __slots__ = ("_weight", "dtype", "gated", "scales", "shape")

    def __init__(self, weight: _native.Weight, scales: Float32 | None = None, gated: int = 0) -> None:
        self.shape = (weight.n, weight.k)
        self.dtype = weight.format
        self.scales = scales
        self.gated = gated
        self._weight = weight

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def unpack(self) -> Float32:
        """The weights as float32 [n, k], exactly as they were packed, times their scales if they have some."""
        out = np.empty(self.shape, np.float32)
        self._weight.unpack(0, out)
        if self.scales is not None:
            out *= self.scales[:, None]
        return out

    def alternated(self, pair: Float32) -> Float32:
        """[2, gated] in the order of the rows: 16 of the first, 16 of the second, ..."""
        return _alternate(pair[0], pair[1])

    def __repr__(self) -> str:
        return f"PackedMatrix({self.shape[0]} x {self.shape[1]} {self.dtype}, {self.nbytes} bytes)"


def pack(
    w: Any, dtype: str | None = None, *, source: Literal["bfloat16"] | None = None, scales: Any = None
) -> PackedMatrix:
    """Packs w [n, k] (rows are outputs) for `gemm`.

    dtype is what is kept: by default int8 for int8 arrays, bfloat16 for bfloat16 arrays, else float32. float32 keeps
    every value exactly; bfloat16 rounds to nearest even. int8 keeps an int8 array exactly, with `scales` [n] if given;
    floating point w is rounded to nearest even with one scale per row, its largest magnitude / 127.
    A quantised type of GGUF, as "q4_k", takes what `quantize` makes of a floating point w.
    source="bfloat16" says that a uint16 array holds the bits of bfloat16 values.
    """
    if dtype in QUANTISED:
        if scales is not None:
            raise ValueError(f"scales: {dtype} finds its own")
        return pack_blocks(quantize(w if source is None else _widened("w", w, source), dtype), dtype)
    if dtype is not None and dtype not in FORMATS:
        raise ValueError(f"dtype: one of {', '.join((*FORMATS, *QUANTISED))} expected, got {dtype!r}")
    bits, type_ = _bits("w", w, source)
    dtype = dtype or (type_ if type_ in ("bfloat16", "int8") else "float32")
    if type_ == "int8" and dtype != "int8":
        raise TypeError(f"w: floating point expected for {dtype}, got int8")
    if scales is not None and type_ != "int8":
        raise ValueError("scales: only an int8 w takes scales; a floating point w gets its own")
    found = vector("scales", scales, len(bits))
    if dtype == "int8" and type_ != "int8":
        bits, found = quantize_rows(w if source is None else _widened("w", w, source))
        type_ = "int8"
    weight = _native.Weight(dtype, *bits.shape)
    with contexts.borrowed() as ctx:
        weight.pack(ctx, bits if bits.flags.aligned else bits.copy(), type_)
    return PackedMatrix(weight, None if found is None else found.copy())


def pack_blocks(rows: Any, dtype: str) -> PackedMatrix:
    """Packs quantised rows, as those of a GGUF file, for `gemm`, losslessly.

    rows is uint8 [n, bytes of a row], dtype the type of their blocks in lower case: one of QUANTISED. In products the
    activations are rounded to 8 bits (docs/numerics.md).
    """
    if dtype not in QUANTISED:
        raise ValueError(f"dtype: one of {', '.join(QUANTISED)} expected, got {dtype!r}")
    rows = np.asarray(rows)
    if rows.dtype != np.uint8:
        raise TypeError(f"rows: uint8 expected, got {rows.dtype.name}")
    if rows.ndim != 2:
        raise ValueError(f"rows: a matrix [outputs, bytes] expected, got {rows.ndim} dimensions")
    block, size = QUANTISED[dtype]
    if rows.shape[1] % size:
        raise ValueError(f"rows: whole blocks of {size} bytes expected, got rows of {rows.shape[1]}")
    weight = _native.Weight(dtype, rows.shape[0], rows.shape[1] // size * block)
    with contexts.borrowed() as ctx:
        weight.pack(ctx, np.ascontiguousarray(rows), "blocks")
    return PackedMatrix(weight)


def pack_gated(gate: Any, up: Any, dtype: str | None = None) -> PackedMatrix:
    """Packs the two matrices [n, k] of a gated layer side by side: `gemm` then gives activation(a @ gate) * (a @ up).

    dtype as for `pack`; int8 and the quantised types take floating point matrices only.
    """
    if dtype is not None and dtype not in FORMATS and dtype not in QUANTISED:
        raise ValueError(f"dtype: one of {', '.join((*FORMATS, *QUANTISED))} expected, got {dtype!r}")
    (g, g_type), (u, u_type) = _bits("gate", gate, None), _bits("up", up, None)
    if g.shape != u.shape or g_type != u_type:
        raise ValueError(
            f"up: shape and type of gate, {list(g.shape)} {g_type}, expected, got {list(u.shape)} {u_type}"
        )
    if g_type == "int8":
        raise TypeError("gate: floating point expected, got int8")
    dtype = dtype or ("bfloat16" if g_type == "bfloat16" else "float32")
    n, outputs, inputs = -(-len(g) // LANES) * LANES, *g.shape
    scales = None
    if dtype == "int8":
        (g, gate_scales), (u, up_scales) = quantize_rows(gate), quantize_rows(up)
        scales, g_type = _alternate(gate_scales, up_scales), "int8"
    elif dtype in QUANTISED:
        g, u, g_type = quantized("gate", gate, dtype), quantized("up", up, dtype), "blocks"
    weight = _native.Weight(dtype, 2 * n, inputs)
    with contexts.borrowed() as ctx:
        for half, bits in ((0, g), (LANES, u)):
            weight.pack(ctx, bits if bits.flags.aligned else bits.copy(), g_type, half, 2)
    return PackedMatrix(weight, scales, outputs)


def quantize_rows(w: Any) -> tuple[NDArray[np.int8], Float32]:
    """(int8 [n, k], scales [n]): w / scale, nearest even; scale = largest magnitude of the row / 127."""
    w = float32("w", w)
    if not np.isfinite(w).all():
        row, column = np.argwhere(~np.isfinite(w))[0]
        raise ValueError(f"w: finite values expected, got {w[row, column]} in row {row}, column {column}")
    scales = np.abs(w).max(1, initial=0.0).astype(np.float32) / np.float32(127)
    whole = np.rint(w / np.where(scales > 0, scales, 1)[:, None])
    return np.clip(whole, -127, 127).astype(np.int8), scales


def _bits(name: str, w: Any, source: Literal["bfloat16"] | None) -> tuple[NDArray[Any], str]:
    """w as the binding takes it, and the name of its element type."""
    if source not in (None, "bfloat16"):
        raise ValueError(f"source: None or 'bfloat16' expected, got {source!r}")
    bits = np.asarray(w)
    if source is not None:
        if bits.dtype != np.uint16:
            raise TypeError(f"{name}: uint16 expected where source is 'bfloat16', got {bits.dtype.name}")
        type_ = "bfloat16"
    elif bits.dtype == np.int8:
        type_ = "int8"
    else:
        bits = array(name, bits)
        type_ = bits.dtype.name
        bits = bits.view(np.uint16) if type_ == "bfloat16" else bits
    if bits.ndim != 2:
        raise ValueError(f"{name}: a matrix [outputs, inputs] expected, got {bits.ndim} dimensions")
    return bits, type_


def _widened(name: str, w: Any, source: Literal["bfloat16"]) -> Float32:
    """The float32 values of an array that holds the bits of bfloat16."""
    bits, _ = _bits(name, w, source)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _alternate(first: Float32, second: Float32) -> Float32:
    n = -(-len(first) // LANES) * LANES
    out = np.zeros((2, n), np.float32)
    out[0, : len(first)], out[1, : len(second)] = first, second
    return np.ascontiguousarray(out.reshape(2, -1, LANES).swapaxes(0, 1)).reshape(-1)
