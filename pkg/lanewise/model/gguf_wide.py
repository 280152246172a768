"""Types of GGUF that have no packed class of their own, as blocks of a wider class that holds the same values.

Code words are spelt out: a level becomes an index into the table of its class (csrc/quant.h). Blocks of these classes
are no type of GGUF: 256 values in 148 bytes, d (float32), 16 scales (int8), and the indices in nibbles, values 0 to 127
the low ones, 128 to 255 the high ones; a value is (d * scale) * level. TQ, with levels -1, 0 and 1, are blocks of Q3_K
with scales of 1. The values are those of gguf_types bit for bit, for all scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .gguf_books import PARTS, Parts
from .gguf_fields import EACH, LOW_HIGH, PAIRS, Array, Bytes
from .quantize_32 import join

# The levels of each class by index, as in csrc/quant.h: of IQ2 types, and in eighths of IQ1 types; IQ3_XXS; IQ3_S.
LEVELS: dict[str, tuple[int, ...]] = {
    "iq2_w": (-43, -25, -9, -8, -7, -1, 0, 1, 7, 8, 9, 25, 43),
    "iq3_xxs_w": (-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62),
    "iq3_s_w": tuple(range(-15, 16, 2)),
}
# type -> the class
WIDER = {
    "IQ1_S": "iq2_w", "IQ1_M": "iq2_w", "IQ2_XXS": "iq2_w", "IQ2_XS": "iq2_w", "IQ2_S": "iq2_w",
    "IQ3_XXS": "iq3_xxs_w", "IQ3_S": "iq3_s_w", "TQ1_0": "q3_k", "TQ2_0": "q3_k",
}  # fmt: skip
_SLICE = 1 << 20  # elements at a time


def widened(rows: Bytes, type: str, size: int, order: Sequence[int] | Array | None = None) -> Bytes:
    """uint8[n, bytes of a row] of a type in WIDER, `size` bytes a block, as blocks of its class, uint8[n, bytes].

    order: which row comes where (result i is row order[i]).
    """
    n, blocks = len(rows), rows.shape[1] // size
    write, wide = _WRITERS[WIDER[type]]
    out: Bytes = np.empty((n, blocks * wide), np.uint8)
    step = max(1, _SLICE // max(1, 256 * blocks))
    with np.errstate(all="ignore"):  # scales may be infinite or NaN: whoever asks for the values will see them
        for start in range(0, n, step):
            stop = min(start + step, n)
            part = rows[start:stop] if order is None else rows[np.asarray(order)[start:stop]]
            parts = PARTS[type](np.ascontiguousarray(part).reshape(-1, size))
            out[start:stop] = write(parts).reshape(stop - start, -1)
    return out


def _table(format: str) -> Callable[[Parts], Bytes]:
    index = np.zeros(256, np.uint8)
    index[np.array(LEVELS[format], np.int8).view(np.uint8)] = np.arange(len(LEVELS[format]))

    def write(parts: Parts) -> Bytes:
        scales = np.repeat(parts.scales, 16 // parts.scales.shape[1], axis=1)
        codes = join(index[parts.levels.view(np.uint8)], 128, LOW_HIGH)
        return np.concatenate([parts.d.astype("<f4").view(np.uint8), scales.view(np.uint8), codes], axis=1)

    return write


def _q3_k(parts: Parts) -> Bytes:
    """hmask[32] qs[64] scales[12] d: codes are 4 higher, scales 32: each 33."""
    codes = (parts.levels + np.int8(4)).view(np.uint8)
    out: Bytes = np.empty((len(codes), 110), np.uint8)
    out[:, :32] = join(codes >> np.uint8(2), 32, EACH)
    out[:, 32:96] = join(codes & np.uint8(3), 32, PAIRS)
    out[:, 96:104], out[:, 104:108] = 0x11, 0xAA
    out[:, 108:] = parts.d.astype("<f2").view(np.uint8)
    return out


_WRITERS: dict[str, tuple[Callable[[Parts], Bytes], int]] = {
    **{format: (_table(format), 148) for format in LEVELS}, "q3_k": (_q3_k, 110),
}  # fmt: skip
