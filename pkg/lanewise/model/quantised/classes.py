"""Integer codes in groups as blocks of the packed classes, where these hold the same numbers.

A class of the small types of GGUF has blocks of 32 with one float16 scale: d * (code - middle). (code - zero) * scale
is that if the 32 inputs share a group, the scale is a float16, and code - zero lies in the range of the class. Both
products are exact in float32, so the values are equal bit for bit. Layouts as in gguf_types.

Act-order (GPTQ, `desc_act`) scatters the inputs of a group over the row. Sorted by group they are blocks again, and the
product gathers its activations in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..quantize_32 import high_bits, nibbles
from .codes import Array, Bytes

BLOCK = 32


@dataclass(frozen=True, slots=True)
class _Class:
    """A packed class whose values are d * (code - middle), code of `bits` bits, in blocks of `size` bytes."""

    format: str
    bits: int
    middle: int
    size: int


_CLASSES = (_Class("q4_0", 4, 8, 18), _Class("q5_0", 5, 16, 22), _Class("q8_0", 8, 128, 34))


def fitting(scales: Array, zeros: Array, bits: int) -> str | None:
    """The smallest class for codes of `bits` bits with any of these zero points and scales; None: there is none."""
    if not _halves(scales):
        return None
    least, most = -int(zeros.max()), (1 << bits) - 1 - int(zeros.min())
    for c in _CLASSES:
        if -c.middle <= least and most < (1 << c.bits) - c.middle:
            return c.format
    return None


def _halves(scales: Array) -> bool:
    if scales.dtype == np.float16:
        return True
    with np.errstate(over="ignore"):
        return bool((scales.astype(np.float16).astype(np.float32) == scales).all())


@dataclass(frozen=True, slots=True)
class Layout:
    """How the inputs of a row become blocks. where: the group of each block. order: the input in each place, int32[k],
    a permutation; None: they are taken as they come."""

    where: Array
    order: Array | None = None


def layout(k: int, group: int, g_idx: Array | None) -> Layout | None:
    """None unless k is made of blocks, and each lies in one group, after a stable sort of the inputs by group at worst.

    g_idx: int[k], the group of each input, from 0 on; None: input // group.
    """
    if k % BLOCK or (g_idx is None and group % BLOCK and group < k):
        return None
    if g_idx is None:
        return Layout(np.arange(0, k, BLOCK) // group)
    if (found := _of_blocks(g_idx)) is not None:
        return Layout(found)
    order = np.argsort(g_idx, kind="stable").astype(np.int32)
    found = _of_blocks(g_idx[order])
    return None if found is None else Layout(found, order)


def _of_blocks(g_idx: Array) -> Array | None:
    found = g_idx.reshape(-1, BLOCK)
    return found[:, 0].copy() if (found == found[:, :1]).all() else None


def write(format: str, codes: Bytes, scales: Array, zeros: Array) -> Bytes:
    """uint8[n, k] with a scale and a zero point for each 32, [n, k / 32], as blocks: uint8[n, bytes]."""
    c = next(c for c in _CLASSES if c.format == format)
    n = len(codes)
    middle = c.middle if c.bits < 8 else 0  # bytes are stored signed
    by = (middle - zeros.astype(np.int16)).astype(np.uint8)  # modulo 256, as the sum
    q = (codes.reshape(n, -1, BLOCK) + by[:, :, None]).reshape(-1, BLOCK)
    out: Bytes = np.empty((len(q), c.size), np.uint8)
    out[:, :2] = np.ascontiguousarray(scales).astype("<f2").reshape(-1, 1).view(np.uint8)
    if c.bits == 8:
        out[:, 2:] = q
    else:
        out[:, -16:] = nibbles(q)
    if c.bits == 5:
        out[:, 2:6] = high_bits(q)
    return out.reshape(n, -1)
