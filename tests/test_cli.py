"""The command line from outside: output, exit codes, pipes, interrupts, on a real model."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lanewise
from lanewise import cli, doctor
from lanewise.cli.facts import table
from lanewise.cli.options import size

PACKAGE = Path(lanewise.__file__).parent
BUILTIN = (PACKAGE / "builtin" / "config.json").is_file()
needs_builtin = pytest.mark.skipif(not BUILTIN, reason="this build ships no built-in model")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "utf-8"}


@pytest.fixture(scope="module")
def model():
    """The built-in model; else a small one of the shared data."""
    if BUILTIN:
        return "builtin"
    from shared import shared

    return str(shared("models", "stories260K"))


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "lanewise", *map(str, arguments)],
        env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def lanewise_run(*arguments, stdin=""):
    process = start(*arguments)
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out, err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lanewise {lanewise.__version__}\n"


@needs_builtin
def test_the_first_command_of_a_newcomer():
    code, out, err = lanewise_run("generate", "Once upon a time")
    assert code == 0
    assert len(out.split()) > 5
    assert err.count("\n") == 1


def test_generate(model):
    code, out, err = lanewise_run("generate", "Once upon a time", "-m", model, "--temperature", 0, "--max-tokens", 12)
    assert code == 0
    assert out.endswith("\n")
    assert "Traceback" not in err
    assert "prompt" in err
    assert "generated 12 tokens" in err
    assert "tokens/s" in err
    flags = ["-m", model, "--temperature", 0, "--max-tokens", 12, "--quiet"]
    code, piped, err = lanewise_run("generate", "-", *flags, stdin="Once upon a time")
    assert (code, piped, err) == (0, out, "")


def test_generate_json(model, capsys):
    flags = [
        "generate",
        "Once",
        "-m",
        model,
        "--json",
        "--seed",
        "1",
        "--max-tokens",
        "5",
        "--logprobs",
        "2",
        "-n",
        "2",
    ]
    assert cli.main([*flags, "--top-k", "20", "--stop", "zzz", "--logit-bias", "5=-1.5", "--ignore-eos"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert found["prompt"] == "Once"
    assert found["usage"]["completion_tokens"] == 5
    assert len(found["candidates"]) == 2
    assert len(found["logprobs"]) == 5
    assert len(found["logprobs"][0]["top"]) == 2


def test_samples_ids_and_echo(model, capsys):
    assert (
        cli.main(["generate", "5, 6 7", "--ids", "-m", model, "--max-tokens", "3", "-n", "2", "-q", "--seed", "0"]) == 0
    )
    assert capsys.readouterr().out.count("--- sample") == 2
    assert cli.main(["generate", "Once", "--echo", "-m", model, "--max-tokens", "3", "-q"]) == 0
    assert capsys.readouterr().out.startswith("Once")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "PROMPT"),
        (["generate", "x", "--temperature", "-1"], "temperature must be at least 0"),
        (["generate", "x", "--tempature", "1"], "unrecognized"),
        (["generate", "x y", "--ids"], "whole numbers"),
        (["generate", "x", "--memory-limit", "lots"], "no size"),
        (["bench", "-p", "many"], "no list"),
        (["bench", "--repeat", "0"], "--repeat"),
        (["dance"], "invalid choice"),
        ([], "required"),
    ],
)
def test_wrong_usage_is_2(arguments, message, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as caught:  # argparse
        code = caught.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["generate", "x", "-m"], ["info"], ["bench", "--no-limits", "-m"], ["chat", "-m"]])
def test_failures_are_1_and_one_line(command, tmp_path, capsys):
    assert cli.main([*command, str(tmp_path / "nothing here")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("lanewise: error: ")
    assert err.count("\n") == 1
    assert "nothing here" in err
    assert cli.main([*command, str(tmp_path / "nothing here"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_overflow_names_both_numbers(model, capsys):
    assert cli.main(["generate", "Once", "-m", model, "--context", "16", "--max-tokens", "100"]) == 1
    assert "the context holds 16" in capsys.readouterr().err
    assert (
        cli.main(["generate", "Once " * 50, "-m", model, "--context", "16", "--truncate", "left", "--max-tokens", "4"])
        == 0
    )
    assert "cut off" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(model):
    process = start("generate", "Once upon a time", "-m", model, "--ignore-eos", "--max-tokens", 400, "-q")
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == cli.BROKEN_PIPE
    assert err == ""


def test_an_interrupt_is_130(model):
    process = start(
        "generate", "Once upon a time", "-m", model, "--ignore-eos", "--max-tokens", 400,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert time.monotonic() - begin < 5


def test_chat_from_a_pipe(model):
    script = "/help\nOnce upon\na time\n/reset\n/what\n\nOnce upon\n/exit\nnever read\n"
    code, out, err = lanewise_run("chat", "-m", model, "--temperature", 0, "--max-tokens", 8, "--stats", stdin=script)
    assert code == 0
    assert "/reset  forget" in err
    assert "unknown command /what" in err
    figures = [line for line in err.splitlines() if line.startswith("prompt")]
    assert len(figures) == 3
    assert "cached" in figures[1]
    assert out
    code, out, _ = lanewise_run(
        "chat", "-m", model, "--temperature", 0, "--max-tokens", 8, "--json", stdin="Hello\nagain\n"
    )
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(answers) == 2
    assert answers[1]["usage"]["cached_tokens"] > 0


def test_info(model, capsys):
    assert cli.main(["info", model, "--context", "100"]) == 0
    assert "llama" in capsys.readouterr().out
    assert cli.main(["info", model, "--context", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["context"] == 100


@pytest.mark.parametrize("kind", ["q8", "Q4_0", "q4_k_m"])
def test_info_plans_a_quantised_load(kind, model, capsys):
    assert cli.main(["info", model, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert cli.main(["info", model, "--json", "--quantize", kind]) == 0
    found = json.loads(capsys.readouterr().out)
    with lanewise.load(model, quantize=kind) as llm:
        assert found["formats"] == llm.info()["formats"]
        assert found["memory"]["weights"] == llm.memory_plan()["weights"]
    assert found["memory"]["weights"] < plain["memory"]["weights"]
    assert found["file_bytes"] == plain["file_bytes"]


@pytest.mark.parametrize("command", [["info"], ["generate", "a", "-m"], ["chat", "-m"]])
def test_an_unknown_type_is_wrong_usage(command, model, capsys):
    assert cli.main([*command, model, "--quantize", "q5"]) == 2
    assert "'q5' is neither a preset nor a type that can be written; known: q4, " in capsys.readouterr().err


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "scalar" in text
    assert cli.main(["doctor", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert tables
    for each in tables:
        line = next(line for line in text.splitlines() if line.split()[:1] == [each["name"]])
        assert (f"not usable: {each['missing']}" in line) != each["usable"]
    assert cli.main(["doctor", "--isa", "abacus"]) == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have the scalar table alone")
def test_doctor_marks_tables_that_no_cpu_was_measured_with(capsys):
    found = doctor.report()
    own = [each for each in found["tables"] if not each["name"].startswith(("emulated_", "broken_"))]
    assert [each["name"] for each in own if not each["measured"]] == ["avx_vnni"]
    assert tuple(each["name"] for each in own if each["measured"]) == doctor.MEASURED
    for usable in (True, False):
        tables = [{**each, "usable": usable, "missing": None if usable else "AVX-VNNI"} for each in own]
        lines = doctor.render({**found, "tables": tables}).splitlines()
        marked = [line.split()[0] for line in lines if line.endswith("; not yet measured on silicon")]
        assert marked == ["avx_vnni"]


def test_bench(model, capsys):
    flags = ["bench", "-m", model, "-p", "8,16", "-g", "4", "--depth", "0,20", "--repeat", "1", "--no-limits"]
    assert cli.main([*flags, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    prefills = [("prefill", depth, tokens) for depth in (0, 20) for tokens in (8, 16)]
    decodes = [("decode", depth, 4) for depth in (0, 20)]
    assert [(r["phase"], r["depth"], r["tokens"]) for r in rows] == prefills + decodes
    assert all(r["tokens_per_second"] > 0 and r["fraction"] is None for r in rows)
    assert cli.main(flags) == 0
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "value"), [("4GiB", 4 << 30), ("800M", 800_000_000), ("12", 12), ("1.5k", 1500)])
def test_sizes(text, value):
    assert size(text) == value


def test_table():
    assert table({"a_b": 1234, "cache": 2048, "inner": {"x": "y"}}).splitlines() == [
        "a b    1,234",
        "cache  2.0 KiB",
        "inner",
        "  x  y",
    ]


def test_import_is_cheap():
    """Nothing heavy is loaded by the import alone."""
    heavy = ("torch", "tokenizers", "jinja2", "rich", "lanewise.llm")
    code = f"import lanewise, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_names():
    for name in lanewise.__all__:
        assert getattr(lanewise, name) is not None
        assert name in dir(lanewise)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lanewise.nothing
