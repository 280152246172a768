"""The GGUF reader: against the gguf package, malformed files, and models that have to equal their safetensors form."""

from __future__ import annotations

import contextlib
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_pairs import MODELS, pair
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Player, same_bits, some_ids

from corpus.make import ARR, BOOL, I32, STR, U32, U64, Case, array, cases, f32, plain, value, with_tensor
from lanewise.errors import LoadError, UnsupportedError
from lanewise.model.folder import resolve
from lanewise.model.gguf import ELEMENTS, open_gguf
from lanewise.model.gguf_arrays import GgufArray
from lanewise.model.gguf_model import open_weights, read_model
from lanewise.model.gguf_types import TYPES
from lanewise.model.model import Model, describe
from lanewise.model.source import open_source
from shared import needs_shared, shared

CASES: dict[str, Case] = dict(cases())
UNSOUND = [name for name, case in CASES.items() if case.error]


def load(path: Path) -> None:
    with open_source(path) as source:
        source.tokenizer()


# ---- the container ----


def test_reads_what_is_there(tmp_path: Path) -> None:
    made = plain()
    made.pairs += [("a.numbers", value(ARR, array(I32, [1, -2]))), ("a.flags", value(ARR, array(BOOL, [1, 0]))),
                   ("a.big", value(U64, 2**64 - 1)), ("a.text", value(STR, "läuft"))]  # fmt: skip
    (tmp_path / "m.gguf").write_bytes(made.build())
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.metadata["general.architecture"] == "llama"
        assert file.metadata["a.big"] == 2**64 - 1
        assert file.metadata["a.text"] == "läuft"
        assert file.types["a.big"] == "UINT64"
        assert file.metadata["a.numbers"].numbers().tolist() == [1, -2]
        assert file.metadata["a.flags"].numbers().tolist() == [True, False]
        tokens = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, GgufArray)
        assert (len(tokens), tokens.kind, tokens.strings()[7]) == (8, "STRING", "▁a")
        with pytest.raises(LoadError, match="not of numbers"):
            tokens.numbers()
        with pytest.raises(LoadError, match=r"a\.numbers: is an array of 2 INT32, not of strings"):
            file.metadata["a.numbers"].strings()
        tensor = file.tensor("blk.0.ffn_down.weight")
        assert (tensor.shape, tensor.nbytes, tensor.type.name) == ((8, 12), 384, "F32")
        found = file.array("blk.0.ffn_down.weight")
        assert found.shape == (8, 12)
        assert not found.flags.writeable
        assert found.tobytes() == f32("", 12, 8).data
        with pytest.raises(LoadError, match="no such tensor"):
            file.tensor("nothing")
        assert file.nbytes == sum(t.nbytes for t in made.tensors)
    assert found[0, 0] == -0.75  # an array outlives the reader


@pytest.mark.parametrize("kind", [number for number, kind in TYPES.items() if kind.view or kind.values])
def test_most_elements_beside_a_zero(kind: int, tmp_path: Path) -> None:
    """Found by fuzzing: NumPy counts the bytes of an empty array without its zeros, and they must not overflow."""
    block = TYPES[kind].block
    most = ELEMENTS // block * block
    for dims in ([most, 0], [0, most], [block, 0, most // block], [0, 2**30, 2**30 - 1]):
        (tmp_path / "m.gguf").write_bytes(with_tensor(dims=dims, kind=kind, nbytes=0).build())
        with open_gguf(tmp_path / "m.gguf") as file:
            assert file.array("x").shape == file.tensor("x").shape == tuple(reversed(dims))
    (tmp_path / "m.gguf").write_bytes(with_tensor(dims=[0, ELEMENTS + 1], kind=kind, nbytes=0).build())
    with pytest.raises(LoadError, match=f"x: dimensions .* product is over {ELEMENTS}"):
        open_gguf(tmp_path / "m.gguf")


def test_boolean_array_with_a_two(tmp_path: Path) -> None:
    made = plain()
    made.pairs.append(("a.flags", value(ARR, array(BOOL, [1, 2]))))
    (tmp_path / "m.gguf").write_bytes(made.build())
    with open_gguf(tmp_path / "m.gguf") as file, pytest.raises(LoadError, match=r"a\.flags"):
        file.metadata["a.flags"].numbers()


@settings(max_examples=40, deadline=None)
@given(
    integers=st.dictionaries(st.text("abc._", min_size=1, max_size=9), st.integers(-(2**31), 2**31 - 1), max_size=4),
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5),
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    shapes=st.lists(st.tuples(st.sampled_from(["F32", "F16", "I8", "Q8_0", "F64"]),
                              st.lists(st.integers(1, 4), min_size=1, max_size=4)), max_size=5),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_round_trip_with_the_package(
    integers: Any, texts: Any, floats: Any, shapes: Any, seed: int, tmp_path_factory: Any
) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("round") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, number in integers.items():
        writer.add_int32(f"i.{key}", number)
    if texts:
        writer.add_array("texts", texts)
    if floats:
        writer.add_array("floats", floats)
    random = np.random.default_rng(seed)
    written: dict[str, Any] = {}
    for i, (kind, shape) in enumerate(shapes):
        if kind == "Q8_0":
            raw = random.integers(0, 120, (*shape, 34), np.uint8).reshape(*shape[:-1], -1)
            writer.add_tensor(f"t{i}", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            written[f"t{i}"] = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
        else:
            dtype = {"F32": "f4", "F16": "f2", "I8": "i1", "F64": "f8"}[kind]
            written[f"t{i}"] = random.integers(-100, 100, shape).astype(dtype)
            writer.add_tensor(f"t{i}", written[f"t{i}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as file:
        assert {key: file.metadata[f"i.{key}"] for key in integers} == integers
        assert not texts or file.metadata["texts"].strings() == texts
        assert not floats or file.metadata["floats"].numbers().tolist() == floats
        assert list(file.tensors) == list(written)
        for name, expected in written.items():
            found = file.array(name)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert found.tobytes() == expected.tobytes()


def test_opening_leaves_arrays_in_the_file(tmp_path: Path) -> None:
    made = plain()
    made.pairs.append(("big", value(ARR, u32_array(4 << 20))))
    path = tmp_path / "m.gguf"
    path.write_bytes(made.build())
    tracemalloc.start()
    try:
        with open_gguf(path) as file:
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
            assert len(file.metadata["big"]) == 4 << 20
    finally:
        tracemalloc.stop()


def u32_array(count: int) -> bytes:
    return U32.to_bytes(4, "little") + count.to_bytes(8, "little") + bytes(4 * count)


# ---- malformed files ----


def test_the_corpus_is_large_enough() -> None:
    assert len(UNSOUND) >= 125
    assert len(CASES) - len(UNSOUND) >= 10


@pytest.mark.parametrize("name", UNSOUND)
def test_malformed_file(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = case.write(tmp_path / "case.gguf")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    start = time.process_time()
    with pytest.raises(case.error or LoadError) as caught:
        load(path)
    assert time.process_time() - start < (1.0 if path.stat().st_size < 1 << 20 else 3.0)  # a busy machine's second
    message = str(caught.value)
    assert str(path) in message
    assert case.field is not None
    assert case.field in message
    assert len(message) < 2000
    assert message.isprintable()
    assert isinstance(caught.value, LoadError)
    assert caught.value.file == str(path)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before  # fewer, if something of an earlier test went meanwhile
        assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNSOUND])
def test_sound_file(name: str, tmp_path: Path) -> None:
    load(CASES[name].write(tmp_path / "case.gguf"))


@pytest.mark.parametrize(
    "name", ["K08 65,536 keys", "K16 nested 10,000 deep", "T33 60,000 tensors in one place", "T36 1 GiB behind",
             "V13 a token of 32 KiB"]
)  # fmt: skip
def test_malformed_file_takes_little_memory(name: str, tmp_path: Path) -> None:
    path = CASES[name].write(tmp_path / "case.gguf")
    size = path.stat().st_size if not CASES[name].tail else 0
    tracemalloc.start()
    try:
        with pytest.raises(LoadError):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size + (64 << 20)


def test_cut_anywhere(tmp_path: Path) -> None:
    whole, path = plain().build(), tmp_path / "m.gguf"
    for end in range(0, len(whole), 1 if len(whole) < 1 << 12 else 3):
        path.write_bytes(whole[:end])
        with pytest.raises(LoadError):
            load(path)


@settings(max_examples=300, deadline=None)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_altered_bytes(edits: list[tuple[float, int]], tmp_path_factory: Any) -> None:
    """Any file loads or is refused, in the same way."""
    whole = bytearray(plain().build())
    head = len(plain().head())
    for where, byte in edits:
        whole[int(where * (head - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "altered.gguf"
    path.write_bytes(whole)
    with contextlib.suppress(LoadError):
        load(path)


# ---- models ----


def logits(path: Path, ids: Any, **given: Any) -> Any:
    model = Model.load(path, **given)
    try:
        return Player(model).feed(ids)
    finally:
        model.close()


@pytest.mark.parametrize("name", MODELS)
def test_architectures_equal_their_safetensors(name: str, tmp_path: Path) -> None:
    folder, file = pair(tmp_path, name)
    ids = some_ids(100, 60)
    assert same_bits(logits(folder, ids), logits(file, ids))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_types_equal_their_dequantised_values(name: str, kind: str, tmp_path: Path) -> None:
    folder, file = pair(tmp_path, name, kind)
    ids = some_ids(40, 60)
    expected = logits(folder, ids, dtype="bfloat16" if kind == "BF16" else "float32", kv_dtype="float32")
    dtype = "float32" if kind.startswith("Q") else "auto"
    assert same_bits(expected, logits(file, ids, dtype=dtype, kv_dtype="float32"))
    plan = describe(file, dtype=dtype)["formats"]
    assert set(plan) == {"bfloat16" if kind == "BF16" else "float32"}


def test_rope_factors(tmp_path: Path) -> None:
    """Llama 3.1's scaling, worked out by the converter into factors: the same frequencies but for a rounding."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    given: dict[str, Any] = {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder, file = pair(tmp_path, "llama", rope_theta=500000.0, **given)
    with open_gguf(file) as opened:
        plain_spec = read_model(opened)[0]
    config = json.loads((folder / "config.json").read_text()) | {"rope_scaling": scaling}
    (folder / "config.json").write_text(json.dumps(config))
    with open_source(folder) as source:
        wanted = np.array(source.spec.rope.inv_freq)
    factors = (np.array(plain_spec.rope.inv_freq) / wanted).astype(np.float32)
    made = plain()
    made.tensors.append(f32("rope_freqs.weight", 2))
    made.tensors[-1].data = factors[[0, 9]].tobytes()
    path = tmp_path / "factors.gguf"
    path.write_bytes(made.build())
    with open_gguf(path) as opened:
        rope = read_model(opened)[0].rope
    expected = np.array([1.0, np.float32(0.01)], np.float32) / factors[[0, 9]]
    assert np.array(rope.inv_freq, np.float32).tobytes() == expected.tobytes()
    assert rope.scaling.kind == "llama3"
    assert factors.max() == pytest.approx(8.0)
    assert factors.min() == 1.0


@needs_shared
@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_shared_model_in_float32_equals_safetensors(name: str) -> None:
    folder = shared("models", name)
    file = shared("models", name, f"{name}-f32.gguf")
    ids = some_ids(200, 105)
    assert same_bits(logits(folder, ids), logits(file, ids))
    spec, ours = describe(folder), describe(file)
    assert {key for key in spec if spec[key] != ours[key]} <= {"source", "files", "file_bytes", "eos_ids"}


@needs_shared
@pytest.mark.parametrize(
    ("name", "kind"),
    [("stories260K", kind) for kind in ("f16", "q8_0", "q4_0")]
    + [("babyllama-105", kind) for kind in ("f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")],
)  # fmt: skip
def test_shared_model_equals_its_dequantised_values(name: str, kind: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    save = pytest.importorskip("safetensors.numpy").save_file
    folder, file = shared("models", name), shared("models", name, f"{name}-{kind}.gguf")
    reader = gguf.GGUFReader(file)
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    with open_source(folder) as source:
        spec, tensors = source.spec, list(source.spec.tensors())
    with open_gguf(file) as opened:
        theirs = list(read_model(opened)[0].tensors())
    out: dict[str, Any] = {}
    for ours, other in zip(tensors, theirs, strict=True):
        value_ = values[other.name].reshape(ours.shape)
        if ours.role in ("q", "k"):
            a = spec.layers[0].attention
            heads = a.heads if ours.role == "q" else a.kv_heads
            value_ = value_.reshape(heads, a.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(ours.shape)
        out[ours.name] = np.ascontiguousarray(value_, np.float32)
    save(out, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    ids = some_ids(120, 105)
    dtype = "bfloat16" if kind == "bf16" else "float32"
    expected = logits(tmp_path, ids, dtype=dtype, kv_dtype="float32")
    asked = "float32" if kind.startswith("q") else "auto"  # quantised: expanded
    assert same_bits(expected, logits(file, ids, dtype=asked, kv_dtype="float32"))


def test_resolve_and_describe(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(plain().build())
    assert resolve(path) == path == resolve(tmp_path)
    found = describe(tmp_path)
    assert (found["architecture"], found["layers"], found["files"]) == ("llama", 1, [str(path)])
    with pytest.raises(LoadError, match="no such"):
        resolve(tmp_path / "none.gguf")
    (tmp_path / "n.gguf").touch()
    with pytest.raises(LoadError, match="name one"):
        resolve(tmp_path)
    (tmp_path / "link.gguf").symlink_to(path)
    assert open_gguf(tmp_path / "link.gguf").size == path.stat().st_size
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(LoadError):
        resolve(tmp_path / "pipe.gguf")
    with pytest.raises(LoadError, match="regular"):
        open_gguf(tmp_path / "pipe.gguf")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnsupportedError):
        resolve(tmp_path / "notes.txt")


def test_release_and_close(tmp_path: Path) -> None:
    _, path = pair(tmp_path, "llama", "Q8_0")
    file = open_gguf(path)
    weights = open_weights(file, read_model(file)[0])
    name = "blk.0.ffn_gate.weight"
    before = weights.array(name)
    weights.release(name)
    assert np.array_equal(weights.array(name), before)
    assert weights.info(name).dtype == "F32"
    assert weights.stored(name) == "Q8_0"
    assert weights.info(name).nbytes == before.size // 32 * 34
    assert sorted(weights) == sorted(weights.names())
    assert len(weights) == len(weights.names())
    view = weights.array("output_norm.weight")
    weights.close()
    assert float(view[0]) == view[0]  # still there
