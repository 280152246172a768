"""Products with quantised weights: every type, as a fraction of what binds it on this machine in the same run.

    python bench/quantised.py [--types q4_0,q4_k] [--rows 1,2,4,6,128,512] [--memory 32768x8192] [--nk 8192x2048]

Up to 16 rows the weights are those of --memory, which no cache holds; more rows multiply --nk. A fraction is the larger
of two times, reading the packed weights and multiplying at the peak of the byte dot product, over the time taken.
"""

from __future__ import annotations

import argparse
from typing import Any

import common  # before numpy
import numpy as np

from lanewise import kernels as k
from lanewise.kernels.packed import QUANTISED, PackedMatrix
from lanewise.model.quantize import WRITABLE, quantize_rows

FEW = 16
TYPES = [kind for kind in QUANTISED if kind.upper() in WRITABLE]  # not the classes that code books widen to
LEAST = 0.02  # seconds a contender runs at least, each time


def weights(kind: str, n: int, inputs: int) -> PackedMatrix:
    """n rows, every 64 of them the same: speed does not depend on the numbers."""
    rows = np.random.default_rng(0).standard_normal((64, inputs), np.float32)
    return k.pack_blocks(np.tile(quantize_rows(rows, kind), (-(-n // 64), 1))[:n], kind)


def measure(args: argparse.Namespace, limits: common.Limits, kind: str) -> dict[str, Any]:
    """Fractions by rows, and the limits that they are of."""
    found: dict[str, Any] = {"type": kind, "rows": {}}
    for shape, counts in (
        (args.memory, [m for m in args.rows if m <= FEW]),
        (args.nk, [m for m in args.rows if m > FEW]),
    ):
        if not counts:
            continue
        n, inputs = shape
        w = weights(kind, n, inputs)
        contenders = limits.contenders("int8", "read")
        for m in counts:
            a = np.random.default_rng(m).standard_normal((m, inputs), np.float32)
            c = np.empty((m, n), np.float32)
            contenders[str(m)] = common.timed(lambda w=w, a=a, c=c: k.gemm(a, w, out=c), LEAST)
        measured = common.interleave(contenders, args.repeat, args.seconds)
        peak, read = (common.median(measured[f"limit {name}"]) for name in ("int8", "read"))
        found.setdefault("limits", {"int8": peak, "read": read})
        for m in counts:
            seconds, work = common.median(measured[str(m)]), 2.0 * m * n * inputs
            binds = "memory" if w.nbytes / read > work / peak else "arithmetic"
            found["rows"][m] = {
                "fraction": max(w.nbytes / read, work / peak) / seconds,
                "binds": binds,
                "operations_per_second": work / seconds,
                "bytes_per_second": w.nbytes / seconds,
            }
        found.setdefault("bits", 8.0 * w.nbytes / (n * inputs))
    return found


def _shape(text: str) -> tuple[int, int]:
    n, inputs = text.split("x")
    return int(n), int(inputs)


def main() -> None:
    parser = common.arguments(__doc__ or "", repeat=3)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(seconds=20.0)
    parser.add_argument("--types", type=lambda text: text.split(","), default=TYPES)
    parser.add_argument("--rows", type=lambda text: [int(m) for m in text.split(",")], default=[1, 2, 4, 6, 128, 512])
    parser.add_argument("--memory", type=_shape, default=(32768, 8192), help="outputs x inputs for up to 16 rows")
    parser.add_argument("--nk", type=_shape, default=(8192, 2048), help="outputs x inputs for more rows")
    args = parser.parse_args()
    limits = common.Limits(args.threads, args.isa)
    with k.threads(limits.context.threads), k.isa(limits.context.isa):
        found = [measure(args, limits, kind) for kind in args.types]
    head = ["type", "bits", *(f"M={m}" for m in args.rows), "read GB/s", "int8 Gop/s"]
    rows = [[f["type"], f["bits"], *(f"{f['rows'][m]['fraction']:.0%}" for m in args.rows),
             f["limits"]["read"] / 1e9, f["limits"]["int8"] / 1e9] for f in found]  # fmt: skip
    text = f"of max(memory, arithmetic), {limits.context.isa}, {limits.context.threads} threads\n"
    common.finish(args, limits.context, "quantised", {"types": found}, text + common.table(head, rows))


if __name__ == "__main__":
    main()
