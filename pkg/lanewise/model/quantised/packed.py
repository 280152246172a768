"""GPTQ and AWQ: codes of a few bits packed into int32 words, the matrix stored with its inputs first.

GPTQ as AutoGPTQ and GPTQModel write it (gptqmodel/nn_modules/qlinear, gptqmodel/utils/model.py): eight 4-bit codes of
consecutive inputs in a word; zero points packed along the outputs; g_idx names the group of each input. The first
format ("gptq") holds zero points one lower. As GPTQModel, which subtracts when it writes and adds when it reads, the
addition is that of whole words, so that what a zero point of 0 borrowed from its neighbour comes back; but for 3 bits
it is that of each field.

AWQ, version gemm, as AutoAWQ writes it (awq/modules/linear/gemm.py): eight codes of consecutive outputs in a word, in
the order 0 2 4 6 1 3 5 7, zero points alike.
"""

from __future__ import annotations

import numpy as np

from ...errors import shorten
from ..config import MAX_WIDTH, Fields
from .codes import Array, Bytes, unpacked
from .stored import FLOATS, Module, Scheme, Stored, StoredInt

_WORDS = ("I32",)
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}  # a one in each field
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where AWQ puts the codes of outputs 0 to 7


def group_size(fields: Fields, key: str = "group_size") -> int | None:
    """Inputs in a group; None (-1 in the file): all. LoadError."""
    size = fields.integer(key, -1, low=-1, high=MAX_WIDTH)
    if size == 0:
        raise fields.error(key, "is 0, not a positive number, nor -1 for all inputs")
    return None if size == -1 else size


def _in_groups(group: int | None) -> str:
    return "one group a row" if group is None else f"groups of {group}"


class Gptq(Scheme):
    """quant_method "gptq"."""

    marks = (".qweight",)

    def __init__(self, fields: Fields) -> None:
        self.bits = fields.integer("bits", high=64)
        self.group = group_size(fields)
        key = "checkpoint_format" if "checkpoint_format" in fields else "format"
        found = fields.text(key, "gptq")
        if found not in ("gptq", "gptq_v2"):
            raise fields.unsupported(key, f"is {shorten(found)!r}; supported: gptq, gptq_v2")
        self.first = found == "gptq"
        if self.bits not in (2, 3, 4, 8):
            raise fields.unsupported("bits", f"is {self.bits}; supported: 2, 3, 4, 8")
        words = fields.text("pack_dtype", "int32")
        if words != "int32":
            raise fields.unsupported("pack_dtype", f"is {shorten(words)!r}; supported: int32")
        if fields.flag("is_marlin_format", False):
            raise fields.unsupported("is_marlin_format", "is true; only the plain order of weights is supported")
        self.ordered = fields.flag("desc_act", False)
        fields.flag("sym", True)  # zero points are stored in any case

    def __str__(self) -> str:
        return f"gptq, {self.bits} bits, {_in_groups(self.group)}{', act-order' if self.ordered else ''}"

    def open(self, module: Module, mark: str) -> Stored:
        words, n = module.info(".qweight", _WORDS, 2).shape
        k = words * 32 // self.bits
        if words * 32 % self.bits or n * self.bits % 32:
            message = f"has the shape {[words, n]}, no whole words of {self.bits}-bit codes either way"
            raise module.error(".qweight", message)
        groups = -(-k // (self.group or k))
        module.expect(".scales", FLOATS, (groups, n))
        module.expect(".qzeros", _WORDS, (groups, n * self.bits // 32))
        if self.ordered or ".g_idx" in module:
            module.expect(".g_idx", _WORDS, (k,))
        return _GptqWeight(module, (n, k), self.bits, self.group or k, self.first)


class _GptqWeight(StoredInt):
    def __init__(self, module: Module, shape: tuple[int, int], bits: int, group: int, first: bool) -> None:
        super().__init__(module, shape)
        self.bits, self.group, self.first = bits, group, first

    def codes(self, start: int, stop: int) -> Bytes:
        return unpacked(self.module.array(".qweight")[:, start:stop].T, self.bits, self.shape[1])

    def scales_zeros(self, start: int, stop: int) -> tuple[Array, Array]:
        m, n, bits = self.module, stop - start, self.bits
        zeros = m.array(".qzeros")[:, start * bits // 32 : -(-stop * bits // 32)]
        if self.first and bits != 3:
            zeros = zeros.view(np.uint32) + np.uint32(_ONES[bits])
        scales = m.scales(".scales", (slice(None), slice(start, stop)))
        points = unpacked(zeros, bits, n)
        if self.first and bits == 3:
            points = (points + np.uint8(1)) & np.uint8(7)
        return scales.T, points.T

    def g_idx(self) -> Array | None:
        if ".g_idx" not in self.module:
            return None
        found, groups = self.module.array(".g_idx"), -(-self.shape[1] // self.group)
        if found.min() < 0 or found.max() >= groups:
            wrong = int(np.flatnonzero((found < 0) | (found >= groups))[0])
            message = f"names group {found[wrong]} for input {wrong}, but there are {groups} groups"
            raise self.module.error(".g_idx", message)
        return None if (found == np.arange(len(found)) // self.group).all() else found


class Awq(Scheme):
    """quant_method "awq", version gemm."""

    marks = (".qweight",)

    def __init__(self, fields: Fields) -> None:
        key = "bits" if "bits" in fields else "w_bit"
        bits = fields.integer(key, 4, high=64)
        if bits != 4:
            raise fields.unsupported(key, f"is {bits}; supported: 4")
        self.group = group_size(fields, "group_size" if "group_size" in fields else "q_group_size")
        version = fields.text("version", "gemm")
        if version.lower() != "gemm":
            raise fields.unsupported("version", f"is {shorten(version)!r}; supported: gemm")
        self.zero_point = fields.flag("zero_point", True)

    def __str__(self) -> str:
        return f"awq, 4 bits, {_in_groups(self.group)}{'' if self.zero_point else ', symmetric'}"

    def open(self, module: Module, mark: str) -> Stored:
        k, words = module.info(".qweight", _WORDS, 2).shape
        n, group = words * 8, self.group or k
        if k % group:
            raise module.error(".qweight", f"has {k} inputs, no whole number of groups of {group}")
        module.expect(".scales", FLOATS, (k // group, n))
        if self.zero_point or ".qzeros" in module:  # without zero points many writers store the middle, 8
            module.expect(".qzeros", _WORDS, (k // group, words))
        return _AwqWeight(module, (n, k), group)


class _AwqWeight(StoredInt):
    def __init__(self, module: Module, shape: tuple[int, int], group: int) -> None:
        super().__init__(module, shape)
        self.bits, self.group = 4, group

    def codes(self, start: int, stop: int) -> Bytes:
        return _reordered(self.module.array(".qweight")[:, start // 8 : -(-stop // 8)]).T

    def scales_zeros(self, start: int, stop: int) -> tuple[Array, Array]:
        m = self.module
        scales = m.scales(".scales", (slice(None), slice(start, stop)))
        zeros = np.full(scales.shape, 8, np.uint8)
        if ".qzeros" in m:
            zeros = _reordered(m.array(".qzeros")[:, start // 8 : -(-stop // 8)])
        return scales.T, zeros.T


def _reordered(words: Array) -> Bytes:
    """int32[rows, words] of AWQ as codes uint8[rows, 8 * words]."""
    codes = unpacked(words, 4, 8 * words.shape[1])
    out = np.empty_like(codes)
    for i, place in enumerate(_PLACES):
        out[:, i::8] = codes[:, place::8]
    return out
