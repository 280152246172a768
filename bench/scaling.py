"""What more threads give: limits, products and whole models by the number of threads, taking turns in the same run.

    python bench/scaling.py [MODEL ...] [--counts 1,2,4,8,16] [--types float32,bfloat16,int8,q4_0]

Products are c[M, N] = a[M, K] w[N, K]^T with weights packed beforehand. A fraction is the larger of two times, reading
the weights (again and again, as fast as that number of threads reads that many bytes) and multiplying at that number
of threads' peak, over the time taken; a model's is of the peak for prompts, of reading for tokens. Speed-ups are over
the first number of threads.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common  # before numpy
import numpy as np
from quantised import weights

from lanewise import _native, doctor
from lanewise import kernels as k
from lanewise.kernels.packed import QUANTISED, PackedMatrix

LEAST = 0.02  # seconds a contender runs at least, each time
SHAPES = [(1, 8192, 2048), (8, 8192, 2048), (64, 8192, 2048), (512, 896, 896), (512, 8192, 2048), (512, 2048, 8192)]
LIMITS = ("float32", "bfloat16", "int8", "read", "barrier")

Contenders = dict[str, Callable[[], float]]


def packed(kind: str, n: int, inputs: int) -> PackedMatrix:
    """Weights of a type; the byte class has one scale a row."""
    if kind in QUANTISED:
        return weights(kind, n, inputs)
    random = np.random.default_rng(0)
    if kind == "int8":
        return k.pack(random.integers(-127, 128, (n, inputs), np.int8), scales=np.full(n, 0.01, np.float32))
    return k.pack(random.standard_normal((n, inputs), np.float32), dtype=kind)


def whole(kind: str, inputs: int) -> bool:
    return kind not in QUANTISED or inputs % QUANTISED[kind][0] == 0


def arithmetic(kind: str) -> str:
    return kind if kind in ("float32", "bfloat16") else "int8"


def rate(context: _native.Context, what: str, nbytes: int = 0) -> float:
    """Work per second in the best of a few bursts."""
    bursts = [context.measure(what, nbytes) for _ in range(1 if nbytes else common.SHORT)]
    return max(work / seconds for work, seconds in bursts)


def limits(contexts: dict[int, _native.Context], args: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Peaks, the speed of memory and the cost of a round of all, for each number of threads."""
    nbytes = doctor.working_sets(_native.machine(), 1)["read"]
    contenders: Contenders = {}
    for count, ctx in contexts.items():
        for what in LIMITS:
            if what == "barrier":
                contenders[f"{count} {what}"] = lambda ctx=ctx: min(
                    seconds / rounds for rounds, seconds in (ctx.measure("barrier") for _ in range(common.SHORT))
                )
            else:
                of = "float32" if what == "bfloat16" and not ctx.has_dot else what
                contenders[f"{count} {what}"] = functools.partial(rate, ctx, of, nbytes if what == "read" else 0)
    measured = common.interleave(contenders, args.repeat, args.seconds)
    return {c: {what: common.median(measured[f"{c} {what}"]) for what in LIMITS} for c in contexts}


def product(
    kind: str, shape: tuple[int, int, int], contexts: dict[int, _native.Context], args: argparse.Namespace
) -> dict[str, Any]:
    """One shape by numbers of threads: operations/s and the fraction of what binds it."""
    m, n, inputs = shape
    w = packed(kind, n, inputs)
    random = np.random.default_rng(1)
    byte = kind == "int8"
    a: Any = (
        random.integers(-127, 128, (m, inputs), np.int8) if byte else random.standard_normal((m, inputs), np.float32)
    )
    c, work = np.empty((m, n), np.float32), 2.0 * m * n * inputs

    def ours(count: int) -> float:
        with k.threads(count):
            return turns[count]()

    scale = np.full(m, 0.01, np.float32) if byte else None
    turns = {count: common.timed(lambda: k.gemm(a, w, exact=False, a_scale=scale, out=c), LEAST) for count in contexts}
    contenders: Contenders = {}
    for count, ctx in contexts.items():
        of = arithmetic(kind) if kind != "bfloat16" or ctx.has_dot else "float32"
        contenders[f"{count} peak"] = functools.partial(rate, ctx, of)
        contenders[f"{count} read"] = functools.partial(rate, ctx, "read", w.nbytes)
        contenders[f"{count} ours"] = functools.partial(ours, count)
    measured = {name: common.median(v) for name, v in common.interleave(contenders, args.repeat, args.seconds).items()}
    found: dict[str, Any] = {"type": kind, "shape": list(shape), "threads": {}}
    for count in contexts:
        seconds = measured[f"{count} ours"]
        bound = max(w.nbytes / measured[f"{count} read"], work / measured[f"{count} peak"])
        found["threads"][count] = {"operations_per_second": work / seconds, "fraction": bound / seconds}
    return found


def model(path: Path, contexts: dict[int, _native.Context], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prompts and tokens of one model by numbers of threads."""
    from run import Run  # here: the tests have another module of that name

    runs = {count: Run(path, threads=count, isa=args.isa) for count in contexts}
    of = next(iter(runs.values())).arithmetic
    contenders: Contenders = {}
    for count, run in runs.items():
        for n in args.prefill:
            contenders[f"prefill {n}|{count}"] = functools.partial(run.prefill, n)
        for n, depth in args.decode:
            run.prefill(depth + n)  # the cache is filled once: what is decoded on stays as it is
            contenders[f"decode {n} at {depth}|{count}"] = functools.partial(run.decode, n, depth)
        contenders[f"peak|{count}"] = functools.partial(rate, contexts[count], of)
        contenders[f"read|{count}"] = functools.partial(rate, contexts[count], "read", common.READ_BYTES)
    measured = {name: common.median(v) for name, v in common.interleave(contenders, args.repeat, args.seconds).items()}
    found = []
    for what in [f"prefill {n}" for n in args.prefill] + [f"decode {n} at {depth}" for n, depth in args.decode]:
        phase, first, *rest = what.split()
        tokens, by_count = int(first), {}
        for count, run in runs.items():
            seconds = measured[f"{what}|{count}"]
            if phase == "prefill":
                bound = run.work.prefill_operations(0, tokens) / measured[f"peak|{count}"]
            else:
                bound = run.work.decode_bytes(int(rest[1]), tokens) / measured[f"read|{count}"]
            by_count[count] = {"tokens_per_second": tokens / seconds, "fraction": bound / seconds}
        found.append({"model": path.name, "what": what, "threads": by_count})
    return found


def cells(by_count: dict[int, dict[str, float]], what: str, scale: float = 1.0) -> list[str]:
    """Of one row: the first figure, then how many times as much the others are, each with its fraction."""
    first = next(iter(by_count.values()))[what]
    rest = list(by_count.values())[1:]
    return [f"{first * scale:.4g} {next(iter(by_count.values()))['fraction']:.0%}"] + [
        f"{f[what] / first:.2f}x {f['fraction']:.0%}" for f in rest
    ]


def main() -> None:
    from model import depths, numbers

    parser = common.arguments(__doc__ or "", repeat=3)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(seconds=20.0)
    parser.add_argument("source", type=Path, nargs="*", help="models: folders or GGUF files")
    parser.add_argument("--counts", type=numbers, help="numbers of threads; default: 1, 2, 4, ... and all cores")
    parser.add_argument(
        "--types", type=lambda text: [t for t in text.split(",") if t], default=["float32", "bfloat16", "int8", "q4_0"]
    )
    parser.add_argument("--prefill", type=numbers, default=[512])
    parser.add_argument("--decode", type=depths, default=[(64, 0), (32, 2048)], help="tokens@depth")
    args = parser.parse_args()
    most = common.make_context(args.isa, args.threads).threads
    counts = args.counts or sorted({1 << i for i in range(most.bit_length())} | {most})
    contexts = {count: common.make_context(args.isa, count) for count in counts}
    head = [f"{count} threads" for count in counts]
    found = limits(contexts, args)
    rows = [
        [what, *(found[c][what] / 1e9 if what != "barrier" else found[c][what] * 1e6 for c in counts)]
        for what in LIMITS
    ]
    text = f"{contexts[counts[0]].isa}: Gop/s, GB/s, barrier in microseconds\n" + common.table(["", *head], rows)
    with k.isa(contexts[counts[0]].isa):
        products = [
            product(kind, shape, contexts, args) for kind in args.types for shape in SHAPES if whole(kind, shape[2])
        ]
    models = [row for path in args.source for row in model(path, contexts, args)]
    text += "\nGop/s, then speed-up; of what binds\n" + common.table(
        ["", *head],
        [
            [f"{p['type']} {' x '.join(map(str, p['shape']))}", *cells(p["threads"], "operations_per_second", 1e-9)]
            for p in products
        ],
    )
    if models:
        text += "\ntokens/s, then speed-up; of what binds\n" + common.table(
            ["", *head], [[f"{r['model']} {r['what']}", *cells(r["threads"], "tokens_per_second")] for r in models]
        )
    figures = {"limits": found, "products": products, "models": models}
    common.finish(args, contexts[counts[-1]], "scaling", figures, text)


if __name__ == "__main__":
    main()
