"""A quantised checkpoint under the names that a model asks for: logical float32 tensors over the stored ones.

A scheme knows from config.json how its tensors are stored. For each module whose stored tensors have the scheme's
mark it gives a Stored, which makes rows of the weight when they are asked for: nothing of it stays in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LoadError
from ..safetensors import TensorInfo, Weights
from .codes import Array, Floats, GroupedInt, bfloat16, e8m0

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

    def values(self) -> Floats:
        """The tensor. LoadError also when a value is not finite."""
        out = np.empty((int(np.prod(self.shape[:-1])), self.shape[-1]), np.float32)
        with np.errstate(all="ignore"):
            for start, stop in self.slices():
                out[start:stop] = self.rows(start, stop)
                if not np.isfinite(out[start:stop]).all():
                    row, column = np.argwhere(~np.isfinite(out[start:stop]))[0].tolist()
                    message = f"the value at row {start + row}, column {column} is not finite"
                    raise LoadError(message, file=self.module.weights.info(self.parts[0]).file, field=self.parts[0])
        return out.reshape(self.shape)


class StoredInt(Stored):
    """A matrix of integer codes in groups."""

    @abstractmethod
    def grouped(self, start: int, stop: int) -> GroupedInt:
        """Rows start:stop as codes; start is a multiple of ALIGNED. LoadError as `rows`."""

    def rows(self, start: int, stop: int) -> Floats:
        return self.grouped(start, stop).values()


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

    Quantised ones come as F32, in `info` and `array` alike; all others as they are stored. wanted: the names that
    the model asks for; a bias that is not among them is left out if it is zero, as old GPTQ writers add them to all.
    LoadError for stored tensors that do not fit each other, or if nothing is quantised.
    """

    def __init__(self, weights: Weights, scheme: Scheme, wanted: Iterable[str]) -> None:
        self._weights, self.scheme = weights, scheme
        self._names: dict[str, _Logical | None] = {}
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
        return logical.info if logical is not None else self._weights.info(name)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor's values: expanded, or a view of the file. LoadError for values that the format has not."""
        logical = self._names.get(name)
        return logical.stored.values() if logical is not None else self._weights.array(name)

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
