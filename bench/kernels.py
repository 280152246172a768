"""Matrix products and attention on the shapes of models: GFLOP/s and the fraction of the peak of the same run.

    python bench/kernels.py [--shapes qwen2.5-0.5b,llama-3.2-1b] [--rows 1,16,512] [--what gemm,attention]
    python bench/kernels.py --compare [--quick] [--threads 1] [--squares 512] [--rows 1,64] [--nk 2048x2048]

Attention stands beside numpy and, where installed, PyTorch; contenders take turns in every round. --compare is another
page: products against every library that is importable (versus.py); results/README.md says how to read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import common  # before numpy
import numpy as np
import versus
from make_model import SHAPES

from lanewise import _native

Contenders = dict[str, Callable[[], float]]
LEAST = 0.02  # seconds a contender runs at least, each time


def torch_or_none(threads: int) -> Any:
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    return torch


def products(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """name -> (outputs, inputs) of a layer's matrices as they are packed."""
    hidden, width, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    d = shape.get("head_dim") or hidden // heads
    return {
        "qkv": ((heads + 2 * shape["num_key_value_heads"]) * d, hidden), "o": (hidden, heads * d),
        "gate+up": (2 * width, hidden), "down": (hidden, width),
    }  # fmt: skip


def gemm(ctx: _native.Context, m: int, n: int, k: int) -> tuple[Contenders, float]:
    """Contenders for c[m, n] = a[m, k] w[n, k]^T, and its operations."""
    random = np.random.default_rng(0)
    a, w = random.standard_normal((m, k), np.float32), random.standard_normal((n, k), np.float32)
    c = np.empty((m, n), np.float32)
    found: Contenders = {}
    kinds = [("float32", True, "f32"), ("bfloat16", True, "bf16 exact")] + [
        ("bfloat16", False, "bf16 dot")
    ] * ctx.has_dot
    for format, exact, name in kinds:
        weight = _native.Weight(format, n, k)
        weight.pack(ctx, w, "float32")
        found[f"lanewise {name}"] = common.timed(
            lambda weight=weight, exact=exact: _native.gemm(ctx, a, weight, c, exact=exact), LEAST
        )
    return found, 2.0 * m * n * k


def attention(
    torch: Any, ctx: _native.Context, shape: dict[str, Any], rows: int, depth: int
) -> tuple[Contenders, float]:
    """Contenders for causal attention of `rows` new positions behind `depth` cached ones, and its operations."""
    heads, kv = shape["num_attention_heads"], shape["num_key_value_heads"]
    d, total = shape.get("head_dim") or shape["hidden_size"] // heads, rows + depth
    random = np.random.default_rng(0)
    q = random.standard_normal((rows, heads * d), np.float32)
    k, v = (random.standard_normal((total, kv * d), np.float32) for _ in range(2))
    found: Contenders = {}
    pages = -(-total // _native.PAGE)
    table = np.arange(pages, dtype=np.int32)[None]
    out = np.empty_like(q)
    for kind, name in (("float32", "f32 cache"), ("bfloat16", "bf16 cache")):
        cache = _native.Cache(1, kv, d, kind)
        cache.reserve(pages)
        _native.append(ctx, cache, 0, np.array([0, total], np.int32), np.zeros(1, np.int32), table, k, v)

        def ours(cache: _native.Cache = cache) -> None:
            starts, first = np.array([0, rows], np.int32), np.array([depth], np.int32)
            _native.attend(
                ctx, cache, 0, starts, first, table, q, out, heads=heads, kv_heads=kv, scale=d**-0.5, exact=False
            )

        found[f"lanewise {name}"] = common.timed(ours, LEAST)
    found["numpy f32"] = common.timed(lambda: numpy_attention(q, k, v, heads, kv, d), LEAST)
    if torch is not None:
        mask = torch.ones(rows, total, dtype=torch.bool).tril(depth)
        for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
            tq, tk, tv = (
                torch.from_numpy(x).to(dtype).view(1, len(x), -1, d).transpose(1, 2).contiguous() for x in (q, k, v)
            )
            found[f"torch {name}"] = common.timed(lambda t=(tq, tk, tv): torch_attention(torch, *t, depth, mask), LEAST)
    return found, 4.0 * heads * d * (rows * depth + rows * (rows + 1) / 2)


def numpy_attention(q: Any, k: Any, v: Any, heads: int, kv: int, d: int) -> Any:
    """The plain form, all scores at once."""
    rows, total = len(q), len(k)
    q4 = q.reshape(rows, kv, heads // kv, d).transpose(1, 2, 0, 3).reshape(kv, -1, d)
    scores = q4 @ k.reshape(total, kv, d).transpose(1, 2, 0) * np.float32(d**-0.5)
    scores = scores.reshape(kv, heads // kv, rows, total)
    scores += np.triu(np.full((rows, total), -np.inf, np.float32), total - rows + 1)
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores.reshape(kv, -1, total) @ v.reshape(total, kv, d).transpose(1, 0, 2)


def torch_attention(torch: Any, q: Any, k: Any, v: Any, depth: int, mask: Any) -> Any:
    attend = torch.nn.functional.scaled_dot_product_attention
    if depth == 0:
        return attend(q, k, v, is_causal=True, enable_gqa=True)
    return attend(q, k, v, attn_mask=mask, enable_gqa=True)


def jobs(args: argparse.Namespace) -> list[tuple[str, str, tuple[Any, ...]]]:
    """(title, kind, arguments) of all that is measured."""
    found: list[tuple[str, str, tuple[Any, ...]]] = []
    for name in args.shapes.split(","):
        shape = SHAPES[name]
        if "gemm" in args.what:
            for matrix, (n, k) in products(shape).items():
                found += [(f"{name} {matrix} {m} x {n} x {k}", "gemm", (m, n, k)) for m in args.rows]
        if "attention" in args.what:
            found += [
                (f"{name} attention {r} rows at {d}", "attention", (shape, r, d))
                for r, d in ((512, 0), (64, 2048), (1, 2048))
            ]
    return found


def main() -> None:
    parser = common.arguments(__doc__ or "", repeat=3)
    parser.set_defaults(seconds=None)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shapes", default="qwen2.5-0.5b")
    parser.add_argument("--rows", type=lambda text: [int(m) for m in text.split(",")], help="rows of the products")
    parser.add_argument("--what", default="gemm,attention")
    versus.options(parser)
    args = parser.parse_args()
    if args.compare:
        versus.main(args)
        return
    args.rows, args.seconds = args.rows or [1, 16, 512], args.seconds or 100.0
    limits = common.Limits(args.threads, args.isa)
    ctx = limits.context
    torch = torch_or_none(ctx.threads) if "attention" in args.what else None
    all_jobs, rows, text = jobs(args), [], ""
    kinds = ("float32", "bfloat16") if ctx.has_dot else ("float32",)
    for title, kind, arguments in all_jobs:
        make = gemm if kind == "gemm" else partial(attention, torch)
        contenders, work = make(ctx, *arguments)
        measured = common.interleave(
            {**limits.contenders(*kinds), **contenders}, args.repeat, args.seconds / len(all_jobs)
        )
        peaks = {what: common.median(measured[f"limit {what}"]) for what in kinds}
        figures = {}
        for name in contenders:
            rate = work / common.median(measured[name])
            dot = ctx.has_dot and name in ("lanewise bf16 dot", "torch bf16")
            figures[name] = {"operations_per_second": rate, "fraction": rate / peaks["bfloat16" if dot else "float32"]}
        rows.append({"what": title, "limits": peaks, "contenders": figures})
        cells = [[name, f["operations_per_second"] / 1e9, f"{f['fraction']:.0%}"] for name, f in figures.items()]
        text += f"{title} ({', '.join(f'{what} peak {rate / 1e9:.0f}' for what, rate in peaks.items())})\n"
        text += common.table(["", "GFLOP/s", "of peak"], cells) + "\n"
    common.finish(args, ctx, "kernels", {"peers": common.versions("numpy", "torch"), "rows": rows}, text)


if __name__ == "__main__":
    main()
