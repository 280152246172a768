"""GGUF files here and in llama.cpp, whole models in turn: the page of `compare.py FILE.gguf ...`."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from sides import SIDES, Case, First, make
from workers import Worker, WorkerError

from lanewise.cli.bench import Work

OURS = "lanewise"
STEPS = 16  # of several sequences together
PROMPT = 512  # tokens after which the peak of memory is read
WHAT = ("prefill", "decode", "deep", "batch", "load")


def cases(args: argparse.Namespace) -> list[Case]:
    """What is measured, by --what."""
    found = {
        "prefill": [Case("prefill", args.prefill)],
        "decode": [Case("decode", args.decode)],
        "deep": [Case("decode", args.decode, args.depth)],
        "batch": [Case("decode", STEPS, 128, sequences) for sequences in args.sequences],
    }
    return [case for name in args.what for case in found.get(name, [])]


def ideal(work: Work, case: Case, peaks: dict[str, float]) -> tuple[float, str]:
    """Seconds that the machine's limits leave a case, and which limit that is."""
    if case.phase == "prefill":
        operations, nbytes = work.prefill_operations(case.depth, case.tokens), work.weight_bytes
    else:
        each = work.prefill_operations(case.depth, case.tokens) + 2.0 * work.head * (case.tokens - 1)
        operations = case.sequences * each
        cached = work.decode_bytes(case.depth, case.tokens) - case.tokens * work.weight_bytes
        nbytes = case.tokens * work.weight_bytes + case.sequences * cached
    return max(
        (operations / peaks[work.arithmetic], f"{work.arithmetic} peak"), (nbytes / peaks["read"], "read bandwidth")
    )


class Field:
    """One file: a process for each side, the cases in turn, the better variant of each side going on."""

    def __init__(self, file: Path, args: argparse.Namespace, limits: common.Limits) -> None:
        self.file, self.args, self.limits = file, args, limits
        self.threads = limits.context.threads
        self.how = {"kv_dtype": args.kv_dtype, "isa": args.isa}
        self.workers = {name: Worker(name, file, self.threads, self.how, make=make) for name in SIDES}
        self.facts: dict[str, Any] = {}
        for name, worker in list(self.workers.items()):
            try:
                self.facts[name] = worker.hello()
            except WorkerError as error:
                if name == OURS:
                    raise SystemExit(f"{file}: {error}") from None
                sys.stderr.write(f"{name} is left out: {error}\n")
                del self.workers[name]
        self.work = Work(self.facts[OURS]["info"], self.facts[OURS]["cache_per_token"])

    def measure(self, what: list[Case]) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Values by contender, `case|side|variant` or a limit; and what the first round gave, which chose variants."""
        runs: dict[str, Callable[[], float]] = {}
        for case in what:
            for name, worker in self.workers.items():
                for variant in self.facts[name]["variants"]:
                    runs[f"{case.name}|{name}|{variant}"] = lambda w=worker, c=case, v=variant: w.ask("turn", c, v)
        tried = {key: values[0] for key, values in common.interleave(runs, 0).items()}
        chosen: dict[str, Callable[[], float]] = {}
        limits = self.limits.contenders(self.work.arithmetic, "read")
        for case in what:
            chosen |= {f"{limit}|{case.name}": run for limit, run in limits.items()}
            for name in self.workers:
                best = min((key for key in tried if key.startswith(f"{case.name}|{name}|")), key=lambda k: tried[k])
                chosen[best] = runs[best]
        for case in what:
            for name, worker in self.workers.items():
                for variant in self.facts[name]["variants"]:
                    if f"{case.name}|{name}|{variant}" not in chosen:
                        worker.ask("drop", case, variant)
        return common.interleave(chosen, self.args.repeat, self.args.seconds, rotate=False, warm=True), tried

    def rows(self, what: list[Case]) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """A row a case, and the limits of the run."""
        if not what:
            return [], {}
        measured, tried = self.measure(what)
        peaks = {
            limit: common.median([v for key, vs in measured.items() if key.startswith(f"limit {limit}|") for v in vs])
            for limit in (self.work.arithmetic, "read")
        }
        rows = []
        for case in what:
            tokens = case.tokens * case.sequences
            keys = {name: key for name in self.workers for key in measured if key.startswith(f"{case.name}|{name}|")}
            seconds = {name: measured[key] for name, key in keys.items()}
            speed = {name: tokens / common.median(values) for name, values in seconds.items()}
            least, limit = ideal(self.work, case, peaks)
            rows.append({
                "case": case.name, "tokens": tokens, "tokens_per_second": speed,
                "ratio": {name: speed[OURS] / other for name, other in speed.items() if name != OURS},
                "limit": limit, "limit_tokens_per_second": tokens / least,
                "fraction_of_limit": {name: value * least / tokens for name, value in speed.items()},
                "variant": {name: key.split("|")[2] for name, key in keys.items() if key.split("|")[2]},
                "first_round": {key.split("|", 1)[1]: tokens / s for key, s in tried.items()
                                if key.split("|")[0] == case.name},
                "seconds": seconds,
            })  # fmt: skip
        return rows, peaks

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()

    def first(self) -> dict[str, dict[str, Any]]:
        """Load to first token and peak memory, each in fresh processes, the file in the page cache."""
        with open(self.file, "rb") as file:
            while file.read(1 << 24):
                pass
        found: dict[str, list[dict[str, float]]] = {name: [] for name in self.workers}
        for _ in range(self.args.repeat):
            for name, values in found.items():
                worker = Worker(name, self.file, self.threads, self.how, PROMPT, make=First)
                try:
                    values.append(worker.hello())
                finally:
                    worker.close()
        size = self.file.stat().st_size
        return {
            name: {
                "seconds": statistics.median(v["seconds"] for v in values),
                "all_seconds": [v["seconds"] for v in values],
                "peak_bytes": statistics.median(v["peak_bytes"] for v in values),
                "peak_over_file": statistics.median(v["peak_bytes"] for v in values) / size,
            }
            for name, values in found.items()
        }


def page(field: Field, rows: list[dict[str, Any]], first: dict[str, Any], peaks: dict[str, float]) -> str:
    """The tables of one file."""
    info, others = field.facts[OURS]["info"], [name for name in field.workers if name != OURS]
    formats = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in info["formats"].items())
    text = f"{field.file.name}: {info['parameters']:,} parameters, {formats}; keys and values {info['kv_dtype']}; "
    text += f"{info['isa']}, {field.threads} threads; tokens/s\n"
    if rows:
        rates = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in peaks.items())
        text += f"limits of this run: {rates} (Gop/s, GB/s)\n"
        cells = [
            [row["case"], *(row["tokens_per_second"][name] for name in (OURS, *others)),
             *(f"{row['ratio'][name]:.2f}x" for name in others), row["limit_tokens_per_second"],
             *(f"{row['fraction_of_limit'][name]:.0%}" for name in (OURS, *others)), row["limit"],
             "; ".join(row["variant"].values()) or "-"]
            for row in rows
        ]  # fmt: skip
        head = ["", OURS, *others, *(f"/ {name}" for name in others), "limit", *(f"{n} of it" for n in (OURS, *others))]
        text += common.table([*head, "which", "variant"], cells)
    if first:
        cells = [[name, v["seconds"], v["peak_bytes"] / 1e6, f"{v['peak_over_file']:.2f}"] for name, v in first.items()]
        text += common.table(["fresh process", "load to first token, s", "peak MB", "over file"], cells)
    return text + "\n"


def run(args: argparse.Namespace) -> None:
    """All files; prints and writes as the other benchmarks do."""
    limits = common.Limits(args.threads, args.isa)
    runs, text = [], ""
    args.seconds /= len(args.source)
    for file in args.source:
        field = Field(file, args, limits)
        try:
            rows, peaks = field.rows(cases(args))
            field.close()  # before others load: memory
            first = field.first() if "load" in args.what else {}
        finally:
            field.close()
        text += page(field, rows, first, peaks)
        facts = {name: value for name, value in field.facts.items() if name != OURS}
        info = {key: value for key, value in field.facts[OURS]["info"].items() if key != "source"}
        runs.append({"file": file.name, "file_bytes": file.stat().st_size, "model": info, "peers": facts,
                     "limits": peaks, "rows": rows, "load": first})  # fmt: skip
    common.finish(args, limits.context, "compare", {"runs": runs}, text)
