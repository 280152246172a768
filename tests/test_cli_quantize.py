"""lanewise quantize and calibrate from outside: files, messages, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lanewise import cli
from lanewise.model.gguf import open_gguf
from lanewise.model.importance import read_importance
from shared import needs_shared, shared


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def stories() -> Path:
    return shared("models", "stories260K")


@needs_shared
def test_a_folder_becomes_a_file_that_generates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "s.gguf"
    code, out, err = run(capsys, "quantize", stories(), target, "--type", "q8")
    assert code == 0
    assert "260,032 weights" in out
    assert err == "note: blk.*.ffn_down.weight (5): rows of 172 do not fit Q8_0; F16 instead\n"
    told = ("generate", "Once upon a time", "--temperature", 0, "--max-tokens", 24)
    assert run(capsys, *told, "-m", target)[1] == run(capsys, *told, "-m", stories())[1]
    assert run(capsys, *told, "-m", stories(), "--quantize", "q8")[1] == run(capsys, *told, "-m", target)[1]


@needs_shared
def test_json_and_overwriting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "s.gguf"
    code, out, err = run(capsys, "quantize", stories(), target, "--type", "Q4_0", "--embedding", "Q4_0", "--json")
    found = json.loads(out)
    assert (code, err, found["types"].keys()) == (0, "", {"Q4_0", "F16", "F32"})
    assert found["file_bytes"] == target.stat().st_size
    before = target.read_bytes()
    code, out, err = run(capsys, "quantize", stories(), target, "--type", "q8")
    assert (code, out) == (1, "")
    assert "is there already; --force overwrites it" in err
    assert target.read_bytes() == before
    assert run(capsys, "quantize", stories(), target, "--type", "q8", "--force")[0] == 0
    assert target.read_bytes() != before
    again = tmp_path / "again.gguf"
    code, _, err = run(capsys, "quantize", target, again, "--type", "q4")
    assert code == 0
    assert "note: the source is quantised already (Q8_0)" in err


@needs_shared
def test_a_mixture_of_llama_cpp(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "s.gguf"
    code, _, err = run(capsys, "quantize", stories(), target, "--type", "q4_k_m")
    assert code == 0
    assert "blk.*.attn_q.weight (5): rows of 64 do not fit Q4_K; Q4_1 instead" in err
    with open_gguf(target) as opened:
        assert opened.metadata["general.file_type"] == 15
        types = [opened.tensor(f"blk.{i}.attn_v.weight").type.name for i in range(5)]
    assert types == ["Q4_1", "Q4_1", "Q8_0", "Q4_1", "Q8_0"]
    told = ("generate", "Once upon a time", "--temperature", 0, "--max-tokens", 24)
    assert run(capsys, *told, "-m", target)[1] == run(capsys, *told, "-m", stories(), "--quantize", "Q4_K_M")[1]


@needs_shared
def test_calibrating_and_its_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text, file = tmp_path / "t.txt", tmp_path / "i.gguf"
    text.write_text(shared("text", "tinyshakespeare.txt").read_text("utf-8")[:4000])
    code, out, _ = run(capsys, "calibrate", stories(), text, "-o", file, "--chunk", 64, "--max-tokens", 640, "--json")
    found = json.loads(out)
    assert (code, found["tokens"], found["chunks"], found["matrices"]) == (0, 640, 10, 36)
    assert len(read_importance(file)["blk.4.ffn_down.weight"]) == 172
    assert run(capsys, "calibrate", stories(), text, "-o", file)[0] == 1
    rows = []
    for more in ((), ("--importance", file)):
        target = tmp_path / f"{len(more)}.gguf"
        assert run(capsys, "quantize", stories(), target, "--type", "Q4_1", *more, "--json")[0] == 0
        with open_gguf(target) as opened:
            rows.append(opened.rows("blk.0.attn_q.weight").copy())
            assert ("quantize.imatrix.file" in opened.metadata) == bool(more)
    assert rows[0].shape == rows[1].shape
    assert (rows[0] != rows[1]).any()


@needs_shared
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("quantize", "SRC", "x.bin"), 2, "DST must end in .gguf"),
        (("quantize", "SRC", "x.gguf", "--type", "q5"), 2, "'q5' is neither a preset nor a type"),
        (("quantize", "SRC", "x.gguf", "--head", "Q9"), 2, "'Q9' is no type that can be written"),
        (("quantize", "SRC", "x.gguf", "--threads", "0"), 2, "--threads must be at least 1"),
        (("quantize", "nowhere/at/all", "x.gguf"), 1, "there is no such folder or file"),
        (("quantize", "SRC", "no/folder/x.gguf"), 1, "No such file or directory"),
        (("quantize", "SRC", "x.gguf", "--importance", "nothing"), 1, "nothing: cannot be opened"),
        (("quantize", "SRC", "x.gguf", "--type", "IQ2_M"), 2, "known: q4, q4m, q6, q8, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S"),
        (("quantize", "builtin", "x.gguf"), 1,
         "pre_tokenizer: cuts words in a way that has no name in GGUF (--no-tokenizer writes the file without one)"),
        (("calibrate", "SRC", "nothing.txt", "-o", "i.gguf"), 1, "No such file"),
        (("calibrate", "SRC", "empty.txt", "-o", "i.gguf"), 2, "TEXT is empty"),
        (("calibrate", "SRC", "empty.txt", "-o", "i.gguf", "--chunk", "0"), 2, "--chunk must be at least 1"),
    ],
)  # fmt: skip
def test_what_fails(
    arguments: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    found = run(capsys, *(stories() if argument == "SRC" else argument for argument in arguments))
    assert found[:2] == (code, "")
    assert message in found[2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["empty.txt"], "nothing half-written"


@needs_shared
def test_the_builtin_model_without_its_tokenizer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "quantize", "builtin", tmp_path / "b.gguf", "--type", "q4", "--no-tokenizer")
    assert code == 0
    assert "note: the file has no tokenizer" in err
