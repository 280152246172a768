"""Where the packed cache is, and the command line's option for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lanewise import cli
from lanewise.model.packed_cache import cache_folder


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    usual = tmp_path / ".cache" / "lanewise" / "packed"
    assert cache_folder(None) is None
    assert cache_folder(False) is None
    assert cache_folder(True) == usual
    assert cache_folder("~/there") == tmp_path / "there"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be passed over, says the specification
    assert cache_folder(True) == usual
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(True) == tmp_path / "xdg" / "lanewise" / "packed"
    for value, wanted in {"0": None, "": None, "1": cache_folder(True), "/some/where": Path("/some/where")}.items():
        monkeypatch.setenv("LANEWISE_CACHE", value)
        assert cache_folder(None) == wanted
        assert cache_folder(False) is None


def generated(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[int], str]:
    """The ids, and what stood on stderr."""
    arguments = ["generate", "Once", "--json", "--max-tokens", "4", "--temperature", "0", *flags]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)["token_ids"], captured.err


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "usual"))
    wanted = generated(capsys)
    assert wanted[1] == ""
    for flag, folder in (
        ("1", tmp_path / "usual" / "lanewise" / "packed"),
        (str(tmp_path / "mine"), tmp_path / "mine"),
    ):
        for _ in range(2):
            assert generated(capsys, "--cache", flag) == wanted
        assert len(list(folder.glob("*.packed"))) == 1
    (tmp_path / "file").write_text("")
    ids, said = generated(capsys, "--cache", str(tmp_path / "file"))
    assert ids == wanted[0]
    assert "not written" in said
    assert said.count("\n") == 1
