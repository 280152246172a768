"""What this machine is, which kernels run on it and why, and how fast it can possibly go.

report() gathers facts at once; peaks() measures for some seconds; render() is the plain text for people.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import _native

MIB = 1 << 20
BEYOND_CACHES = 512 * MIB  # at least; four times the last cache where that is more
MIN_ROUNDS = 3
SHORT = 4  # bursts of arithmetic a round: they take milliseconds, reads a good part of a second
_ARITHMETIC = ("float32", "bfloat16", "int8")
# Tables whose speed was measured on CPUs that have their instructions; another is tested for its results alone.
MEASURED = ("amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "scalar")


def report(measure: bool = False, threads: int | None = None, isa: str | None = None) -> dict[str, Any]:
    """Everything that `lanewise doctor` says, as plain values (JSON can hold them).

    threads, isa: as for load(); what is wrong with them is reported under "error", not raised. measure: adds
    "peaks", which takes about five seconds.
    """
    from . import __version__

    machine = _native.machine()
    context, error = _context(threads, isa)
    found = {
        "lanewise": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "compiler": _compiler(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": machine["brand"].strip("\0 ") or platform.processor() or "unknown",
        "isa": context.isa if context else None,
        "isa_why": _isa_why(isa),
        "tables": [
            {"name": t.name, "usable": t.missing is None, "missing": t.missing, "measured": t.name in MEASURED}
            for t in _native.isas()
        ],
        "bf16_dot": context.has_dot if context else False,
        "cores": {key: machine[key] for key in ("logical", "physical", "affinity", "quota")},
        "threads": context.threads if context else None,
        "threads_why": _threads_why(machine, threads),
        "caches": {key: machine[key] for key in ("l1d", "l2", "l3")},
        "memory": _physical_memory(),
        "huge_pages": machine["huge_pages"],
        "error": error,
    }
    if measure and context is not None:
        found["peaks"] = peaks(threads=threads, isa=isa)
    return found


def peaks(seconds: float = 5.0, threads: int | None = None, isa: str | None = None) -> dict[str, Any]:
    """The machine's own limits, by the instructions of the table that runs: short bursts in turn until time is up.

    "one" (core) and "all" (chosen threads) hold operations/s of float32, bfloat16 and int8 (a multiply-add is two) and
    bytes/s of reads: "read" from memory, "read_l2" and "read_l3" from sets of that size; "barrier" is seconds a round
    of all threads. Each is {"median", "best", "bursts"}; a burst of reads is the best of a few passes. "notes": what a
    reader must know.
    Raises ValueError for unknown threads or isa.
    """
    machine = _native.machine()
    contexts = {"all": _make_context(threads, isa)}
    contexts["one"] = contexts["all"] if contexts["all"].threads == 1 else _make_context(1, isa)
    runs = list(_bursts(contexts, machine))
    rates: dict[tuple[str, str], list[float]] = {(where, what): [] for where, what, _ in runs}
    begin, rounds = time.monotonic(), 0
    while rounds < MIN_ROUNDS or time.monotonic() - begin < seconds:
        for where, what, burst in runs:
            rates[where, what] += [burst() for _ in range(1 if what == "read" else SHORT)]
        rounds += 1
    out: dict[str, Any] = {
        "isa": contexts["all"].isa, "threads": contexts["all"].threads, "rounds": rounds,
        "seconds": round(time.monotonic() - begin, 2), "one": {}, "all": {}, "notes": [],
    }  # fmt: skip
    for (where, what), values in rates.items():
        best = min(values) if what == "barrier" else max(values)
        out[where][what] = {"median": statistics.median(values), "best": best, "bursts": len(values)}
    if contexts["one"] is contexts["all"]:
        out["one"] = {what: value for what, value in out["all"].items() if what != "barrier"}
    if not contexts["all"].has_dot:
        for where in ("one", "all"):
            out[where]["bfloat16"] = dict(out[where]["float32"])
        out["notes"].append(
            f"{out['isa']} has no bf16 dot product: bf16 weights are widened to float32, "
            "so the bf16 limit is the float32 rate"
        )
    return out


def _bursts(
    contexts: dict[str, _native.Context], machine: dict[str, Any]
) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """(where, what, function that gives one rate) of all that is measured."""
    for where in ("one", "all") if contexts["one"] is not contexts["all"] else ("all",):
        context = contexts[where]
        for what in _ARITHMETIC:
            if what != "bfloat16" or context.has_dot:
                yield where, what, _rate(context, what, 0)
        for what, nbytes in working_sets(machine, context.threads).items():
            yield where, what, _rate(context, "read", nbytes)
    yield "all", "barrier", _barrier(contexts["all"])


def working_sets(machine: dict[str, Any], threads: int) -> dict[str, int]:
    """Bytes that are read for "read" and, where the caches are known and apart, "read_l2" and "read_l3"."""
    most = (_physical_memory() or 4 * BEYOND_CACHES) // 4
    sets = {"read": min(max(BEYOND_CACHES, 4 * machine["l3"]), most)}
    in_l2, in_l3 = machine["l2"] // 2 * threads, machine["l3"] // 4
    if machine["l2"]:
        sets["read_l2"] = in_l2
    if in_l3 >= 4 * in_l2:
        sets["read_l3"] = in_l3
    return {what: max(nbytes, 4096 * threads) for what, nbytes in sets.items()}


def _rate(context: _native.Context, what: str, nbytes: int) -> Callable[[], float]:
    def burst() -> float:
        work, seconds = context.measure(what, nbytes)
        return work / max(seconds, 1e-12)

    return burst


def _barrier(context: _native.Context) -> Callable[[], float]:
    def burst() -> float:
        rounds, seconds = context.measure("barrier", 0)
        return seconds / max(rounds, 1.0)

    return burst


def _make_context(threads: int | None, isa: str | None) -> _native.Context:
    from .model.model import make_context

    return make_context(isa, threads)


def _context(threads: int | None, isa: str | None) -> tuple[_native.Context | None, str | None]:
    try:
        return _make_context(threads, isa), None
    except (ValueError, OSError, MemoryError) as error:
        return None, str(error) or type(error).__name__


def _isa_why(isa: str | None) -> str:
    if isa:
        return "asked for"
    if os.environ.get("LANEWISE_ISA"):
        return "LANEWISE_ISA asks for it"
    return "the best that this machine can run"


def _threads_why(machine: dict[str, Any], threads: int | None) -> str:
    if threads is not None:
        return "asked for"
    limits = {
        "physical cores": machine["physical"],
        "CPUs in this process's affinity": machine["affinity"],
        "the cgroup's CPU quota": machine["quota"] or None,
    }
    known = {name: limit for name, limit in limits.items() if limit}
    if not known:
        return "nothing is known about this machine's cores"
    least = min(known.values())
    return (
        "the least of "
        + ", ".join(f"{limit:g} {name}" for name, limit in known.items())
        + ("" if machine["threads"] == int(least) else f", rounded to {machine['threads']}")
    )


def _compiler() -> str | None:
    """What compiled the extension, as its file says; None if it does not."""
    path = getattr(_native, "__file__", None)
    if not path or not Path(path).is_file():
        return None
    found = re.search(rb"(GCC: \([^)\0]{1,80}\) [0-9.]+|clang version [0-9.]+)", Path(path).read_bytes())
    return found.group().decode("ascii", "replace").replace("GCC: ", "GCC ") if found else None


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


# ---- plain text ----


def size(nbytes: float | None) -> str:
    """Bytes for people: 512 KiB, 4 MiB, 23.5 GiB."""
    if not nbytes:
        return "unknown"
    for unit, scale in (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1 << 10)):
        if nbytes >= scale:
            return f"{nbytes / scale:.4g} {unit}"
    return f"{nbytes:.0f} bytes"


def render(found: dict[str, Any]) -> str:
    """The lines of `lanewise doctor`: a report(), or peaks() alone."""
    if "tables" not in found:
        return "\n".join(_peak_lines(found))
    cores, caches = found["cores"], found["caches"]
    quota = f"{cores['quota']:g} CPUs" if cores["quota"] else "none"
    lines = [
        f"lanewise    {found['lanewise']}, {found['python']}, numpy {found['numpy']}, {found['libc'] or 'no libc'}",
        f"compiled by {found['compiler'] or 'unknown'}",
        f"system      {found['system']}, {size(found['memory'])} of memory",
        f"cpu         {found['cpu']}",
        f"cores       {cores['physical']} physical, {cores['logical']} logical, {cores['affinity']} usable here, "
        f"cgroup quota {quota}",
        f"caches      L1d {size(caches['l1d'])}, L2 {size(caches['l2'])}, L3 {size(caches['l3'])}",
        f"huge pages  {found['huge_pages']}",
        f"threads     {found['threads']} ({found['threads_why']})",
        "kernels",
    ]
    for table in found["tables"]:
        state = f"runs: {found['isa_why']}" if table["name"] == found["isa"] else "usable"
        state = state if table["usable"] else f"not usable: {table['missing']}"
        note = "" if table["measured"] else "; not yet measured on silicon"
        lines.append(f"  {table['name']:<13} {state}{note}")
    lines += [f"error       {found['error']}"] if found["error"] else []
    return "\n".join(lines + (_peak_lines(found["peaks"]) if "peaks" in found else []))


def _peak_lines(found: dict[str, Any]) -> list[str]:
    """A table: a line a limit, median (best) on one core and on all threads."""
    names = {
        "float32": ("float32", 1e9, "Gop/s"), "bfloat16": ("bfloat16", 1e9, "Gop/s"), "int8": ("int8", 1e9, "Gop/s"),
        "read": ("read, memory", 1e9, "GB/s"), "read_l3": ("read, L3", 1e9, "GB/s"),
        "read_l2": ("read, L2", 1e9, "GB/s"),
        "barrier": ("barrier", 1e-6, "us"),
    }  # fmt: skip

    def cell(where: str, what: str, scale: float) -> str:
        value = found[where].get(what)
        return f"{value['median'] / scale:.4g} ({value['best'] / scale:.4g})" if value else ""

    head = f"limits      {found['isa']}, median (best) of bursts in {found['rounds']} rounds, {found['seconds']:g} s"
    lines = [head, f"  {'':<22}{'1 core':<20}{found['threads']} thread{'s' if found['threads'] > 1 else ''}"]
    for what, (name, scale, unit) in names.items():
        if what in found["all"]:
            lines.append(f"  {f'{name}, {unit}':<22}{cell('one', what, scale):<20}{cell('all', what, scale)}".rstrip())
    return lines + [f"  note: {note}" for note in found["notes"]]
