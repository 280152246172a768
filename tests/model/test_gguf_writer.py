"""The writer against the gguf package's reader and our own; what it refuses; that nothing half-written stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_writer import Declared, GgufWriter, Value, value_of
from lanewise.model.quantize import WRITABLE, quantize_rows

NUMBERS: dict[str, Any] = {
    "UINT8": st.integers(0, 255), "INT8": st.integers(-128, 127), "UINT16": st.integers(0, 2**16 - 1),
    "INT16": st.integers(-(2**15), 2**15 - 1), "UINT32": st.integers(0, 2**32 - 1),
    "INT32": st.integers(-(2**31), 2**31 - 1), "FLOAT32": st.floats(width=32, allow_nan=False), "BOOL": st.booleans(),
    "UINT64": st.integers(0, 2**64 - 1), "INT64": st.integers(-(2**63), 2**63 - 1),
    "FLOAT64": st.floats(allow_nan=False),
}  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEY = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=12)
SCALARS = {**NUMBERS, "STRING": TEXT}
VALUES = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda kind: st.one_of(SCALARS[kind], st.lists(SCALARS[kind], max_size=5)).map(lambda v: Value(kind, v))
)


@settings(max_examples=40)
@given(pairs=st.dictionaries(KEY, VALUES, max_size=8), alignment=st.sampled_from([8, 32, 64, 4096]), seed=st.integers())
def test_both_readers_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, Value], alignment: int, seed: int
) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("written") / "m.gguf"
    random = np.random.default_rng(abs(seed))
    data = {
        f"t{i}.weight": (kind, quantize_rows(random.standard_normal((3, 256 * (i % 2 + 1))).astype(np.float32), kind))
        for i, kind in enumerate(random.permutation(WRITABLE)[:6])
    }
    shapes = {name: (3, 256 * (i % 2 + 1)) for i, name in enumerate(data)}
    tensors = [Declared(name, str(kind), shapes[name]) for name, (kind, _) in data.items()]
    with GgufWriter(path, pairs, tensors, alignment=alignment) as writer:
        for name, (_, blocks) in data.items():
            writer.write(name, blocks[:1])
            writer.write(name, blocks[1:])
    with open_gguf(path) as ours:
        for key, value in pairs.items():
            again = value_of(ours.metadata[key], ours.types[key])
            assert again.kind == value.kind
            assert list(again.value) == value.value if isinstance(value.value, list) else again.value == value.value
        for name, (kind, blocks) in data.items():
            assert ours.tensor(name).type.name == kind
            assert ours.tensor(name).shape == shapes[name]
            assert ours.tensor(name).start % alignment == 0
            assert np.array_equal(ours.rows(name), blocks)
    theirs = gguf.GGUFReader(path)
    assert {tensor.name for tensor in theirs.tensors} == set(data)
    for tensor in theirs.tensors:
        assert tensor.data.tobytes() == data[tensor.name][1].tobytes()
    for key, value in pairs.items():
        if value.value != []:
            assert theirs.fields[key].contents() == value.value


A, B = np.zeros(8, np.float32), np.ones(4, np.float32)


def writer(path: Path, **given: Any) -> GgufWriter:
    return GgufWriter(path, {}, [Declared("a", "F32", (2, 4)), Declared("b", "F32", (4,))], **given)


def write(path: Path, *, half: bool = False, then: Any = None, overwrite: bool = False) -> None:
    """Both tensors, or only one; then() is called before the end."""
    with writer(path, overwrite=overwrite) as out:
        out.write("a", A)
        if not half:
            out.write("b", B)
        if then:
            then()


def stop() -> None:
    raise RuntimeError("stop")


def test_nothing_is_left_of_a_file_that_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(RuntimeError, match="stop"):
        write(path, then=stop)
    with pytest.raises(ValueError, match="b was declared, but not"):
        write(path, half=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="is there already"):
        write(path)
    with pytest.raises(ValueError, match="was declared"):
        write(path, half=True, overwrite=True)
    assert path.read_text() == "old"
    seen: list[str] = []
    write(path, overwrite=True, then=lambda: seen.append(path.read_text()))
    assert seen == ["old"]
    with open_gguf(path) as file:
        assert file.array("b").tolist() == [1, 1, 1, 1]
    path.unlink()
    with pytest.raises(FileExistsError):
        write(path, then=lambda: path.write_text("someone else's"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_text() == "someone else's"


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with writer(path) as out:
        with pytest.raises(ValueError, match="b was written where a is due"):
            out.write("b", np.zeros(4, np.float32))
        with pytest.raises(ValueError, match="36 bytes, but only 32"):
            out.write("a", np.zeros(9, np.float32))
        out.write("a", np.zeros(8, np.float32))
        out.write("b", np.zeros(4, np.float32))
        with pytest.raises(ValueError, match="where nothing is due"):
            out.write("b", np.zeros(4, np.float32))
    wrong: list[tuple[dict[str, Value], list[Declared], str]] = [
        ({"k": Value("UINT8", 256)}, [], "k: 256 cannot be written as UINT8"),
        ({"k": Value("INT32", [1, "a"])}, [], "cannot be written as INT32"),
        ({"k": Value("STRING", 5)}, [], "cannot be written as STRING"),
        ({"k": Value("ARRAY", 5)}, [], "'ARRAY' is not known"),
        ({"": Value("UINT8", 1)}, [], "cannot be a key"),
        ({}, [Declared("x" * 64, "F32", (1,))], "cannot be the name of a tensor"),
        ({}, [Declared("x", "Q9", (1,))], "'Q9' is not known"),
        ({}, [Declared("x", "Q4_0", (2, 40))], r"shape \[2, 40\] cannot be Q4_0"),
        ({}, [Declared("x", "F32", (1, 1, 1, 1, 1))], "cannot be F32"),
        ({}, [Declared("x", "F32", (1,))] * 2, "same name"),
    ]
    for pairs, tensors, message in wrong:
        with pytest.raises(ValueError, match=message):
            GgufWriter(path, pairs, tensors, overwrite=True)
    for alignment in (0, 4, 12, 1 << 21):
        with pytest.raises(ValueError, match="the alignment must be"):
            writer(path, alignment=alignment, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
