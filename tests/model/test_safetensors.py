"""The safetensors reader: round trips against the safetensors library, and every hostile file it must refuse."""

# ruff: noqa: E501, PT018 (tables of cases, and facts that belong together)

from __future__ import annotations

import gc
import json
import mmap
import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanewise.errors import LoadError, UnsupportedError
from lanewise.model.folder import resolve
from lanewise.model.safetensors import DTYPES, open_weights
from shared import needs_shared, shared

A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
DATA = bytes(range(16))
NUMPY = {"F32": "f4", "F64": "f8", "F16": "f2", "I8": "i1", "U8": "u1", "I16": "i2", "U16": "u2", "I32": "i4",
         "U32": "u4", "I64": "i8", "U64": "u8", "BOOL": "?", "C64": "c8"}  # fmt: skip


def pack(header: Any, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def entry(**changes: Any) -> bytes:
    return pack({"a": {key: value for key, value in (A | changes).items() if value is not None}})


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, pack({"__metadata__": {"format": "pt"}, "a": A}))
    with open_weights(tmp_path) as weights:
        assert weights.names() == ["a"] == list(weights) and len(weights) == 1 and "a" in weights
        info = weights.info("a")
        assert (info.name, info.dtype, info.shape, info.nbytes, info.file) == ("a", "F32", (2, 2), 16, path)
        array = weights.array("a")
        assert array.tobytes() == DATA and array.shape == (2, 2) and not array.flags.writeable
        assert weights.files == [path] and weights.nbytes == 16
        with pytest.raises(LoadError, match="no such tensor"):
            weights.info("b")
    assert array.tobytes() == DATA  # an array outlives the reader
    with open_weights(path) as weights:
        assert weights.names() == ["a"]


@settings(max_examples=60, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 5), max_size=4)),
        max_size=8,
    ),
    metadata=st.none() | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_round_trip_with_the_library(tensors: Any, metadata: Any, seed: int, tmp_path_factory: Any) -> None:
    library = pytest.importorskip("safetensors.numpy")
    folder = tmp_path_factory.mktemp("round")
    random = np.random.default_rng(seed)
    arrays = {}
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(NUMPY[dtype]).itemsize
        raw = random.integers(0, 2 if dtype == "BOOL" else 256, size, np.uint8)
        arrays[name] = raw.view(NUMPY[dtype]).reshape(shape)
    path = folder / "model.safetensors"
    library.save_file(arrays, path, metadata or None)  # the library's own header for {} and no tensor is not JSON
    with open_weights(folder) as weights:
        assert set(weights.names()) == set(arrays)
        for name, array in arrays.items():
            assert weights.info(name).dtype == tensors[name][0]
            got = weights.array(name)
            assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes()
            weights.release(name)
            assert weights.array(name).tobytes() == array.tobytes()


def test_bfloat16_and_small_floats(tmp_path: Path) -> None:
    header = {
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "e": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [6, 10]},
        "f": {"dtype": "F4", "shape": [4], "data_offsets": [10, 12]},
        "scalar": {"dtype": "U8", "shape": [], "data_offsets": [12, 13]},
        "none": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [13, 13]},
    }
    write(tmp_path, pack(header, bytes(range(13))))
    with open_weights(tmp_path) as weights:
        assert weights.array("b").dtype == np.uint16 and weights.array("b").tolist() == [0x0100, 0x0302, 0x0504]
        assert weights.array("e").dtype == np.uint8 and weights.array("e").shape == (2, 2)
        assert weights.array("f").tolist() == [10, 11] and weights.array("scalar").shape == ()
        assert weights.array("none").shape == (0, 2**40)
    assert all(bits % 8 == 0 or view is None for bits, view in DTYPES.values())


def many(count: int, offsets: str) -> bytes:
    parts = [b'"t%d":{"dtype":"U8","shape":[16],"data_offsets":%s}' % (i, offsets.encode()) for i in range(count)]
    return b"{" + b",".join(parts) + b"}"


HOSTILE: dict[str, tuple[bytes, str]] = {
    "S01 empty": (b"", "header length"),
    "S02 7 bytes": (b"\0" * 7, "header length"),
    "S03 8 bytes, length 0": (struct.pack("<Q", 0), "header"),
    "S04 length 0": (struct.pack("<Q", 0) + DATA, "header"),
    "S05 length 2^64-1": (struct.pack("<Q", 2**64 - 1) + DATA, "header length"),
    "S06 length 2^63": (struct.pack("<Q", 2**63) + DATA, "header length"),
    "S07 length over the limit": (struct.pack("<Q", 100_000_001) + DATA, "header length"),
    "S08 length over the file": (struct.pack("<Q", 17) + DATA, "header length"),
    "S09 not UTF-8": (pack(b'{"\xff":1}'), "UTF-8"),
    "S10 not JSON": (pack(b"{hello}"), "JSON"),
    "S11 array": (pack(b"[1]"), "header"),
    "S12 leading BOM": (pack(b"\xef\xbb\xbf" + json.dumps({"a": A}).encode()), "header"),
    "S13 NUL padding": (pack(json.dumps({"a": A}).encode() + b"\0\0"), "JSON"),
    "S14 leading space": (pack(b" " + json.dumps({"a": A}).encode()), "header"),
    "S15 depth 100,000": (pack(b'{"a":' * 100_000), "deeper"),
    "S16 list depth 100,000": (pack(b'{"a":' + b"[" * 100_000), "deeper"),
    "S17 depth 9": (pack(b'{"a":' + b"[" * 8 + b"]" * 8 + b"}"), "deeper"),
    "S18 100k tensors over one range": (pack(many(100_000, "[0,16]")), "overlaps"),
    "S19 duplicate, same value": (pack(b'{"a":%s,"a":%s}' % ((json.dumps(A).encode(),) * 2)), "twice"),
    "S20 duplicate, other value": (pack(b'{"a":%s,"a":1}' % json.dumps(A).encode()), "twice"),
    "S21 duplicate field": (pack(b'{"a":{"dtype":"F32","dtype":"U8","shape":[4],"data_offsets":[0,16]}}'), "twice"),
    "S22 dtype unknown": (entry(dtype="F128"), "dtype"),
    "S23 dtype a number": (entry(dtype=4), "dtype"),
    "S24 dtype missing": (entry(dtype=None), "dtype"),
    "S25 shape missing": (entry(shape=None), "shape"),
    "S26 offsets missing": (entry(data_offsets=None), "data_offsets"),
    "S27 extra field": (entry(more=1), "data_offsets"),
    "S28 shape negative": (entry(shape=[-2, -2]), "shape"),
    "S29 shape float": (entry(shape=[2.0, 2]), "shape"),
    "S30 shape string": (entry(shape=["2", 2]), "shape"),
    "S31 shape true": (entry(shape=[True, 4]), "shape"),
    "S32 shape 2^64": (entry(shape=[2**64]), "shape"),
    "S33 shape product wraps to 16 bytes": (entry(shape=[2**32, 2**30, 4]), "shape"),
    "S34 overflow beside a zero": (entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0]), "shape"),
    "S35 shape of 100 dimensions": (entry(shape=[1] * 100), "dimensions"),
    "S36 shape a number": (entry(shape=4), "shape"),
    "S37 integer of 10,000 digits": (
        pack(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,16]}}' % (b"9" * 10000)),
        "",
    ),
    "S38 offsets reversed": (entry(data_offsets=[16, 0]), "data_offsets"),
    "S39 offsets negative": (entry(data_offsets=[-16, 0]), "data_offsets"),
    "S40 offsets float": (entry(data_offsets=[0, 16.0]), "data_offsets"),
    "S41 three offsets": (entry(data_offsets=[0, 8, 16]), "data_offsets"),
    "S42 NaN": (pack(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'), "shape"),
    "S43 not starting at 0": (pack({"a": A | {"data_offsets": [4, 20]}}, bytes(20)), "hole"),
    "S44 past the end": (pack({"a": A | {"shape": [3, 2], "data_offsets": [0, 24]}}), "cut short"),
    "S45 far past the end": (pack({"a": A | {"shape": [2**57], "data_offsets": [0, 2**59]}}), "cut short"),
    "S46 truncated by a byte": (pack({"a": A}, DATA[:-1]), "cut short"),
    "S47 trailing bytes": (pack({"a": A}, DATA + b"PK\x05\x06" + bytes(18)), "after the last"),
    "S48 no tensors but bytes": (pack({}), "after the last"),
    "S49 leading polyglot": (b"PK\x03\x04" + bytes(26) + pack({"a": A}), "header"),
    "S50 overlap": (pack({"a": A, "b": A | {"data_offsets": [8, 24]}}, bytes(24)), "overlaps"),
    "S51 hole": (pack({"a": A, "b": A | {"data_offsets": [20, 36]}}, bytes(36)), "hole"),
    "S52 metadata with an object": (pack({"__metadata__": {"x": {}}, "a": A}), "__metadata__"),
    "S53 metadata with a number": (pack({"__metadata__": {"x": 1}, "a": A}), "__metadata__"),
    "S54 metadata a string": (pack({"__metadata__": "x", "a": A}), "__metadata__"),
    "S55 metadata like a tensor": (pack({"__metadata__": A, "a": A}), "__metadata__"),
    "S56 F4, odd count": (entry(dtype="F4", shape=[3], data_offsets=[0, 1]), "whole number"),
    "S57 tensor a number": (pack({"a": 1}), "dtype"),
    "S58 10 M empty entries": (pack(b'{"a":{},' + b'"b":{},' * 10_000_000), "tensors"),
    "S59 10 M strings": (pack(b'{"__metadata__":{"a":"",' + b'"":"",' * 10_000_000), "text"),
    "S60 20 M numbers": (pack(b'{"a":{"shape":[' + b"1," * 20_000_000), "text"),
    "S61 lone surrogate name": (pack(b'{"\\ud800":{"dtype":"F32","shape":[9],"data_offsets":[0,16]}}'), "data_offsets"),
}


def plain_parsing(content: bytes) -> float:
    """Processor seconds that json alone takes for a header, 0 where it is not JSON."""
    start = time.process_time()
    try:
        json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except (ValueError, struct.error, RecursionError):
        return 0.0
    return time.process_time() - start


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name: str, tmp_path: Path) -> None:
    content, word = HOSTILE[name]
    path = write(tmp_path, content)
    gc.collect()  # what other tests left must not close meanwhile
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    start = time.process_time()
    with pytest.raises(LoadError) as caught:
        open_weights(path)
    spent = time.process_time() - start
    assert spent < 1.0 or spent < 5 * plain_parsing(content)  # the second for a slow or busy machine
    message = str(caught.value)
    assert str(path) in message and word in message and len(message) < 2000 and message.isprintable()
    assert caught.value.file == str(path)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
        assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", ["S18 fewer", "S58 10 M empty entries", "S59 10 M strings"])
def test_hostile_file_takes_little_memory(name: str, tmp_path: Path) -> None:
    # A fifth of S18's tensors with a fifth of the memory: tracing every allocation is slow.
    content, limit = (pack(many(20_000, "[0,16]")), 12) if name == "S18 fewer" else (HOSTILE[name][0], 64)
    path = write(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(LoadError):
            open_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(content) + (limit << 20)


def test_a_name_of_a_megabyte_gives_a_short_message(tmp_path: Path) -> None:
    write(tmp_path, pack({"\n\x1b[31m" * 100_000: A | {"dtype": "no"}}))
    with pytest.raises(LoadError) as caught:
        open_weights(tmp_path)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


def two_shards(folder: Path, **changes: Any) -> dict[str, Any]:
    write(folder, pack({"a": A}), "one.safetensors")
    write(folder, pack({"b": A}), "two.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"} | changes
    index = {"metadata": {"total_size": 32}, "weight_map": {k: v for k, v in weight_map.items() if v is not None}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_shards(tmp_path: Path) -> None:
    two_shards(tmp_path)
    with open_weights(tmp_path) as weights:
        assert weights.names() == ["a", "b"] and weights.info("b").file.name == "two.safetensors"
        assert weights.array("b").tobytes() == DATA


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"a": "../../etc/passwd"}, "a"), ({"a": "/etc/passwd"}, "a"), ({"a": ".."}, "a"), ({"a": "x\\y"}, "a"), ({"a": ""}, "a"),
        ({"a": 1}, "a"), ({"a": "three.safetensors"}, None), ({"a": "two.safetensors"}, "a"), ({"c": "one.safetensors"}, "c"),
        ({"a": "two.safetensors", "b": "one.safetensors"}, "b"), ({"a": None, "b": None}, "weight_map"),
    ],
)  # fmt: skip
def test_hostile_index(changes: dict[str, Any], field: str | None, tmp_path: Path) -> None:
    two_shards(tmp_path, **changes)
    with pytest.raises(LoadError) as caught:
        open_weights(tmp_path)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}', "[" * 100_000]
)  # fmt: skip
def test_broken_index(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(LoadError, match=r"index\.json"):
        open_weights(tmp_path)


def test_links(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir(), folder.mkdir()
    write(outside, pack({"a": A}))
    (folder / "model.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(LoadError, match="leads out"):
        open_weights(folder)
    (tmp_path / "alias").symlink_to(outside, target_is_directory=True)
    open_weights(tmp_path / "alias").close()
    (folder / "model.safetensors").unlink()
    write(folder, pack({"a": A}), "real.safetensors")
    (folder / "model.safetensors").symlink_to("real.safetensors")
    open_weights(folder).close()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(LoadError):
        open_weights(folder)
    (folder / "model.safetensors").unlink()
    two_shards(folder)
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(LoadError, match="leads out"):
        open_weights(folder)


def test_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "hub" / "models--some--model"
    snapshot = repo / "snapshots" / "0123abc"
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True)
    write(repo / "blobs", pack({"a": A}), "feed")
    (snapshot / "model.safetensors").symlink_to("../../blobs/feed")
    (repo / "refs" / "main").write_text("0123abc\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert resolve("some/model") == snapshot == resolve("some/model", "0123abc")
    with open_weights(resolve("some/model")) as weights:
        assert weights.names() == ["a"]
    with pytest.raises(LoadError, match="hf download some/other"):
        resolve("some/other")
    for revision in ("v2", "../../x", "", "/"):
        if revision:
            with pytest.raises(LoadError):
                resolve("some/model", revision)
    (repo / "refs" / "main").write_text("../../../..")
    with pytest.raises(LoadError, match="commit"):
        resolve("some/model")
    (tmp_path / "hub" / "models--other--model" / "blobs").mkdir(parents=True)
    write(tmp_path / "hub" / "models--other--model" / "blobs", pack({"a": A}), "cafe")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../models--other--model/blobs/cafe")
    with pytest.raises(LoadError, match="leads out"):
        open_weights(snapshot)


def test_folders_that_hold_no_safetensors(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="neither"):
        open_weights(tmp_path)
    with pytest.raises(LoadError, match="no such"):
        open_weights(tmp_path / "nowhere")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UnsupportedError, match="name one"):
        open_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(LoadError, match="save_pretrained"):
        open_weights(tmp_path)
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match="regular"):
        open_weights(tmp_path)


def test_resolve(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path == resolve(str(write(tmp_path, pack({"a": A}))))
    with pytest.raises(LoadError, match="no such"):
        resolve(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnsupportedError):
        resolve(tmp_path / "notes.txt")


def resident(address_of: np.ndarray[Any, Any]) -> int:
    """KiB of the mapping around an array that lie in memory (Linux)."""
    address = address_of.ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head:
            low, high = (int(part, 16) for part in head.split("-"))
            inside = low <= address < high
        elif inside and head == "Rss:":
            return int(line.split()[1])
    raise AssertionError("no mapping")


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc/self/smaps")
def test_release_gives_memory_back(tmp_path: Path) -> None:
    size = 8 << 20
    header = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate("ab")
    }
    write(tmp_path, pack(header, bytes(2 * size)))
    with open_weights(tmp_path) as weights:
        a, b = weights.array("a"), weights.array("b")
        assert a.max() == 0 and b.max() == 0 and resident(a) >= 2 * size >> 10
        weights.release("a")
        assert size >> 10 <= resident(a) <= (size + 4 * mmap.PAGESIZE) >> 10
        assert a.max() == 0  # comes back from the file


@needs_shared
def test_shared_models_equal_the_library() -> None:
    library = pytest.importorskip("safetensors.numpy")
    folder = shared("models", "stories260K")
    expected = library.load_file(folder / "model.safetensors")
    with open_weights(folder) as weights:
        assert set(weights) == set(expected)
        assert all(np.array_equal(weights.array(name), expected[name]) for name in expected)
