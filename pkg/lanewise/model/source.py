"""Where a model comes from, a folder or one GGUF file: what it is, its weights and its tokenizer, behind one face."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..tokenizer import TOKENIZER, Tokenizer
from . import gguf_model, read_model
from .config import CONFIG, Generation
from .files import has
from .folder import resolve
from .gguf import GgufFile, open_gguf
from .gguf_tokenizer import read_tokenizer
from .quantised import QuantisedWeights
from .safetensors import Weights, open_weights
from .spec import Spec


@dataclass(slots=True)
class Source:
    """An opened model, checked: the weights are those that the spec wants. Leaving `with` closes the weights.

    tokenizer: makes it (while the source is open); gives None for a model without one.
    files: all that decides the weights, each with what the system said of it before it was read.
    """

    path: Path
    spec: Spec
    generation: Generation
    weights: Weights
    tokenizer: Callable[[], Tokenizer | None]
    files: list[tuple[Path, os.stat_result]]

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.weights.close()


def open_source(source: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Find and open what `source` means (see folder.resolve). Raises LoadError; nothing stays open then."""
    path = resolve(source, revision)
    return _from_folder(path) if path.is_dir() else _from_gguf(path)


def _from_folder(folder: Path) -> Source:
    status = os.stat(folder / CONFIG) if has(folder, CONFIG) else None
    spec, generation, scheme = read_model(folder)
    weights = open_weights(folder)
    files = list(zip(weights.files, weights.statuses, strict=True))
    files += [(folder / CONFIG, status)] if status else []
    try:
        if scheme is not None:
            weights = QuantisedWeights(weights, scheme, (tensor.name for tensor in spec.tensors()))
        spec.check(weights)
    except BaseException:
        weights.close()
        raise
    return Source(
        folder, spec, generation, weights, lambda: Tokenizer(folder) if has(folder, TOKENIZER) else None, files
    )


def _from_gguf(path: Path) -> Source:
    file = open_gguf(path)
    try:
        spec, generation = gguf_model.read_model(file)
        weights = gguf_model.open_weights(file, spec)
        return Source(path, spec, generation, weights, lambda: _tokenizer(file), [(path, file.status)])
    except BaseException:
        file.close()
        raise


def _tokenizer(file: GgufFile) -> Tokenizer | None:
    parts = read_tokenizer(file)
    return None if parts is None else Tokenizer.of(file.path, *parts)
