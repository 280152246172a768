"""Numbers as quantised checkpoints hold them, and what they mean: integer codes in groups, 8- and 4-bit floats.

Each definition is the format's own, computed in float32. A code less its zero point is a small whole number and a
scale of 16 bits has 11 significant bits at most, so their product is exact; libraries that multiply in float16 or
bfloat16 round it. A scale of 32 bits gives one product that is rounded once, as in the library computing in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Array = np.ndarray[Any, Any]
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@dataclass(frozen=True, slots=True)
class GroupedInt:
    """Rows of a matrix as codes: w[i, j] = (codes[i, j] - zeros[i, g]) * scales[i, g], input j being in group g.

    codes: uint8[n, k]; signed codes are held 128 (or half of their range) higher, and so are their zeros.
    scales: float16 or float32[n, groups]. zeros: integers[n, groups]. group: inputs in a group; the last may have
    fewer. g_idx: integers[k], the group of each input; None: j // group.
    """

    codes: Bytes
    scales: Array
    zeros: Array
    group: int
    g_idx: Array | None = None

    def values(self) -> Floats:
        """float32[n, k]."""
        n, k = self.codes.shape
        out = self.codes.astype(np.float32)
        scales, zeros = self.scales.astype(np.float32), self.zeros.astype(np.float32)
        groups = scales.shape[1]
        if self.g_idx is None and groups * self.group == k:
            parts = out.reshape(n, groups, self.group)
            parts -= zeros[:, :, None]
            parts *= scales[:, :, None]
            return out
        where = np.arange(k) // self.group if self.g_idx is None else self.g_idx
        out -= zeros.take(where, axis=1)
        out *= scales.take(where, axis=1)
        return out


def unpacked(words: Array, bits: int, count: int) -> Bytes:
    """The first `count` fields of `bits` bits of each row of int32[n, words], the lowest bits of the first word first.

    bits: 2, 3, 4 or 8. Fields follow each other without a gap, so one of three bits may lie in two words.
    """
    raw: Bytes = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return raw[:, :count]
    if bits == 3:  # eight fields in three bytes
        raw = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 3))).reshape(len(raw), -1, 3).astype(np.uint32)
        wide = raw[:, :, 0] | raw[:, :, 1] << np.uint32(8) | raw[:, :, 2] << np.uint32(16)
        shifts = np.arange(0, 24, 3, dtype=np.uint32)
        some: Bytes = (wide[:, :, None] >> shifts & np.uint32(7)).astype(np.uint8).reshape(len(raw), -1)[:, :count]
        return some
    each = 8 // bits
    fields: Bytes = np.empty((len(raw), raw.shape[1] * each), np.uint8)
    for i in range(each):
        np.bitwise_and(raw >> np.uint8(i * bits), np.uint8((1 << bits) - 1), out=fields[:, i::each])
    return fields[:, :count]


def bfloat16(x: Array) -> Floats:
    """bfloat16 in uint16 as float32."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def e8m0(x: Array) -> Floats:
    """Exponents of OCP MX: 2^(x - 127); 255 is NaN."""
    out = np.ldexp(np.float32(1), np.minimum(x, 254).astype(np.int32) - 127)
    return np.where(x == 255, np.float32(np.nan), out).astype(np.float32)


def _e4m3() -> Floats:
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = np.where(exponent, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(fraction * 1.0, -9))
    size = np.where(codes & 127 == 127, np.nan, size)
    return np.where(codes >> 7, -size, size).astype(np.float32)


# What each code of OCP FP8 E4M3 means: bias 7, no infinities, 0x7F and 0xFF are NaN.
E4M3 = _e4m3()


def mxfp4(blocks: Bytes, scales: Bytes) -> Floats:
    """OCP MXFP4: uint8[n, blocks, 16], the lower four bits first, times uint8[n, blocks] E8M0, as float32[n, k]."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1)
    with np.errstate(over="ignore"):
        values = _E2M1[codes] * e8m0(scales)[:, :, None, None]
    return values.reshape(len(blocks), -1)
