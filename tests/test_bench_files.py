"""bench/compare.py on GGUF files: its arithmetic, and a run on a small file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))  # last: the folders of the tests have names that are there, too

import compare_files  # noqa: E402
import make_model  # noqa: E402
from sides import Case  # noqa: E402

from lanewise.cli.bench import Work  # noqa: E402
from lanewise.model.convert import quantize_model  # noqa: E402

INFO = {
    "vocabulary": 100, "hidden": 10, "parameters": 6000, "tied": True, "weight_bytes": 3000, "heads": 2, "head_dim": 5,
    "windows": {"full": 3}, "formats": {"q4_0": 2000, "q6_k": 1000}, "bf16_dot": False,
}  # fmt: skip


def test_limit_of_a_prefill() -> None:
    seconds, which = compare_files.ideal(Work(INFO, 8), Case("prefill", 4), {"int8": 1e6, "read": 1e9})
    # 5000 weights of the layers for 4 tokens, 1000 of the head once; 10 pairs in 3 layers, 4 * 2 * 5 operations each
    assert seconds == pytest.approx((2 * 5000 * 4 + 2 * 1000 + 10 * 3 * 40) / 1e6)
    assert which == "int8 peak"


def test_limit_of_several_sequences() -> None:
    case = Case("decode", 2, 128, 8)
    seconds, which = compare_files.ideal(Work(INFO, 8), case, {"int8": 1e12, "read": 1e6})
    assert seconds == pytest.approx((2 * 3000 + 8 * 8 * (129 + 130)) / 1e6)  # the weights once a step
    assert which == "read bandwidth"
    seconds, which = compare_files.ideal(Work(INFO, 8), case, {"int8": 1e6, "read": 1e12})
    assert seconds == pytest.approx(8 * (2 * 2 * 6000 + 3 * 40 * (129 + 130)) / 1e6)  # logits of every token
    assert which == "int8 peak"


def test_arithmetic_is_that_of_most_weights() -> None:
    assert Work(INFO, 8).arithmetic == "int8"
    floats = {**INFO, "formats": {"bfloat16": 9000, "q6_k": 1000}}
    assert Work(floats, 8).arithmetic == "float32"
    assert Work({**floats, "bf16_dot": True}, 8).arithmetic == "bfloat16"


def test_rounds_are_compared_one_by_one() -> None:
    """The bandwidth of a virtual machine may double from one minute to the next; sums over both would say nothing."""
    work, case = Work(INFO, 8), Case("decode", 2)
    slow = compare_files.Round({"lanewise": 2.0, "llama.cpp": 3.0}, {"int8": 1e12, "read": 4e3}, True)
    fast = compare_files.Round({"lanewise": 1.0, "llama.cpp": 2.0}, {"int8": 1e12, "read": 8e3}, True)
    disturbed = compare_files.Round({"lanewise": 9.0, "llama.cpp": 1.0}, {"int8": 1e12, "read": 1e3}, False)
    found = compare_files.row(case, work, [slow, fast, disturbed])
    assert found["ratio"] == {"llama.cpp": pytest.approx(1.75)}
    least = 2 * 3000 + 8 * 3
    assert found["fraction_of_limit"]["lanewise"] == pytest.approx((least / 4e3 / 2.0 + least / 8e3 / 1.0) / 2)
    assert found["tokens_per_second"]["llama.cpp"] == pytest.approx(2 / 2.5)
    assert (found["rounds"], found["steady"]) == (2, True)
    assert compare_files.row(case, work, [disturbed])["steady"] is False


def test_runs(tmp_path: Path) -> None:
    folder, file = tmp_path / "tiny", tmp_path / "tiny.gguf"
    make_model.write_model(folder, make_model.SHAPES["tiny"] | {"num_hidden_layers": 1}, "float32")
    quantize_model(folder, file, type="Q4_0", tokenizer=False)
    command = [sys.executable, str(BENCH / "compare.py"), str(file), "--repeat", "1", "--prefill", "20"]
    command += ["--decode", "3", "--depth", "70", "--sequences", "2", "--threads", "1", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert [row["case"] for row in run["rows"]] == [
        "prefill 20", "decode 3 at 0", "decode 3 at 70", "2 sequences at 128"
    ]  # fmt: skip
    for row in run["rows"]:
        assert set(row["ratio"]) == set(row["tokens_per_second"]) - {"lanewise"}
        assert all(rate > 0 for rate in row["tokens_per_second"].values())
    assert run["load"]["lanewise"]["peak_bytes"] > file.stat().st_size


def test_runs_without_cases(tmp_path: Path) -> None:
    folder, file = tmp_path / "tiny", tmp_path / "tiny.gguf"
    make_model.write_model(folder, make_model.SHAPES["tiny"] | {"num_hidden_layers": 1}, "float32")
    quantize_model(folder, file, type="q8", tokenizer=False)
    command = [sys.executable, str(BENCH / "compare.py"), str(file), "--repeat", "1", "--what", "load"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "load to first token" in done.stdout


def test_refuses_unknown_cases(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "compare.py"), str(tmp_path / "a.gguf"), "--what", "prefil"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "prefil is none of prefill, decode" in done.stderr
