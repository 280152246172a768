"""Weights that are quantised while they are loaded: each float matrix as the values that its blocks hold.

The kernels see float32, exactly the numbers that a file written by `lanewise quantize` would give. Matrices that a
source holds quantised already stay as they are; so do vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LoadError
from .gguf_model import DIRECT, GgufWeights
from .quantised import QuantisedWeights
from .quantize import dequantize_rows, quantize_rows
from .quantize_plan import Plan
from .safetensors import TensorInfo, Weights
from .spec import FLOATS, Spec

_SLICE = 1 << 22


class RoundedWeights(Weights):
    """`weights` seen through a quantiser. type: a name that quantize_plan knows; ValueError for another."""

    def __init__(self, weights: Weights, spec: Spec, type: str, threads: int | None = None) -> None:
        self._weights, self._threads = weights, threads
        self.plan = Plan.of(spec, type)
        self._kinds: dict[str, str] = {}
        for tensor in spec.tensors():
            if len(tensor.shape) > 1 and self._is_float(tensor.name):
                stored = weights.info(tensor.name).dtype
                kind = self.plan.type(tensor.role, tensor.layer, tensor.shape, tensor.name, stored)
                if kind != stored:
                    self._kinds[tensor.name] = kind

    def _is_float(self, name: str) -> bool:
        """Whether the source holds the tensor as floats, and not quantised already."""
        if isinstance(self._weights, QuantisedWeights):
            return self._weights.stored(name) is None
        return not isinstance(self._weights, GgufWeights) or self._weights.stored(name) in FLOATS

    def kind(self, name: str) -> str | None:
        """The GGUF type of a matrix; None for a tensor that stays as it is."""
        return self._kinds.get(name)

    def names(self) -> list[str]:
        return self._weights.names()

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def files(self) -> list[Path]:
        return self._weights.files

    @property
    def nbytes(self) -> int:
        return self._weights.nbytes

    def info(self, name: str) -> TensorInfo:
        """As the source says, but of the type of `array` for what is quantised."""
        found, kind = self._weights.info(name), self._kinds.get(name)
        return found if kind is None else replace(found, dtype="BF16" if kind == "BF16" else "F32")

    def blocks_format(self, name: str) -> str | None:
        kind = self._kinds.get(name)
        if kind is None:
            return self._weights.blocks_format(name)
        return kind.lower() if kind in DIRECT else None

    def blocks(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self._kinds:
            return self._weights.blocks(name)
        return np.concatenate(list(self._quantised(name)))

    def blocks_order(self, name: str) -> np.ndarray[Any, Any] | None:
        return None if name in self._kinds else self._weights.blocks_order(name)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The values; LoadError, naming tensor and index, for a weight that is not finite or too large for its type."""
        kind = self._kinds.get(name)
        if kind is None:
            return self._weights.array(name)
        out = np.empty(self.info(name).shape, np.uint16 if kind == "BF16" else np.float32)
        start = 0
        for blocks in self._quantised(name):
            end = start + len(blocks)
            out[start:end] = blocks.view("<u2") if kind == "BF16" else dequantize_rows(blocks, kind)
            start = end
        return out

    def _quantised(self, name: str) -> Iterator[np.ndarray[Any, Any]]:
        """The blocks of a matrix, some rows at a time."""
        values, kind = self._weights.array(name), self._kinds[name]
        step = max(1, _SLICE // values.shape[1])
        short = self._weights.info(name).dtype == "BF16"
        for start in range(0, len(values), step):
            part = values[start : start + step]
            rows = (part.astype(np.uint32) << 16).view(np.float32) if short else part.astype(np.float32)
            try:
                yield quantize_rows(rows, kind, threads=self._threads, first=start)
            except ValueError as error:
                raise LoadError(str(error), file=self._weights.info(name).file, field=name) from None

    def release(self, name: str) -> None:
        self._weights.release(name)

    def close(self) -> None:
        self._weights.close()
