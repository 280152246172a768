"""What is fuzzed: each target reads one input as a user's file would be read, and comes with inputs to start from.

LoadError is the one exception that a target lets pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lanewise import _native
from lanewise.errors import LoadError
from lanewise.model import files, gguf_model, packed_cache
from lanewise.model.arch import build
from lanewise.model.config import Config
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_arrays import GgufArray
from lanewise.model.gguf_tokenizer import read_tokenizer
from lanewise.model.importance import read_importance, write_importance
from lanewise.model.quantised import QuantisedWeights, read_scheme
from lanewise.model.quantize import check_importance
from lanewise.model.safetensors import INDEX, open_weights
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


def index(data: bytes, folder: Path) -> None:
    """model.safetensors.index.json beside two shards that are as they should be."""
    for name, tensors in SHARDS.items():
        if not (folder / name).exists():
            writers.write(folder / name, {tensor: (np.ones((2, 3), np.float32), "F32") for tensor in tensors})
    (folder / INDEX).write_bytes(data)
    with open_weights(folder) as weights:
        for name in weights:
            assert weights.array(name).shape == (2, 3)


SHARDS = {"a.safetensors": ["t.0", "t.1"], "b.safetensors": ["u"]}


def index_seeds() -> Iterator[bytes]:
    where = {tensor: name for name, tensors in SHARDS.items() for tensor in tensors}
    for whole in ({}, {"metadata": {}}, {"metadata": {"total_size": 72}}, {"metadata": None}, {"other": [1, {}]}):
        yield json.dumps(whole | {"weight_map": where}).encode()
    for wrong in ("a/b.safetensors", "../b.safetensors", "c.safetensors", "a.safetensors", "", INDEX, ".", "\0", 1):
        yield json.dumps({"weight_map": where | {"u": wrong}}).encode()


def importance(data: bytes, folder: Path) -> None:
    """The file of `lanewise calibrate`; what is read is fit for the quantiser."""
    path = folder / "imatrix.gguf"
    path.write_bytes(data)
    for values in read_importance(path).values():
        check_importance(values, len(values))


def importance_seeds() -> Iterator[bytes]:
    sums = {f"blk.{i}.ffn_up.weight": np.arange(32.0 * (i + 1)) for i in range(3)}
    for many in range(1, 4):
        for count in (1, 1000):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "m"
                write_importance(path, dict(list(sums.items())[:many]), count, text="t", chunk=512)
                yield path.read_bytes()
    yield plain().build()


def cache(data: bytes, folder: Path) -> None:
    """The packed cache: a line of JSON, the stamp, and then the entry; whatever they are, no exception leaves it.

    The stamp's "now" becomes that of the source. Most inputs get the header's digest that they need to be read on."""
    line, _, rest = data.partition(b"\n")
    entry = _entry(folder)
    with contextlib.suppress(ValueError, RecursionError):
        memo = json.loads(line)
        if isinstance(memo, dict) and memo.get("stamps") == "now":
            line = json.dumps(memo | {"stamps": [stamp for _, stamp in entry.sources]}).encode()
    begin = int.from_bytes(rest[24:32], "little")
    if len(rest) >= 64 and begin % 8 == 0 and begin <= len(rest):
        rest = rest[:32] + hashlib.sha256(rest[:32] + rest[64:begin]).digest() + rest[64:]
    entry.path.write_bytes(rest)
    entry.path.with_suffix(".stamp").write_bytes(line)
    found = entry.read(CONTEXT)
    assert (found is not None) == (entry.state == "mapped")
    for weight in found or ():
        weight.unpack(0, np.empty((weight.n, weight.k), np.float32))


CONTEXT = _native.Context("scalar", 1)
ORDER = np.arange(64, dtype=np.int32)[::-1].copy()
PLAN = [packed_cache.Planned("q4_0", 3, 64, ORDER), packed_cache.Planned("float32", 17, 5)]


def _entry(folder: Path) -> packed_cache.Entry:
    source = folder / "m.gguf"
    if not source.exists():
        source.write_bytes(b"what the matrices were made from")
    entry = packed_cache.open_entry(folder, [(source, source.stat())], {"dtype": "auto", "quantize": None}, PLAN)
    assert entry is not None
    return entry


def cache_seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        entry = _entry(Path(folder))
        writer = packed_cache.Writer(entry)
        for format, n, k, order in PLAN:
            writer.add(CONTEXT, _native.Weight(format, n, k, None, order))
        writer.finish()
        assert entry.state == "written"
        data = entry.path.read_bytes()
        memo = {"stamps": "now", "content": entry.content()}
    for line in (memo, {}, memo | {"content": "0"}, memo | {"content": None}, [memo]):
        yield json.dumps(line).encode() + b"\n" + data


def cache_mutator(data: bytes, rng: random.Random) -> bytes | None:
    line, _, rest = data.partition(b"\n")
    move = rng.random()
    if move < 0.2:
        made = mutators.text(line, rng)
        return None if made is None or b"\n" in made else made + b"\n" + rest
    if len(rest) < 64:
        return None
    if move < 0.6:
        changed = _with_header(rest, rng)
        return None if changed is None else line + b"\n" + changed
    if move < 0.8:
        at, size = rng.choice(((0, 8), (8, 4), (12, 4), (16, 8), (24, 8)))
        number = rng.choice(mutators.NUMBERS) % 2 ** (8 * size)
        return line + b"\n" + rest[:at] + number.to_bytes(size, "little") + rest[at + size :]
    if move < 0.9:
        return line + b"\n" + rest[: rng.randrange(len(rest))]
    return line + b"\n" + rest + bytes(rng.randrange(1, 65))


def _with_header(rest: bytes, rng: random.Random) -> bytes | None:
    """An entry whose JSON header is changed, of its new length; the lines stay where they are if there is room."""
    length, begin = int.from_bytes(rest[16:24], "little"), int.from_bytes(rest[24:32], "little")
    made = mutators.text(rest[64 : 64 + length], rng)
    if made is None or begin > len(rest):
        return None
    return rest[:16] + len(made).to_bytes(8, "little") + rest[24:64] + made.ljust(begin - 64, b"\0") + rest[begin:]


TARGETS = {
    "gguf": Target(gguf, gguf_seeds, mutators.gguf),
    "safetensors": Target(safetensors, safetensors_seeds, mutators.safetensors),
    "config": Target(config, config_seeds, mutators.text),
    "quantised": Target(quantised, quantised_seeds, quantised_mutator),
    "tokenizer": Target(tokenizer, tokenizer_seeds, mutators.text),
    "index": Target(index, index_seeds, mutators.text),
    "importance": Target(importance, importance_seeds, mutators.gguf),
    "cache": Target(cache, cache_seeds, cache_mutator),
}
