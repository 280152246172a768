"""lanewise bench: how fast a model prefills and decodes here, and how near that is to what this machine can do."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..progress import bar
from .options import UsageError, add_loading, load, whole_numbers

if TYPE_CHECKING:
    from ..llm import LLM


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declares the command."""
    parser = commands.add_parser("bench", parents=[common], help="measure prefill and decode", description=__doc__)
    parser.add_argument("-p", "--prefill", type=whole_numbers, default=[128, 512], metavar="N,N", help="prompt lengths")
    parser.add_argument("-g", "--generate", type=whole_numbers, default=[64], metavar="N,N", help="tokens to decode")
    parser.add_argument("--depth", type=whole_numbers, default=[0], metavar="N,N", help="tokens in the cache before")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each; the median counts")
    parser.add_argument("--no-limits", action="store_true", help="do not measure the machine's limits")
    parser.add_argument("--json", action="store_true")
    add_loading(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Measures and prints."""
    if options.repeat < 1:
        raise UsageError("--repeat must be at least 1")
    limits = None
    if not options.no_limits:
        from .. import doctor

        limits = doctor.peaks(threads=options.threads, isa=options.isa)
    with load(options, quiet=options.json) as llm:
        work = Work(llm.info(), llm.memory_plan(context=1).get("cache_per_token", 0))
        rows = measure(llm, work, options, limits)
        info = {**llm.info(), "lanewise": _version()}
    if options.json:
        print(json.dumps({"model": info, "limits": limits, "rows": rows}, ensure_ascii=False))
    else:
        _print(info, rows)
    return 0


class Work:
    """What a model must at least compute and read, from its facts: operations of a prefill, bytes of a decode step."""

    def __init__(self, info: dict[str, Any], cache_per_token: int) -> None:
        self.info = info
        self.cache_per_token = cache_per_token
        self.head = info["vocabulary"] * info["hidden"]
        self.matrices = info["parameters"] - self.head * (1 if info["tied"] else 2)
        read = 1.0 if info["tied"] else 1 - self.head / info["parameters"]  # of an untied embedding one row is read
        self.weight_bytes = info["weight_bytes"] * read

    @property
    def arithmetic(self) -> str:
        """Which peak bounds the products: int8 where most of the weights are quantised."""
        formats = self.info["formats"]
        if max(formats, key=lambda name: formats[name]) not in ("float32", "bfloat16"):
            return "int8"
        return "bfloat16" if self.info["bf16_dot"] else "float32"

    def prefill_operations(self, depth: int, tokens: int) -> float:
        """Two per weight and token, two per query, key and dimension for scores and again for values; logits once."""
        per_pair = 4 * self.info["heads"] * self.info["head_dim"]
        positions = np.arange(depth + 1, depth + tokens + 1)
        pairs = 0.0
        for window, layers in self.info["windows"].items():
            seen = positions if window == "full" else np.minimum(positions, int(window))
            pairs += layers * float(seen.sum())
        return float(2.0 * self.matrices * tokens + per_pair * pairs + 2.0 * self.head)

    def decode_bytes(self, depth: int, tokens: int) -> float:
        """Every weight and every cached position, for each of `tokens` steps (windows are not subtracted)."""
        cached = sum(range(depth + 1, depth + tokens + 1))
        return float(tokens * self.weight_bytes + self.cache_per_token * cached)


def measure(llm: LLM, work: Work, options: argparse.Namespace, limits: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row per measurement: tokens/s (median and best), what that is in operations or bytes, and of which limit."""
    rows: list[dict[str, Any]] = []
    jobs = [("prefill", depth, n) for depth in options.depth for n in options.prefill if n]
    jobs += [("decode", depth, n) for depth in options.depth for n in options.generate if n]
    with bar("bench", "runs", quiet=options.json) as report:
        for done, (phase, depth, tokens) in enumerate(jobs):
            report(done, len(jobs))
            seconds = _seconds(llm, phase, depth, tokens, options.repeat)
            median = statistics.median(seconds)
            row = {
                "phase": phase, "tokens": tokens, "depth": depth, "tokens_per_second": tokens / median,
                "best_tokens_per_second": tokens / min(seconds), "seconds": seconds,
            }  # fmt: skip
            if phase == "prefill":
                rate = work.prefill_operations(depth, tokens) / median
                kind, unit = work.arithmetic, "operations"
            else:
                rate = work.decode_bytes(depth, tokens) / median
                kind, unit = "read", "bytes"
            row[f"{unit}_per_second"] = rate
            row["limit"] = limits and {"of": kind, "per_second": limits["all"][kind]["median"]}
            row["fraction"] = limits and rate / limits["all"][kind]["median"]
            rows.append(row)
    return rows


def _seconds(llm: LLM, phase: str, depth: int, tokens: int, repeat: int) -> list[float]:
    """Seconds of each run, after one that does not count."""
    ids = np.random.default_rng(0).integers(0, llm.vocabulary, depth + tokens).astype(np.int32)
    start = max(depth, 1) if phase == "decode" else depth
    with llm.prefill(ids[:start]) as sequence:

        def prefill() -> None:
            sequence.extend(ids[depth:])

        def decode() -> None:
            for token in ids[-tokens:]:
                sequence.decode(int(token))

        return [
            _timed(prefill if phase == "prefill" else decode, lambda: sequence.truncate(start))
            for _ in range(repeat + 1)
        ][1:]


def _timed(run: Callable[[], None], reset: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    seconds = time.perf_counter() - begin
    reset()
    return seconds


def _version() -> str:
    from .. import __version__

    return __version__


def _print(info: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    formats = ", ".join(info["formats"])
    print(f"{info['source']}: {info['parameters']:,} parameters, {formats}, {info['isa']}, {info['threads']} threads")
    print(f"{'phase':<9}{'tokens':>7}{'depth':>8}{'tokens/s':>12}{'best':>12}   rate")
    for row in rows:
        if row["phase"] == "prefill":
            rate = f"{row['operations_per_second'] / 1e9:,.1f} Gop/s"
        else:
            rate = f"{row['bytes_per_second'] / 1e9:,.1f} GB/s"
        if row["limit"]:
            what = "memory bandwidth" if row["limit"]["of"] == "read" else f"{row['limit']['of']} peak"
            rate += f", {row['fraction']:.0%} of the {what}"
        speed, best = row["tokens_per_second"], row["best_tokens_per_second"]
        print(f"{row['phase']:<9}{row['tokens']:>7}{row['depth']:>8}{speed:>12,.1f}{best:>12,.1f}   {rate}")
