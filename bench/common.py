"""What all benchmarks share: arguments, interleaving, medians, the limits of the same run, results as JSON.

Import it before numpy: the threads of its BLAS are set from --threads through the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def _threads_asked() -> str | None:
    found = re.search(r"--threads[ =](\d+)", " ".join(sys.argv[1:]))
    return found.group(1) if found else None


THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
if _threads_asked():
    for _name in THREADS:
        os.environ[_name] = _threads_asked() or ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)  # numpy must run the kernel that is best here, not the one that somebody's shell names
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path.append(sys.path.pop(0))  # last: `kernels` and `model` here must not hide packages of that name
try:
    import lanewise
except ImportError:
    sys.path.append(str(HERE.parent / "pkg"))
    import lanewise
from lanewise import _native, doctor  # noqa: E402
from lanewise.model.model import make_context  # noqa: E402

READ_BYTES = doctor.BEYOND_CACHES
SHORT = (
    5  # bursts of arithmetic at once, the best counts: one of milliseconds is easily disturbed, and a limit is a limit
)


def arguments(description: str, repeat: int = 5) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of every contender; default: what lanewise chooses")
    parser.add_argument("--isa", help="the kernel table; default: the best")
    parser.add_argument("--repeat", type=int, default=repeat, help="rounds; medians are over them")
    parser.add_argument("--seconds", type=float, default=100.0, help="no new round is begun after so long")
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures to FILE; '-': print them instead of the table"
    )
    return parser


def median(values: list[float]) -> float:
    return statistics.median(values)


def interleave(
    contenders: Mapping[str, Callable[[], float]], repeat: int, seconds: float = 100.0, rotate: bool = True
) -> dict[str, list[float]]:
    """Each contender once a round; returns what each gave (seconds, or a rate), the first round not counted.

    rotate: another contender begins in each round, so that none always runs on the heat that another left.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    names, begin = list(contenders), time.monotonic()
    for round_ in range(repeat + 1):
        order = names[round_ % len(names) :] + names[: round_ % len(names)] if rotate else names
        measured = {name: contenders[name]() for name in order}
        if round_ or repeat == 0:
            for name, value in measured.items():
                values[name].append(value)
        if round_ and time.monotonic() - begin > seconds:
            break
    return values


def timed(run: Callable[[], Any], least: float = 0.0) -> Callable[[], float]:
    """A contender: seconds of one call of `run`, the mean over enough calls to last `least` seconds."""
    calls = 0

    def contender() -> float:
        nonlocal calls
        if not calls:
            begin = time.perf_counter()
            run()
            calls = max(1, int(least / max(time.perf_counter() - begin, 1e-7)))
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - begin) / calls

    return contender


class Limits:
    """The machine's limits, as contenders to interleave with whatever is measured: operations/s, bytes/s."""

    def __init__(self, threads: int | None, isa: str | None) -> None:
        self.context = make_context(isa, threads)

    def contenders(self, *what: str) -> dict[str, Callable[[], float]]:
        """Of "float32", "bfloat16" (the float32 rate where the table has no such dot) and "read"."""
        return {f"limit {name}": self._contender(name) for name in what}

    def _contender(self, name: str) -> Callable[[], float]:
        counts = "float32" if name == "bfloat16" and not self.context.has_dot else name
        nbytes = READ_BYTES if name == "read" else 0

        def contender() -> float:
            bursts = [self.context.measure(counts, nbytes) for _ in range(1 if name == "read" else SHORT)]
            return max(work / seconds for work, seconds in bursts)

        return contender


def machine(context: _native.Context) -> dict[str, Any]:
    """What a figure means nothing without; no host name, no path."""
    found = doctor.report()
    keys = ("cpu", "system", "lanewise", "compiler", "python", "numpy", "libc", "cores", "caches", "huge_pages")
    return {**{key: found[key] for key in keys}, "isa": context.isa, "threads": context.threads}


def cpu_name() -> str:
    """The CPU as results are named: epyc-zen4, or the model that its vendor writes; never a host name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text().split("\n\n")[0] if info.exists() else ""
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, flags=re.M))
    name = facts.get("model name", doctor.report()["cpu"])
    if name.startswith("AMD "):
        family, model = int(facts["cpu family"]), int(facts["model"])
        zen = {23: "zen2" if model >= 48 else "zen", 25: "zen4" if model >> 4 in (1, 6, 7, 10) else "zen3", 26: "zen5"}
        name = f"{name.split()[1]} {zen.get(family, f'family {family}')}"
    name = re.sub(r"\(R\)|\(TM\)|CPU|@.*", " ", name)
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def result_name(kind: str, subject: str, context: _native.Context, isa: str | None = None) -> str:
    """The name of a JSON file under bench/results/, by the rule of its README; isa: where it was forced."""
    parts = [time.strftime("%Y-%m-%d"), kind, subject, *([isa] if isa else []), cpu_name(), f"{context.threads}t"]
    return "-".join(parts) + ".json"


def finish(args: argparse.Namespace, context: _native.Context, kind: str, figures: dict[str, Any], text: str) -> None:
    """Prints the table, or writes the figures with the machine they belong to."""
    data = {"bench": kind, "date": time.strftime("%Y-%m-%d"), "machine": machine(context), **figures}
    whole = json.dumps(data, indent=1, default=float) + "\n"
    whole = re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\s+", " ", match.group()), whole)  # a row is a line
    if args.json == "-":
        sys.stdout.write(whole)
        return
    sys.stdout.write(text.rstrip() + "\n")
    if args.json:
        Path(args.json).write_text(whole)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Columns as wide as they need to be; the first to the left, the rest to the right."""
    cells = [head, *[[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def versions(*modules: str) -> dict[str, str]:
    """Versions of the peers that are loaded."""
    return {name: getattr(sys.modules[name], "__version__", "?") for name in modules if name in sys.modules}


__all__ = [
    "HERE", "THREADS", "Limits", "arguments", "cpu_name", "finish", "interleave", "lanewise", "machine", "make_context",
    "median", "result_name", "table", "timed", "versions",
]  # fmt: skip
