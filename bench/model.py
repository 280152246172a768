"""Prefill and decode of a model folder: tokens/s, and the fraction of what this machine can do in the same run.

python bench/model.py FOLDER [--prefill 128,512,2048] [--decode 64@0,32@2048] [--ops]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from run import Run


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def depths(text: str) -> list[tuple[int, int]]:
    """ "64@0,32@2048" -> [(64, 0), (32, 2048)]."""
    return [(int(n), int(depth or 0)) for n, _, depth in (part.partition("@") for part in text.split(",") if part)]


def contenders(
    run: Run, prefill: list[int], decode: list[tuple[int, int]], ops: dict[str, Any]
) -> dict[str, Callable[[], float]]:
    """name -> seconds, each followed by a note of where the time went."""

    def noted(name: str, seconds: float) -> float:
        ops[name] = run.ops()
        return seconds

    def decoding(name: str, n: int, depth: int) -> float:
        if depth:
            run.prefill(depth)  # not timed: what is decoded on must be in the cache
        return noted(name, run.decode(n, depth))

    found: dict[str, Callable[[], float]] = {}
    for n in prefill:
        found[f"prefill {n}"] = lambda n=n: noted(f"prefill {n}", run.prefill(n))
    for n, depth in decode:
        found[f"decode {n} at {depth}"] = lambda n=n, depth=depth: decoding(f"decode {n} at {depth}", n, depth)
    return found


def row(run: Run, name: str, seconds: list[float], limits: dict[str, float]) -> dict[str, Any]:
    """Figures of one measurement."""
    phase, first, *rest = name.split()
    tokens, depth = int(first), int(rest[1]) if rest else 0
    median = common.median(seconds)
    found: dict[str, Any] = {
        "what": name,
        "tokens_per_second": tokens / median,
        "best_tokens_per_second": tokens / min(seconds),
    }
    if phase == "prefill":
        rate, limit = run.work.prefill_operations(0, tokens) / median, limits[run.arithmetic]
        found |= {"operations_per_second": rate, "limit": f"{run.arithmetic} peak"}
    else:
        rate, limit = run.work.decode_bytes(depth, tokens) / median, limits["read"]
        found |= {"bytes_per_second": rate, "limit": "read bandwidth"}
    return {**found, "fraction": rate / limit, "seconds": seconds}


def main() -> None:
    parser = common.arguments(__doc__ or "", repeat=3)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--kv-dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--numerics", default="fast", choices=("fast", "exact"))
    parser.add_argument("--prefill", type=numbers, default=[128, 512, 2048], help="prompt lengths: 128,512,2048")
    parser.add_argument("--decode", type=depths, default=[(64, 0), (32, 2048)], help="tokens@depth: 64@0,32@2048")
    parser.add_argument("--ops", action="store_true", help="where the time goes, by kind of operation")
    args = parser.parse_args()
    run = Run(
        args.folder,
        dtype=args.dtype,
        kv_dtype=args.kv_dtype,
        numerics=args.numerics,
        threads=args.threads,
        isa=args.isa,
    )
    limits = common.Limits(args.threads, args.isa)
    ops: dict[str, dict[str, float]] = {}
    measured = common.interleave(
        {**limits.contenders(run.arithmetic, "read"), **contenders(run, args.prefill, args.decode, ops)},
        args.repeat, args.seconds, rotate=False,
    )  # fmt: skip
    peaks = {name.removeprefix("limit "): common.median(v) for name, v in measured.items() if name.startswith("limit ")}
    rows = [row(run, name, seconds, peaks) for name, seconds in measured.items() if not name.startswith("limit ")]
    info = {key: value for key, value in run.model.info().items() if key != "source"}
    text = f"{args.folder.name}: {info['parameters']:,} parameters, {', '.join(info['formats'])}, "
    text += f"{run.model.isa}, {run.model.threads} threads\n"
    peak, read = peaks[run.arithmetic] / 1e9, peaks["read"] / 1e9
    text += f"limits of this run: {run.arithmetic} {peak:.1f} Gop/s, read {read:.1f} GB/s\n"
    cells = [
        [r["what"], r["tokens_per_second"], r["best_tokens_per_second"], f"{r['fraction']:.0%} of {r['limit']}"]
        for r in rows
    ]
    text += common.table(["", "tokens/s", "best", "fraction"], cells)
    if args.ops:
        for name, seconds in ops.items():
            total = sum(seconds.values())
            text += f"\n{name}\n" + common.table(
                ["op", "ms", "share"], [[op, s * 1e3, f"{s / total:.1%}"] for op, s in seconds.items()]
            )
    figures = {"model": info, "limits": peaks, "rows": rows, **({"ops_seconds": ops} if args.ops else {})}
    common.finish(args, limits.context, "model", figures, text)


if __name__ == "__main__":
    main()
