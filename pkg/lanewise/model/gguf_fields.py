"""Fields of GGUF's blocks: numbers and bit fields at their places in uint8[blocks, bytes]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Array = np.ndarray[Any, Any]


def f16(b: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, as float32[n, 1]."""
    return wide(b, at, at + 2, "<f2").astype(np.float32)


def wide(b: Bytes, start: int, stop: int, dtype: str) -> Array:
    """Bytes start:stop of each block as numbers of `dtype`."""
    return np.ascontiguousarray(b[:, start:stop]).view(dtype)


def fields(x: Array, run: int, shifts: Sequence[int], mask: int) -> Array:
    """Bit fields: of each `run` of numbers first the field at shifts[0] of all, then that at shifts[1], ..."""
    by = np.array(shifts, x.dtype)[:, None]
    found: Array = (x.reshape(len(x), -1, 1, run) >> by) & x.dtype.type(mask)
    return found.reshape(len(x), -1)


def bits(x: Bytes) -> Bytes:
    """The bits of each byte, the lowest first."""
    return np.unpackbits(np.ascontiguousarray(x), axis=-1, bitorder="little")


def f32(x: Array) -> Floats:
    return x.astype(np.float32)


def signed(x: Array, zero: int) -> Floats:
    """Unsigned codes less their zero point, exactly."""
    return f32(x.astype(np.int16) - np.int16(zero))


def runs(scale: Floats, q: Floats) -> Floats:
    """scale[n, m] times q, each scale over its share of q[n, ...]."""
    return scale[:, :, None] * q.reshape(len(q), scale.shape[1], -1)


LOW_HIGH, PAIRS, EACH = (0, 4), (0, 2, 4, 6), tuple(range(8))
