"""A quantised checkpoint under the names that a model asks for: logical float32 tensors over the stored ones.

A scheme knows from config.json how its tensors are stored. For each module whose stored tensors have the scheme's
mark it gives a Stored, which makes rows of the weight when they are asked for: nothing of it stays in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LoadError
from ..safetensors import TensorInfo, Weights
from .classes import Layout, fitting, layout, write
from .codes import Array, Bytes, Floats, GroupedInt, bfloat16, e8m0

_SLICE = 1 << 18  # elements expanded at a time
ALIGNED = 32  # rows of a slice start at a multiple of this, where packed fields start with a word
FLOATS = ("F16", "BF16", "F32")


class Module:
    """The stored tensors whose names begin with `name`: typed and shaped access. Errors name the tensor."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.weights, self.name = weights, name
        self.parts: list[str] = []

    def __contains__(self, part: object) -> bool:
        return f"{self.name}{part}" in self.weights

    def info(self, part: str, types: tuple[str, ...], rank: int | None = None) -> TensorInfo:
        """What is stored under `part`, which counts as a part of this module from now on. LoadError."""
        name = self.name + part
        if name not in self.weights:
            raise LoadError("the tensor is missing", file=self.weights.files[0], field=name)
        info = self.weights.info(name)
        if info.dtype not in types:
            raise self.error(part, f"is {info.dtype}, not {' or '.join(types)}")
        if rank is not None and (len(info.shape) != rank or 0 in info.shape):
            raise self.error(part, f"has the shape {list(info.shape)}, not {rank} dimensions from 1 on")
        if name not in self.parts:
            self.parts.append(name)
        return info

    def expect(self, part: str, types: tuple[str, ...], *shapes: tuple[int, ...]) -> TensorInfo:
        """As `info`, and the shape has to be one of `shapes`."""
        info = self.info(part, types)
        if info.shape not in shapes:
            expected = " or ".join(str(list(shape)) for shape in shapes)
            raise self.error(part, f"has the shape {list(info.shape)}, expected {expected}")
        return info

    def array(self, part: str) -> Array:
        return self.weights.array(self.name + part)

    def scales(self, part: str, index: Any = ...) -> Array:
        """What is stored under `part`, or some of it, as float16 or float32. LoadError unless all are finite."""
        values: Array = self.array(part)[index]
        dtype = self.weights.info(self.name + part).dtype
        if dtype in ("BF16", "F8_E8M0"):
            values = bfloat16(values) if dtype == "BF16" else e8m0(values)
        if not np.isfinite(values).all():
            raise self.error(part, "has a scale that is not finite")
        return values

    def error(self, part: str, message: str) -> LoadError:
        return LoadError(message, file=self.weights.info(self.name + part).file, field=self.name + part)


class Stored(ABC):
    """A logical tensor. parts: the stored tensors that it is made of, the first of which stands for it in messages."""

    def __init__(self, module: Module, shape: tuple[int, ...]) -> None:
        self.module, self.shape = module, shape

    @property
    def parts(self) -> list[str]:
        return self.module.parts

    @abstractmethod
    def rows(self, start: int, stop: int) -> Floats:
        """float32[stop - start, columns], leading dimensions counted as rows; start is a multiple of ALIGNED.

        LoadError for codes, scales or indices that are not possible.
        """

    def slices(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of pieces that need little memory."""
        n, columns = int(np.prod(self.shape[:-1])), self.shape[-1]
        step = max(1, _SLICE // columns // ALIGNED) * ALIGNED
        return ((start, min(start + step, n)) for start in range(0, n, step))

    def dtype(self) -> str:
        """Of `values`: "F32", or "BF16" if each is exactly a bfloat16. LoadError for scales that are not possible."""
        return "F32"

    def blocks_format(self) -> str | None:
        """The packed class whose blocks hold the same values, from the scales alone; None: there is none. LoadError."""
        return None

    def blocks(self, format: str, start: int, stop: int) -> Bytes:
        """Rows start:stop as blocks of the class that blocks_format gave, uint8[stop - start, bytes]."""
        raise NotImplementedError

    def blocks_order(self) -> Array | None:
        """The input that stands in each place of `blocks`, int32[k]; None: each in its own. LoadError."""
        return None

    def values(self) -> Array:
        """The tensor, as float32 or the bits of bfloat16. LoadError also when a value is not finite."""
        short = self.dtype() == "BF16"
        out = np.empty((int(np.prod(self.shape[:-1])), self.shape[-1]), np.uint16 if short else np.float32)
        with np.errstate(all="ignore"):
            for start, stop in self.slices():
                part = self.rows(start, stop)
                if not np.isfinite(part).all():
                    row, column = np.argwhere(~np.isfinite(part))[0].tolist()
                    message = f"the value at row {start + row}, column {column} is not finite"
                    raise LoadError(message, file=self.module.weights.info(self.parts[0]).file, field=self.parts[0])
                out[start:stop] = part.view(np.uint32) >> 16 if short else part
        return out.reshape(self.shape)

    def all_blocks(self, format: str) -> Bytes:
        """All rows as blocks: uint8[rows, bytes]. LoadError as `rows`."""
        return np.concatenate([self.blocks(format, start, stop) for start, stop in self.slices()])


class StoredInt(Stored):
    """A matrix of integer codes in groups. bits: of a code. group: inputs in a group; the last may have fewer."""

    bits: int
    group: int

    @abstractmethod
    def codes(self, start: int, stop: int) -> Bytes:
        """Rows start:stop, uint8[stop - start, k], as GroupedInt has them; start is a multiple of ALIGNED."""

    @abstractmethod
    def scales_zeros(self, start: int, stop: int) -> tuple[Array, Array]:
        """Those of rows start:stop, [stop - start, groups] each. LoadError for a scale that is not finite."""

    def g_idx(self) -> Array | None:
        """The group of each input; None if the inputs are in order. LoadError for groups that there are not."""
        return None

    def grouped(self, start: int, stop: int) -> GroupedInt:
        """Rows start:stop; start is a multiple of ALIGNED. LoadError as `rows`."""
        scales, zeros = self.scales_zeros(start, stop)
        return GroupedInt(self.codes(start, stop), scales, zeros, self.group, self.g_idx())

    def rows(self, start: int, stop: int) -> Floats:
        return self.grouped(start, stop).values()

    @cached_property
    def _layout(self) -> Layout | None:
        return layout(self.shape[1], self.group, self.g_idx())

    def blocks_format(self) -> str | None:
        return None if self._layout is None else fitting(*self.scales_zeros(0, self.shape[0]), self.bits)

    def blocks_order(self) -> Array | None:
        return None if self._layout is None else self._layout.order

    def blocks(self, format: str, start: int, stop: int) -> Bytes:
        assert self._layout is not None
        where, order = self._layout.where, self._layout.order
        scales, zeros = self.scales_zeros(start, stop)
        codes = self.codes(start, stop)
        return write(format, codes if order is None else codes.take(order, axis=1), scales[:, where], zeros[:, where])


class Scheme(ABC):
    """What quantization_config says. marks: endings of the tensor that makes a module a quantised one.

    weight: ending of the logical tensor. unused: endings of stored tensors that are not needed for the weights.
    """

    marks: tuple[str, ...]
    weight = ".weight"
    unused: tuple[str, ...] = ()

    @abstractmethod
    def open(self, module: Module, mark: str) -> Stored | None:
        """The weight of a module that has the mark, its shapes checked; None: it is stored plainly. LoadError."""

    @abstractmethod
    def __str__(self) -> str:
        """A short name for a person."""


@dataclass(frozen=True, slots=True)
class _Logical:
    info: TensorInfo
    stored: Stored


class QuantisedWeights(Weights):
    """The logical tensors of a quantised checkpoint, with the interface of safetensors' weights.

    Quantised ones come as F32 or, if that is exact, BF16, in `info` and `array` alike, and as blocks where a packed
    class has the same values; all others come as they are stored. wanted: the names that the model asks for; a bias
    that is not among them is left out if it is zero, as old GPTQ writers add them to all.
    LoadError for stored tensors that do not fit each other, or if nothing is quantised.
    """

    def __init__(self, weights: Weights, scheme: Scheme, wanted: Iterable[str]) -> None:
        self._weights, self.scheme = weights, scheme
        self._names: dict[str, _Logical | None] = {}
        self._types: dict[str, tuple[str, str | None]] = {}
        held: set[str] = set()
        for name in weights:
            mark = next((mark for mark in scheme.marks if name.endswith(mark)), None)
            if mark is None:
                continue
            module = Module(weights, name.removesuffix(mark))
            stored = scheme.open(module, mark)
            if stored is None:
                continue
            logical = module.name + scheme.weight
            if logical in self._names or (logical in weights and logical not in stored.parts):
                raise LoadError("the weight is stored twice", file=weights.info(name).file, field=logical)
            info, size = weights.info(name), sum(weights.info(part).nbytes for part in stored.parts)
            self._names[logical] = _Logical(
                TensorInfo(logical, "F32", stored.shape, size, info.file, info.start), stored
            )
            held.update(stored.parts)
        if not held:
            marks = ", ".join(f"*{mark}" for mark in scheme.marks)
            message = f"config.json says {scheme}, but no tensor {marks} is stored so"
            raise LoadError(message, file=weights.files[0], field="quantization_config")
        for name in weights:
            if name not in held and not name.endswith(scheme.unused):
                self._names[name] = None
        self._drop_empty_biases(set(wanted))

    def _drop_empty_biases(self, wanted: set[str]) -> None:
        for name, logical in list(self._names.items()):
            bias = name.removesuffix(".weight") + ".bias"
            if logical is None or bias in wanted or bias not in self._names:
                continue
            if self._weights.info(bias).dtype in FLOATS and not self._weights.array(bias).any():
                del self._names[bias]

    def names(self) -> list[str]:
        return list(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def files(self) -> list[Path]:
        return self._weights.files

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return self._weights.nbytes

    def info(self, name: str) -> TensorInfo:
        """As safetensors.Weights.info; dtype and shape are those of `array`, nbytes what is stored."""
        logical = self._names.get(name)
        return self._weights.info(name) if logical is None else replace(logical.info, dtype=self._type(name)[0])

    def _type(self, name: str) -> tuple[str, str | None]:
        """dtype and blocks_format of a quantised tensor. LoadError."""
        logical = self._names[name]
        assert logical is not None
        if name not in self._types:
            flat = len(logical.stored.shape) == 2
            self._types[name] = logical.stored.dtype(), logical.stored.blocks_format() if flat else None
        return self._types[name]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor's values: expanded, or a view of the file. LoadError for values that the format has not."""
        logical = self._names.get(name)
        return logical.stored.values() if logical is not None else self._weights.array(name)

    def blocks_format(self, name: str) -> str | None:
        return None if self._names.get(name) is None else self._type(name)[1]

    def blocks(self, name: str) -> np.ndarray[Any, Any]:
        """The rows as blocks of the packed class blocks_format: uint8[rows, bytes], the values bit for bit."""
        logical, format = self._names.get(name), self.blocks_format(name)
        return self._weights.blocks(name) if logical is None or format is None else logical.stored.all_blocks(format)

    def blocks_order(self, name: str) -> np.ndarray[Any, Any] | None:
        logical = self._names.get(name)
        return self._weights.blocks_order(name) if logical is None else logical.stored.blocks_order()

    def stored(self, name: str) -> Stored | None:
        """How a quantised tensor is held (StoredInt: as codes, for whoever computes with them); None: plainly."""
        logical = self._names.get(name)
        return logical.stored if logical is not None else None

    def release(self, name: str) -> None:
        logical = self._names.get(name)
        for part in [name] if logical is None else logical.stored.parts:
            self._weights.release(part)

    def close(self) -> None:
        self._weights.close()
