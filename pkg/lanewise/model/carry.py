"""Quantised blocks as those of a wider class that has every value of theirs: the same scales, and codes that fit.

Gate and up lie in one matrix, panel by panel, and so in one class; a file may hold them in two. The values are the same
bit for bit, for all scales. Types with minima and types without have no class in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .gguf_fields import EACH, LOW_HIGH, PAIRS, Bytes, bits, fields
from .gguf_types import IQ4
from .quantize_32 import high_bits, join, nibbles

# class -> the wider ones, the smallest first
_WIDER: dict[str, tuple[str, ...]] = {
    "q4_0": ("q5_0", "q8_0"), "q5_0": ("q8_0",), "iq4_nl": ("q8_0",), "q4_1": ("q5_1",), "q4_k": ("q5_k",),
    "q3_k": ("q6_k",),
}  # fmt: skip
_SLICE = 1 << 20  # bytes at a time


def holders(format: str) -> tuple[str, ...]:
    """The formats that hold all values of this one, itself first."""
    return (format, *_WIDER.get(format, ()))


def common(formats: Sequence[str]) -> str | None:
    """The smallest format that holds the values of all of these; None: there is none."""
    return next((one for one in holders(formats[0]) if all(one in holders(other) for other in formats)), None)


def carried(rows: Bytes, source: str, target: str) -> Bytes:
    """Rows of blocks of one class as those of one of its holders."""
    if source == target:
        return rows
    size, wider, write = _WRITERS[source, target]
    out: Bytes = np.empty((len(rows), rows.shape[1] // size * wider), np.uint8)
    step = max(1, _SLICE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step])
        out[start : start + step] = write(part.reshape(-1, size)).reshape(len(part), -1)
    return out


def _with(*parts: Bytes) -> Bytes:
    out: Bytes = np.concatenate(parts, axis=1)
    return out


def _zeros(b: Bytes, n: int) -> Bytes:
    return np.zeros((len(b), n), np.uint8)


def _codes4(b: Bytes) -> Bytes:
    codes: Bytes = fields(b[:, 2:], 16, LOW_HIGH, 15)
    return codes


def _codes5(b: Bytes) -> Bytes:
    codes: Bytes = fields(b[:, 6:], 16, LOW_HIGH, 15) | bits(b[:, 2:6]) << 4
    return codes


def _q5_0(b: Bytes) -> Bytes:
    codes = _codes4(b) + np.uint8(8)  # the zero is 16, not 8
    return _with(b[:, :2], high_bits(codes), nibbles(codes))


def _q6_k(b: Bytes) -> Bytes:
    """hmask[32] qs[64] scales[12] d as ql[128] qh[64] scales[16] d: the zero is 32, not 4, and scales have a sign."""
    codes = (fields(b[:, 32:96], 32, PAIRS, 3) | fields(b[:, :32], 32, EACH, 1) << 2) + np.uint8(28)
    scales = fields(b[:, 96:104], 8, LOW_HIGH, 15) | fields(b[:, 104:108], 4, PAIRS, 3) << 4
    low, high = join(codes & np.uint8(15), 64, LOW_HIGH), join(codes >> np.uint8(4), 32, PAIRS)
    return _with(low, high, scales - np.uint8(32), b[:, 108:])


# (class, wider class) -> bytes of a block of either, and what writes the second
_WRITERS: dict[tuple[str, str], tuple[int, int, Callable[[Bytes], Bytes]]] = {
    ("q4_0", "q5_0"): (18, 22, _q5_0),
    ("q4_0", "q8_0"): (18, 34, lambda b: _with(b[:, :2], _codes4(b) - np.uint8(8))),
    ("q5_0", "q8_0"): (22, 34, lambda b: _with(b[:, :2], _codes5(b) - np.uint8(16))),
    ("iq4_nl", "q8_0"): (18, 34, lambda b: _with(b[:, :2], np.array(IQ4, np.int8).view(np.uint8)[_codes4(b)])),
    ("q4_1", "q5_1"): (20, 24, lambda b: _with(b[:, :4], _zeros(b, 4), b[:, 4:])),
    ("q4_k", "q5_k"): (144, 176, lambda b: _with(b[:, :16], _zeros(b, 32), b[:, 16:])),
    ("q3_k", "q6_k"): (110, 210, _q6_k),
}
