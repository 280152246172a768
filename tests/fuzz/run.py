"""Fuzzes the readers with atheris, and the C that packs what they read: python tests/fuzz/run.py [TARGET ...] [-runs=N]
[--total N] [libFuzzer options]

Without a target, all of them one after another. Anything but LoadError is a finding, and so is more than a second of
the processor or 512 MiB. A finding is written to build/fuzz/ with the command that repeats it, and ends the run with
1. Starting points are made anew (`targets.py`); what is found to reach new code is kept in build/fuzz/corpus.
The target `pack` is a program of its own, csrc/tests/fuzz_pack.c, which `make fuzz` builds; without clang it draws its
inputs.

--total N: so many executions of all targets together, in rounds, at low priority; build/fuzz/counts.json has how many
there have been, so that it can be stopped and started again. tests/fuzz/run.py TARGET FILE repeats one input.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PLACE = TESTS.parent / "build" / "fuzz"
NATIVE = "pack"
NAMES = ("gguf", "safetensors", "index", "config", "quantised", "tokenizer", "importance", "cache", NATIVE)
SECONDS, MEMORY = 1.0, 512 << 20
HANG = 1200  # by the clock, for what never comes back: a stopped or loaded machine must not look like it
REBASED = 1000  # executions: atheris itself keeps up to 2.5 KB of each, which is not to count as the reader's
ROUND = 200_000  # of one process
DEFAULT = "-runs=20000"
_PROGRESS = re.compile(r"#\d+\s|INFO: Instrumenting")


class Sources(importlib.abc.MetaPathFinder):
    """Finds the package's modules as plain files: those of an editable installation's finder are not instrumented."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        place = TESTS.parent / "pkg" / name.replace(".", "/")
        if (place / "__init__.py").is_file():
            found = [str(place)]
            return importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=found)
        file = place.with_suffix(".py")
        return importlib.util.spec_from_file_location(name, file) if file.is_file() else None


def allow_memory() -> None:
    """MEMORY more than the process holds now."""
    with open("/proc/self/status") as file:
        held = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def child(name: str, arguments: list[str]) -> None:
    """Runs one target in this process until libFuzzer ends it."""
    import atheris

    sys.path.insert(0, str(TESTS))
    sys.meta_path.insert(0, Sources())
    with atheris.instrument_imports(include=["lanewise"]):
        from fuzz import targets
    target = targets.TARGETS[name]
    seeds = PLACE / "seeds" / name
    seeds.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (seeds / hashlib.sha1(data).hexdigest()).write_bytes(data)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="lanewise-fuzz-", dir=memory))
    count = 0

    def one(data: bytes) -> None:
        nonlocal count
        if count % REBASED == 0:
            allow_memory()
        count += 1
        start = time.process_time()
        with contextlib.suppress(targets.LoadError):
            target.one(data, folder)
        spent = time.process_time() - start
        if spent > SECONDS:
            raise RuntimeError(f"took {spent:.1f} s")

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = target.mutator(data, rng) if rng.random() < 0.85 else None
        if changed is None or len(changed) > most:
            return bytes(atheris.Mutate(data, most))
        return changed

    corpus = PLACE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    files = [argument for argument in arguments if not argument.startswith("-")]
    options = [argument for argument in arguments if argument.startswith("-")]
    given = files or [str(corpus), str(seeds)]
    fixed = [f"-max_len={targets.SMALL}", f"-timeout={HANG}", "-report_slow_units=1000",
             f"-artifact_prefix={PLACE}/{name}-", "-rss_limit_mb=2048"]  # fmt: skip
    atheris.Setup([sys.argv[0], *fixed, *options, *given], one, custom_mutator=mutate)
    atheris.Fuzz()


def native(arguments: list[str]) -> list[str]:
    """The command of the target in C, as it was built last: for libFuzzer, or drawing its inputs."""
    programs = [PLACE.parent / folder / "fuzz_pack" for folder in ("libfuzzer", "asan")]
    built = [program for program in programs if program.exists()]
    if not built:
        raise SystemExit(f"{NATIVE}: not built; `make fuzz` builds it")
    program = max(built, key=lambda program: program.stat().st_mtime)
    corpus = PLACE / "corpus" / NATIVE
    corpus.mkdir(parents=True, exist_ok=True)
    command = [str(program), f"-artifact_prefix={PLACE}/{NATIVE}-", *arguments]
    if program.parent.name == "libfuzzer":
        command[1:1] = ["-max_len=8192", f"-timeout={HANG}", "-rss_limit_mb=2048"]
        if all(argument.startswith("-") for argument in arguments):
            command.append(str(corpus))
    return command


def run(name: str, arguments: list[str], show: bool) -> tuple[int, float]:
    """One target in a process of its own: (executions, seconds). SystemExit when it finds something."""
    start = time.monotonic()
    command = native(arguments) if name == NATIVE else [sys.executable, __file__, "--child", name, *arguments]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(  # atheris prints the traceback of a finding to stdout, libFuzzer all else to stderr
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    )
    counted = re.search(r"Done (\d+) runs", done.stdout)
    count, spent = int(counted.group(1)) if counted else 0, time.monotonic() - start
    if done.returncode:
        PLACE.mkdir(parents=True, exist_ok=True)
        (PLACE / f"{name}.log").write_text(done.stdout)
        print("\n".join(line for line in done.stdout.splitlines() if not _PROGRESS.match(line))[-6000:])
        where = re.search(r"Test unit written to (\S+)", done.stdout)
        repeat = f"; repeat it with: {sys.executable} {__file__} {name} {where.group(1)}" if where else ""
        raise SystemExit(f"{name}: a finding, exit {done.returncode}{repeat}")
    if show:
        print(f"{name:<12} {count:>9,} executions, {spent:6.1f} s, {count / spent:7,.0f} a second", flush=True)
    return count, spent


def campaign(names: list[str], total: int, arguments: list[str]) -> None:
    """Rounds of the targets in turn until `total` executions are counted."""
    os.nice(10)
    PLACE.mkdir(parents=True, exist_ok=True)
    state = PLACE / "counts.json"
    counts: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
    while sum(counts.values()) < total:
        name = min(names, key=lambda name: counts.get(name, 0))
        share = -(-total // len(names)) - counts.get(name, 0)
        runs = min(ROUND, max(share, 1), total - sum(counts.values()))
        count, _ = run(name, [f"-runs={runs}", *arguments], True)
        counts[name] = counts.get(name, 0) + count
        fresh = state.with_suffix(".new")
        fresh.write_text(json.dumps(counts))
        fresh.replace(state)
    print(f"{sum(counts.values()):,} executions without a finding: {counts}")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        child(arguments[1], arguments[2:])
        return
    total = 0
    if "--total" in arguments:
        i = arguments.index("--total")
        total = int(arguments[i + 1].replace("_", ""))
        del arguments[i : i + 2]
    names = [name for name in arguments if name in NAMES] or list(NAMES)
    rest = [argument for argument in arguments if argument not in NAMES]
    if total:
        campaign(names, total, rest)
        return
    if not any(argument.startswith(("-runs", "-max_total_time")) or not argument.startswith("-") for argument in rest):
        rest.append(DEFAULT)
    counts = [run(name, rest, True) for name in names]
    print(f"{sum(count for count, _ in counts):,} executions without a finding")


if __name__ == "__main__":
    main(sys.argv[1:])
