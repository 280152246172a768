"""What is fuzzed: each target reads one input as a user's file would be read, and comes with inputs to start from.

LoadError is the one exception that a target lets pass.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lanewise.errors import LoadError
from lanewise.model import files, gguf_model
from lanewise.model.arch import build
from lanewise.model.config import Config
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_arrays import GgufArray
from lanewise.model.gguf_tokenizer import read_tokenizer
from lanewise.model.quantised import QuantisedWeights, read_scheme
from lanewise.model.safetensors import open_weights
from lanewise.tokenizer import TOKENIZER, Tokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "model"))
import quantised_writers as writers
from test_quantised import FORMATS

from corpus.make import cases, plain, with_tensor
from fuzz import mutators

SMALL = 1 << 16  # bytes of an input
ARRAYS = 1 << 18  # bytes of a tensor that is expanded

Mutator = Callable[[bytes, random.Random], bytes | None]


@dataclass(frozen=True)
class Target:
    """one(data, folder): folder is a place for files, in memory."""

    one: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterator[bytes]]
    mutator: Mutator


def gguf(data: bytes, folder: Path) -> None:
    """The container, every array and tensor in it, and then the model and its tokenizer."""
    path = folder / "m.gguf"
    path.write_bytes(data)
    with open_gguf(path) as file:
        for value in file.metadata.values():
            if isinstance(value, GgufArray):
                with contextlib.suppress(LoadError):
                    value.strings() if value.kind == "STRING" else value.numbers()
        for name, tensor in file.tensors.items():
            if tensor.nbytes <= ARRAYS:
                with contextlib.suppress(LoadError):
                    assert file.array(name).shape == tensor.shape
        spec, _ = gguf_model.read_model(file)
        weights = gguf_model.open_weights(file, spec)
        for wanted in spec.tensors():
            assert weights.array(wanted.name).shape == wanted.shape
        parts = read_tokenizer(file)
        if parts is not None:
            _use(Tokenizer.of(path, *parts))


def _use(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a b <s> \u2581 \x00 \u00e9")
    assert isinstance(tokenizer.decode(ids), str)


def gguf_seeds() -> Iterator[bytes]:
    from lanewise.model.gguf_types import TYPES

    for _, case in cases():
        if case.tail == 0:
            data = case.data()
            if len(data) <= SMALL:
                yield data
    for number, kind in TYPES.items():
        width = 256 if kind.block <= 256 and 256 % kind.block == 0 else kind.block
        size = width // kind.block * kind.size
        yield with_tensor(dims=[width], kind=number, nbytes=size, data=bytes(range(256)) * (size // 256 + 1)).build()
    yield plain().build()


def safetensors(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    with open_weights(path) as weights:
        for name in weights:
            if weights.info(name).nbytes <= ARRAYS:
                weights.array(name)
            weights.release(name)


def safetensors_seeds() -> Iterator[bytes]:
    from test_safetensors import HOSTILE

    for content, _ in HOSTILE.values():
        if len(content) <= SMALL:
            yield content
    for section, data in _quantised():
        del section
        yield data


def config(data: bytes, folder: Path) -> None:
    """config.json: the model that it describes, and how its weights are quantised."""
    path = folder / "config.json"
    value = files.parse_json(data, file=path, depth=files.JSON_DEPTH, pairs=lambda found: files.unique(found, path))
    if not isinstance(value, dict):
        return
    found = Config(value, path)
    with contextlib.suppress(LoadError):
        spec = build(found)
        spec.info()
        with contextlib.suppress(ValueError):  # a dynamic rope may have no finite frequencies so far out
            spec.with_context(4096)
    scheme = read_scheme(found)
    str(scheme)


def config_seeds() -> Iterator[bytes]:
    from tiny import COMMON, MODELS

    sections = [section for section, _ in FORMATS.values()]
    for i, (model_type, given) in enumerate(MODELS.values()):
        whole = {"model_type": model_type, **COMMON, **given}
        yield json.dumps(whole | {"quantization_config": sections[i % len(sections)]}).encode()
    for section in sections:
        yield json.dumps({"model_type": "llama", **COMMON, "quantization_config": section}).encode()


def quantised(data: bytes, folder: Path) -> None:
    """A line of JSON, the quantization_config, and then a safetensors file, whose tensors are expanded."""
    line, _, rest = data.partition(b"\n")
    path = folder / "config.json"
    section = files.parse_json(line, file=path, depth=files.JSON_DEPTH, pairs=lambda found: files.unique(found, path))
    scheme = read_scheme(Config({"quantization_config": section}, path))
    if scheme is None:
        return
    (folder / "model.safetensors").write_bytes(rest)
    with open_weights(folder / "model.safetensors") as weights:
        held = QuantisedWeights(weights, scheme, ())
        for name in held:
            info = held.info(name)
            count = 1
            for n in info.shape:
                count *= n
            if count <= ARRAYS:
                with contextlib.suppress(LoadError):
                    assert held.array(name).shape == info.shape or info.dtype.startswith(("F4", "F6"))


def _quantised() -> Iterator[tuple[dict[str, Any], bytes]]:
    for section, writer in FORMATS.values():
        parts, _ = writer(np.random.default_rng(0), 32, 48)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m"
            writers.write(path, {f"m.{part}": value for part, value in parts.items()})
            yield section, path.read_bytes()


def quantised_seeds() -> Iterator[bytes]:
    for section, data in _quantised():
        yield json.dumps(section).encode() + b"\n" + data


def quantised_mutator(data: bytes, rng: random.Random) -> bytes | None:
    line, _, rest = data.partition(b"\n")
    if rng.random() < 0.4:
        made = mutators.text(line, rng)
        return None if made is None or b"\n" in made else made + b"\n" + rest
    changed = mutators.safetensors(rest, rng)
    return None if changed is None else line + b"\n" + changed


def tokenizer(data: bytes, folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(data)
    _use(Tokenizer(folder))


def tokenizer_seeds() -> Iterator[bytes]:
    from test_tokenizer import KINDS, write_trained

    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            write_trained(Path(folder), kind)
            data = (Path(folder) / TOKENIZER).read_bytes()
            if len(data) <= SMALL:
                yield data


TARGETS = {
    "gguf": Target(gguf, gguf_seeds, mutators.gguf),
    "safetensors": Target(safetensors, safetensors_seeds, mutators.safetensors),
    "config": Target(config, config_seeds, mutators.text),
    "quantised": Target(quantised, quantised_seeds, quantised_mutator),
    "tokenizer": Target(tokenizer, tokenizer_seeds, mutators.text),
}
