"""compressed-tensors, as llm-compressor writes it: packed and plain integers, FP8.

The formats are those of the compressed-tensors package (compressors/pack_quantized, naive_quantized; quantization/
lifecycle/forward.py): value = (code - zero point) * scale, codes being signed. Packed codes and zero points are held
half of their range higher; codes go along a row, zero points down a column. Which modules are quantised is seen from
what is stored, so the lists of targets and of exceptions, which may be regular expressions, need not be applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import LoadError, shorten
from ..config import Fields
from .codes import Array, Bytes, unpacked
from .floats import FP8, Fp8Weight, block_size, grid
from .packed import group_size
from .stored import Module, Scheme, Stored, StoredInt

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_STRATEGIES = ("tensor", "channel", "group", "block")
_GROUPS = 256


@dataclass(frozen=True, slots=True)
class _Group:
    """One of config_groups. size: inputs in a group or block; None: all. block: of strategy "block"."""

    packed: bool
    kind: str
    bits: int
    strategy: str
    size: int | None
    block: tuple[int, int] | None
    symmetric: bool

    def __str__(self) -> str:
        where = f"groups of {self.size}" if self.strategy == "group" else f"one scale a {self.strategy}"
        return f"{self.kind}{self.bits}, {where}{'' if self.symmetric else ', zero points'}"

    def shape(self, n: int, k: int) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        if self.strategy == "block" and self.block:
            return self.block
        return {"channel": (1, k), "group": (1, self.size or k)}.get(self.strategy, (n, k))


class CompressedTensors(Scheme):
    """quant_method "compressed-tensors"."""

    marks = (".weight_packed", ".weight_scale")
    unused = (".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".k_scale", ".v_scale",
              ".q_scale")  # fmt: skip

    def __init__(self, fields: Fields) -> None:
        for key in ("transform_config", "sparsity_config"):
            found = fields.fields(key)
            if found is not None and found.values.get("format") != "dense" and any(found.values.values()):
                raise fields.unsupported(key, "is in use; only plain dense weights are supported")
        groups = fields.fields("config_groups")
        if groups is None or len(groups.values) > _GROUPS:
            raise fields.error("config_groups", f"is not an object of 1 to {_GROUPS} groups")
        self.groups: list[_Group] = []
        for name in groups.values:
            group = groups.fields(name)
            weights = None if group is None else group.fields("weights")
            if group is not None and weights is not None:
                self.groups.append(_group(fields, group, weights))
        if not self.groups:
            raise fields.unsupported("config_groups", "quantises no weights")

    def __str__(self) -> str:
        return "compressed-tensors, " + "; ".join(dict.fromkeys(map(str, self.groups)))

    def open(self, module: Module, mark: str) -> Stored | None:
        packed = ".weight_packed" in module
        if packed and mark != ".weight_packed":
            return None  # the scale of one that is opened by its codes
        first: LoadError | None = None
        for group in self.groups:
            attempt = Module(module.weights, module.name)
            try:
                stored = _open(attempt, group)
            except LoadError as error:
                first = first or error
                continue
            module.parts = attempt.parts
            return stored
        assert first is not None
        raise first


def _group(whole: Fields, group: Fields, weights: Fields) -> _Group:
    """One entry of config_groups. LoadError."""
    owner = group if "format" in group else whole
    format = owner.text("format", "dense")
    if format not in _FORMATS:
        raise owner.unsupported("format", f"is {shorten(format)!r}; supported: {', '.join(_FORMATS)}")
    kind = weights.text("type", "int")
    bits = weights.integer("num_bits", 8, high=64)
    packed = format == "pack-quantized"
    allowed = {"int": (4, 8) if packed else (8,), "float": () if packed or format == "int-quantized" else (8,)}
    if kind not in allowed or (format == "float-quantized" and kind == "int"):
        raise weights.unsupported("type", f"is {shorten(kind)!r}, with the format {format}; supported: int, float")
    if bits not in allowed[kind]:
        supported = ", ".join(map(str, allowed[kind])) or "none"
        raise weights.unsupported("num_bits", f"is {bits}, of type {kind} in {format}; supported: {supported}")
    size = group_size(weights)
    usual = "tensor" if size is None else "group"
    strategy = weights.text("strategy", usual if "group_size" not in weights or size else "channel")
    if strategy not in _STRATEGIES or (strategy == "block" and kind == "int"):
        raise weights.unsupported("strategy", f"is {shorten(strategy)!r}, of type {kind}; supported: tensor, channel, "
                                              "group, and block for float")  # fmt: skip
    if strategy == "group" and size is None:
        raise weights.error("group_size", "is missing, which the strategy group needs")
    block = block_size(weights, "block_structure") if strategy == "block" else None
    if strategy == "block" and block is None:
        raise weights.error("block_structure", "is missing, which the strategy block needs")
    if weights.flag("dynamic", False):
        raise weights.unsupported("dynamic", "is true: the weights have no scales")
    return _Group(packed, kind, bits, strategy, size, block, weights.flag("symmetric", True))


def _open(module: Module, group: _Group) -> Stored:
    """A module as that group stores it. LoadError when it does not fit."""
    if group.kind == "float":
        n, k = module.info(".weight", (FP8,), 2).shape
        if ".weight_zero_point" in module:
            module.info(".weight_zero_point", (FP8, "I8"))
            if module.array(".weight_zero_point").any():
                raise module.error(".weight_zero_point", "is not zero, which has no meaning with floats")
        return Fp8Weight(module, (n, k), ".weight_scale", group.shape(n, k))
    return _IntWeight(module, _packed_shape(module, group) if group.packed else _plain_shape(module), group)


def _plain_shape(module: Module) -> tuple[int, int]:
    n, k = module.info(".weight", ("I8",), 2).shape
    return n, k


def _packed_shape(module: Module, group: _Group) -> tuple[int, int]:
    n, words = module.info(".weight_packed", ("I32",), 2).shape
    module.expect(".weight_shape", ("I64", "I32"), (2,))
    said = module.array(".weight_shape").tolist()
    if said[0] != n or said[1] < 1 or -(-said[1] * group.bits // 32) != words:
        message = f"says {said}, but .weight_packed has the shape {[n, words]} for codes of {group.bits} bits"
        raise module.error(".weight_shape", message)
    return n, said[1]


class _IntWeight(StoredInt):
    def __init__(self, module: Module, shape: tuple[int, int], group: _Group) -> None:
        super().__init__(module, shape)
        n, k = shape
        self.bits, self.packed = group.bits, group.packed
        high, self.group = group.shape(n, k)
        self.whole = high == n and group.strategy == "tensor"
        if k % self.group:
            raise module.error(".weight_scale", f"is for groups of {self.group}, which do not divide {k} inputs")
        self.columns = k // self.group
        grid(module, ".weight_scale", shape, (high, self.group))
        if not group.symmetric or ".weight_zero_point" in module:
            self._check_zeros(group)
        if ".weight_g_idx" in module:
            module.expect(".weight_g_idx", ("I32", "I64"), (k,))

    def _check_zeros(self, group: _Group) -> None:
        """Zero points are packed beside packed codes; older files, and whole tensors, have them as int8."""
        n = 1 if self.whole else self.shape[0]
        plain = [(n, self.columns)]
        if self.columns == 1:
            plain.append((n,))  # type: ignore[arg-type]
        if self.whole:
            plain.append(())  # type: ignore[arg-type]
        packed = self.packed and not group.symmetric and not self.whole
        info = self.module.info(".weight_zero_point", ("I8", "I32") if packed else ("I8",))
        if info.dtype == "I32":
            plain = [(-(-n * self.bits // 32), self.columns)]
        self.module.expect(".weight_zero_point", (info.dtype,), *plain)

    def codes(self, start: int, stop: int) -> Bytes:
        if self.packed:
            return unpacked(self.module.array(".weight_packed")[start:stop], self.bits, self.shape[1])
        signed: Bytes = self.module.array(".weight")[start:stop].view(np.uint8)
        return signed ^ np.uint8(128)

    def scales_zeros(self, start: int, stop: int) -> tuple[Array, Array]:
        m = self.module
        scales = self._rows(m.scales(".weight_scale"), start, stop)
        middle = 1 << (self.bits - 1)
        zeros = np.full(scales.shape, middle, np.int16)
        if ".weight_zero_point" in m:
            found = m.array(".weight_zero_point")
            if found.dtype == np.int32:
                part = found[start * self.bits // 32 : -(-stop * self.bits // 32)]
                zeros = unpacked(part.T, self.bits, stop - start).T
            else:
                zeros = zeros + self._rows(found, start, stop)
        return scales, zeros

    def _rows(self, values: Any, start: int, stop: int) -> Any:
        """What each of these rows has: [stop - start, columns]."""
        if self.whole:
            return np.broadcast_to(values.reshape(1, 1), (stop - start, 1))
        return values.reshape(self.shape[0], self.columns)[start:stop]

    def g_idx(self) -> Any:
        """The group of each input, each having its full number of inputs; None if they are in order (all -1)."""
        if ".weight_g_idx" not in self.module:
            return None
        found = self.module.array(".weight_g_idx")
        if (found == -1).all():
            return None
        if found.min() < 0 or found.max() >= self.columns or (np.bincount(found) != self.group).any():
            message = f"does not put {self.group} inputs into each of {self.columns} groups"
            raise self.module.error(".weight_g_idx", message)
        return found
