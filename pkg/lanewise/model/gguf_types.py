"""The tensor types of GGUF: what a block of each holds, and its values as float32, bit for bit as the format says.

A row of a matrix is a run of blocks; the last bytes of one row are followed by the first of the next. Layouts and
formulas are those of ggml (ggml-common.h, ggml-quants.c) and of the `gguf` package (gguf.quants), which the tests
compare with: the same products and sums, in the same order, in float32. `d` is a block's scale, `q` a code.

Expanding is lossless and takes 4 bytes a weight. It goes over a tensor in slices of rows, so that what is needed on
the way stays small beside the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .gguf_books import PARTS, Parts
from .gguf_fields import EACH, LOW_HIGH, PAIRS, Array, Bytes, Floats, bits, f16, f32, fields, runs, signed, wide

_SLICE = 1 << 20  # elements expanded at a time
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # doubled


@dataclass(frozen=True, slots=True)
class TensorType:
    """`block` elements in `size` bytes. view: NumPy type of a plain number; values: from bytes [n, size] to float32.

    Neither: a type that is known (so that a file that has it can be read) but not expanded.
    """

    name: str
    block: int
    size: int
    view: str | None = None
    values: Callable[[Bytes], Floats] | None = None


def expand(rows: Bytes, kind: TensorType, order: Sequence[int] | Array | None = None) -> Floats:
    """uint8[n, bytes of a row] as float32[n, elements]; `order`: which row comes where (result i is row order[i]).

    Raises ValueError for a type that is not expanded, or a width that is no whole number of blocks.
    """
    n, width = rows.shape
    if width % kind.size or (kind.values is None and kind.name not in ("F32", "F16")):
        raise ValueError(f"{kind.name} of {width} bytes a row cannot be expanded")
    columns = width // kind.size * kind.block
    out = np.empty((n, columns), np.float32)
    if not out.size:
        return out
    step = max(1, _SLICE // columns)
    with np.errstate(all="ignore"):  # scales may be infinite or NaN: whoever asks for the values will see them
        for start in range(0, n, step):
            stop = min(start + step, n)
            part = rows[start:stop] if order is None else rows[np.asarray(order)[start:stop]]
            if kind.values is None:
                out[start:stop] = np.ascontiguousarray(part).view(kind.view or "u1")
            else:
                blocks = np.ascontiguousarray(part).reshape(-1, kind.size)
                out[start:stop] = kind.values(blocks).reshape(stop - start, columns)
    return out


# ---- blocks of 32 ----


def _q4_0(b: Bytes) -> Floats:
    return f16(b, 0) * signed(fields(b[:, 2:], 16, LOW_HIGH, 15), 8)


def _q4_1(b: Bytes) -> Floats:
    return f16(b, 0) * f32(fields(b[:, 4:], 16, LOW_HIGH, 15)) + f16(b, 2)


def _q5_0(b: Bytes) -> Floats:
    return f16(b, 0) * signed(fields(b[:, 6:], 16, LOW_HIGH, 15) | bits(b[:, 2:6]) << 4, 16)


def _q5_1(b: Bytes) -> Floats:
    return f16(b, 0) * f32(fields(b[:, 8:], 16, LOW_HIGH, 15) | bits(b[:, 4:8]) << 4) + f16(b, 2)


def _q8_0(b: Bytes) -> Floats:
    return f32(wide(b, 2, 34, "i1")) * f16(b, 0)


def _iq4_nl(b: Bytes) -> Floats:
    return f16(b, 0) * np.array(IQ4, np.float32)[fields(b[:, 2:], 16, LOW_HIGH, 15)]


def _mxfp4(b: Bytes) -> Floats:
    """The scale is E8M0: half of 2^(e - 127), since the codes are doubled; e = 0 and 1 are subnormal."""
    e = b[:, :1].astype(np.uint32)
    half = np.where(e < 2, np.uint32(0x00200000) << np.minimum(e, 1), (np.maximum(e, 1) - 1) << 23).astype(np.uint32)
    return half.view(np.float32) * np.array(E2M1, np.float32)[fields(b[:, 1:], 16, LOW_HIGH, 15)]


# ---- blocks of 256: K ----


def _q2_k(b: Bytes) -> Floats:
    low = runs(f16(b, 80) * f32(b[:, :16] & 15), f32(fields(b[:, 16:80], 32, PAIRS, 3)))
    return low - (f16(b, 82) * f32(b[:, :16] >> 4))[:, :, None]


def _q3_k(b: Bytes) -> Floats:
    """hmask[32] qs[64] scales[12] d: a set bit of the mask means that 4 is not subtracted."""
    scales = fields(b[:, 96:104], 8, LOW_HIGH, 15) | fields(b[:, 104:108], 4, PAIRS, 3) << 4
    q = fields(b[:, 32:96], 32, PAIRS, 3) | fields(b[:, :32], 32, EACH, 1) << 2
    return runs(f16(b, 108) * signed(scales, 32), signed(q, 4))


def _scales_mins(s: Bytes) -> tuple[Floats, Floats]:
    """12 bytes hold 8 scales and 8 minima of 6 bits; the high bits of the last 4 of each lie above the first 4."""
    a, b, c = s[:, :4], s[:, 4:8], s[:, 8:]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 2 & 0x30)], axis=1)
    return f32(scales), f32(np.concatenate([b & 63, (c >> 4) | (b >> 2 & 0x30)], axis=1))


def _k_with_minimum(b: Bytes, q: Array) -> Floats:
    scales, minima = _scales_mins(b[:, 4:16])
    return runs(f16(b, 0) * scales, f32(q)) - (f16(b, 2) * minima)[:, :, None]


def _q4_k(b: Bytes) -> Floats:
    return _k_with_minimum(b, fields(b[:, 16:], 32, LOW_HIGH, 15))


def _q5_k(b: Bytes) -> Floats:
    return _k_with_minimum(b, fields(b[:, 48:], 32, LOW_HIGH, 15) | fields(b[:, 16:48], 32, EACH, 1) << 4)


def _q6_k(b: Bytes) -> Floats:
    q = fields(b[:, :128], 64, LOW_HIGH, 15) | fields(b[:, 128:192], 32, PAIRS, 3) << 4
    return runs(f16(b, 208) * f32(wide(b, 192, 208, "i1")), signed(q, 32))


def _iq4_xs(b: Bytes) -> Floats:
    high = wide(b, 2, 4, "<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = fields(b[:, 4:8], 1, LOW_HIGH, 15) | high << 4
    return runs(f16(b, 0) * signed(scales, 32), np.array(IQ4, np.float32)[fields(b[:, 8:], 16, LOW_HIGH, 15)])


# ---- blocks of 256: levels of a code book ----


def _levels(name: str) -> Callable[[Bytes], Floats]:
    def values(b: Bytes) -> Floats:
        parts: Parts = PARTS[name](b)
        return runs(parts.d * f32(parts.scales), f32(parts.levels))

    return values


def _bf16(b: Bytes) -> Floats:
    return (b.view("<u2").astype(np.uint32) << 16).view(np.float32)


# The numbers by which files name the types. Blocks of types that are not expanded are those of ggml.
TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4, "<f4"), 1: TensorType("F16", 1, 2, "<f2"), 30: TensorType("BF16", 1, 2, "<u2", _bf16),
    24: TensorType("I8", 1, 1, "i1"), 25: TensorType("I16", 1, 2, "<i2"), 26: TensorType("I32", 1, 4, "<i4"),
    27: TensorType("I64", 1, 8, "<i8"), 28: TensorType("F64", 1, 8, "<f8"),
    2: TensorType("Q4_0", 32, 18, None, _q4_0), 3: TensorType("Q4_1", 32, 20, None, _q4_1),
    6: TensorType("Q5_0", 32, 22, None, _q5_0), 7: TensorType("Q5_1", 32, 24, None, _q5_1),
    8: TensorType("Q8_0", 32, 34, None, _q8_0), 9: TensorType("Q8_1", 32, 36),
    20: TensorType("IQ4_NL", 32, 18, None, _iq4_nl), 39: TensorType("MXFP4", 32, 17, None, _mxfp4),
    10: TensorType("Q2_K", 256, 84, None, _q2_k), 11: TensorType("Q3_K", 256, 110, None, _q3_k),
    12: TensorType("Q4_K", 256, 144, None, _q4_k), 13: TensorType("Q5_K", 256, 176, None, _q5_k),
    14: TensorType("Q6_K", 256, 210, None, _q6_k), 15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66, None, _levels("IQ2_XXS")),
    17: TensorType("IQ2_XS", 256, 74, None, _levels("IQ2_XS")),
    22: TensorType("IQ2_S", 256, 82, None, _levels("IQ2_S")),
    18: TensorType("IQ3_XXS", 256, 98, None, _levels("IQ3_XXS")),
    21: TensorType("IQ3_S", 256, 110, None, _levels("IQ3_S")),
    19: TensorType("IQ1_S", 256, 50, None, _levels("IQ1_S")),
    29: TensorType("IQ1_M", 256, 56, None, _levels("IQ1_M")), 23: TensorType("IQ4_XS", 256, 136, None, _iq4_xs),
    34: TensorType("TQ1_0", 256, 54, None, _levels("TQ1_0")), 35: TensorType("TQ2_0", 256, 66, None, _levels("TQ2_0")),
    40: TensorType("NVFP4", 64, 36), 41: TensorType("Q1_0", 128, 18),
}  # fmt: skip
# Numbers that had a meaning once; files with them have to be converted anew.
REMOVED: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip
