"""GGUF files here and in llama.cpp and others, whole models in turn: the page of `compare.py FILE.gguf ...`."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import sides_ik_llama
from sides import SIDES, Case, First, make
from workers import Worker, WorkerError

from lanewise.cli.bench import Work

OURS = "lanewise"
STEPS = 16  # of several sequences together
TRIES = 3  # of a round, until
STEADY = 0.15  # is the most by which the bandwidth before and after it may differ
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


@dataclass(slots=True)
class Round:
    """Seconds of each side, and operations and bytes a second around them; steady: as much before as afterwards."""

    seconds: dict[str, float]
    peaks: dict[str, float]
    steady: bool


def row(case: Case, work: Work, rounds: list[Round]) -> dict[str, Any]:
    """Figures of a case: medians; ratios and fractions of limits are taken in each round, for the limits move."""
    rounds = [r for r in rounds if r.steady] or rounds
    tokens, sides = case.tokens * case.sequences, list(rounds[0].seconds)
    ideals = [ideal(work, case, r.peaks) for r in rounds]
    return {
        "case": case.name, "tokens": tokens, "rounds": len(rounds), "steady": rounds[0].steady,
        "tokens_per_second": {name: tokens / common.median([r.seconds[name] for r in rounds]) for name in sides},
        "ratio": {name: common.median([r.seconds[name] / r.seconds[OURS] for r in rounds]) for name in sides[1:]},
        "limits": {name: common.median([r.peaks[name] for r in rounds]) for name in rounds[0].peaks},
        "limit": statistics.mode(which for _, which in ideals),
        "limit_tokens_per_second": tokens / common.median([least for least, _ in ideals]),
        "fraction_of_limit": {
            name: common.median([least / r.seconds[name] for r, (least, _) in zip(rounds, ideals, strict=True)])
            for name in sides
        },
        "seconds": {name: [r.seconds[name] for r in rounds] for name in sides},
        "read": [r.peaks["read"] for r in rounds],
    }  # fmt: skip


class Field:
    """One file: a process for each side, the cases in turn, the best variant of each side going on."""

    def __init__(self, file: Path, args: argparse.Namespace, limits: common.Limits) -> None:
        self.file, self.args, self.threads = file, args, limits.context.threads
        self.how = {"kv_dtype": args.kv_dtype, "isa": args.isa}
        self.given = {name: (path, self.threads, how) for name, (path, how) in self.sides().items()}
        self.workers = {name: Worker(name, *given, make=make) for name, given in self.given.items()}
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
        what = (self.work.arithmetic, "read")
        self.limits = {name.removeprefix("limit "): run for name, run in limits.contenders(*what).items()}

    def sides(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """What each side loads, and how; exported folders are named by the end of their name."""
        found = dict.fromkeys(SIDES, (self.file, self.how))
        if self.args.ik_library:
            how = {"library": self.args.ik_library, "version": sides_ik_llama.version(self.args.ik_llama)}
            found["ik_llama.cpp"] = self.file, how
        for program, folders in (("OpenVINO", self.args.openvino), ("CTranslate2", self.args.ctranslate2)):
            found |= {f"{program} {path.name.rpartition('-')[2]}": (path, self.how) for path in folders}
        return found

    def variants(self, case: Case) -> tuple[dict[str, str], dict[str, float]]:
        """The best variant of each side, and tokens/s of each in the better of two turns, which do not count."""
        found: dict[str, str] = {}
        speeds: dict[str, float] = {}
        for name, worker in self.workers.items():
            seconds: dict[str, float] = {}
            for variant in 2 * list(self.facts[name]["variants"]):  # a first turn alone may only have been unlucky
                seconds[variant] = min(seconds.get(variant, math.inf), worker.ask("turn", case, variant))
            found[name] = min(seconds, key=lambda variant: seconds[variant])
            speeds |= {f"{name} {v}".strip(): case.tokens * case.sequences / s for v, s in seconds.items()}
            for variant in seconds:
                if variant != found[name]:
                    worker.ask("drop", case, variant)
        return found, speeds

    def round(self, case: Case, variant: dict[str, str]) -> Round:
        """All sides once, the limits around them; again where the bandwidth counts and was another afterwards."""
        for _ in range(TRIES):
            peak, before = (self.limits[name]() for name in (self.work.arithmetic, "read"))
            seconds = {name: worker.ask("turn", case, variant[name]) for name, worker in self.workers.items()}
            after = self.limits["read"]()
            peaks = {self.work.arithmetic: peak, "read": (before + after) / 2}
            reading = ideal(self.work, case, peaks)[1] == "read bandwidth"
            if steady := not reading or abs(before - after) < STEADY * min(before, after):
                break
        return Round(seconds, peaks, steady)

    def rows(self, what: list[Case]) -> list[dict[str, Any]]:
        """A row a case."""
        variants = {case: self.variants(case) for case in what}
        rounds: dict[Case, list[Round]] = {case: [] for case in what}
        begin = time.monotonic()
        for _ in range(self.args.repeat):
            for case in what:
                rounds[case].append(self.round(case, variants[case][0]))
            if time.monotonic() - begin > self.args.seconds:
                break
        return [
            row(case, self.work, rounds[case]) | {"variant": variants[case][0], "first_turn": variants[case][1]}
            for case in what
        ]

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
                worker = Worker(name, *self.given[name], PROMPT, make=First)
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


def page(field: Field, rows: list[dict[str, Any]], first: dict[str, Any]) -> str:
    """The tables of one file."""
    info, others = field.facts[OURS]["info"], [name for name in field.workers if name != OURS]
    formats = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in info["formats"].items())
    text = f"{field.file.name}: {info['parameters']:,} parameters, {formats}; keys and values {info['kv_dtype']}; "
    text += f"{info['isa']}, {field.threads} threads\n"
    if rows:
        sides = [OURS, *others]
        text += common.table(
            ["tokens/s", *sides, "limit", "which", f"{field.work.arithmetic} Gop/s", "read GB/s", "variant"],
            [
                [r["case"] + ("" if r["steady"] else " !"), *(r["tokens_per_second"][name] for name in sides),
                 r["limit_tokens_per_second"], r["limit"], r["limits"][field.work.arithmetic] / 1e9,
                 r["limits"]["read"] / 1e9, "; ".join(v for v in r["variant"].values() if v) or "-"]
                for r in rows
            ],
        )  # fmt: skip
        text += common.table(
            ["", *(f"over {name}" for name in others), *(f"{name} of limit" for name in sides)],
            [
                [r["case"], *(f"{r['ratio'][name]:.2f}x" for name in others),
                 *(f"{r['fraction_of_limit'][name]:.0%}" for name in sides)]
                for r in rows
            ],
        )  # fmt: skip
    if first:
        cells = [[name, v["seconds"], v["peak_bytes"] / 1e6, f"{v['peak_over_file']:.2f}"] for name, v in first.items()]
        text += common.table(["fresh process", "load to first token, s", "peak MB", "over file"], cells)
    return text + "\n"


def run(args: argparse.Namespace) -> None:
    """All files; prints and writes as the other benchmarks do."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            args.ik_library = args.ik_llama and sides_ik_llama.build(args.ik_llama, Path(folder))
        except ValueError as error:
            raise SystemExit(f"--ik-llama: {error}") from None
        _run(args)


def _run(args: argparse.Namespace) -> None:
    limits = common.Limits(args.threads, args.isa)
    runs, text = [], ""
    args.seconds /= len(args.source)
    for file in args.source:
        field = Field(file, args, limits)
        try:
            rows = field.rows(cases(args))
            field.close()  # before others load: memory
            first = field.first() if "load" in args.what else {}
        finally:
            field.close()
        text += page(field, rows, first)
        facts = {name: value for name, value in field.facts.items() if name != OURS}
        info = {key: value for key, value in field.facts[OURS]["info"].items() if key != "source"}
        runs.append({"file": file.name, "file_bytes": file.stat().st_size, "model": info, "peers": facts,
                     "rows": rows, "load": first})  # fmt: skip
    common.finish(args, limits.context, "compare", {"runs": runs}, text)
