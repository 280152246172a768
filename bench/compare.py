"""A model here and elsewhere, in turn: a folder in PyTorch/transformers, a GGUF file in llama.cpp and others.

    python bench/compare.py FOLDER [--dtype bfloat16,float32] [--prefill 512] [--decode 64]
    python bench/compare.py FILE.gguf ... [--what prefill,decode,deep,batch,load] [--depth 2048] [--sequences 8,32]

Rounds are interleaved, medians count, a ratio is ours over theirs in the same run. Files: decode also after --depth
tokens and with several sequences together (128 tokens each before), the better of llama.cpp's two kinds of attention;
load: seconds from loading to the first token and the peak of memory, in fresh processes, the file in the page cache.
Besides llama.cpp: ik_llama.cpp (--ik-llama) with the same file; OpenVINO and CTranslate2 with folders of that shape.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import compare_files
from run import Run


class Torch:
    """transformers with PyTorch's own attention; the prompt in one forward, as it does by default."""

    def __init__(self, folder: Path, dtype: str, threads: int, ids: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch, self.ids = torch, torch.from_numpy(ids.astype("int64"))[None]
        kind = getattr(torch, dtype)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="sdpa").eval()
        self.cache: Any = None

    def prefill(self, n: int) -> float:
        begin = time.perf_counter()
        with self.torch.inference_mode():
            out = self.model(self.ids[:, :n], use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return time.perf_counter() - begin

    def decode(self, n: int) -> float:
        """After a prefill."""
        begin = time.perf_counter()
        with self.torch.inference_mode():
            for i in range(n):
                out = self.model(self.ids[:, i : i + 1], past_key_values=self.cache, use_cache=True)
                self.cache = out.past_key_values
        return time.perf_counter() - begin


class Ours:
    """lanewise behind the same two methods."""

    def __init__(self, run: Run) -> None:
        self.run, self.at = run, 0

    def prefill(self, n: int) -> float:
        self.at = n
        return self.run.prefill(n)

    def decode(self, n: int) -> float:
        return self.run.decode(n, self.at)


def compare(args: argparse.Namespace, dtype: str, limits: common.Limits) -> tuple[dict[str, Any], str]:
    """Figures and text for one dtype."""
    run = Run(args.source[0], dtype=dtype, threads=args.threads, isa=args.isa)
    threads, n, d = run.model.threads, args.prefill, args.decode
    sides: dict[str, Any] = {"lanewise": Ours(run)}
    sides["transformers"] = Torch(args.source[0], dtype, threads, run.ids)
    contenders: dict[str, Callable[[], float]] = limits.contenders(run.arithmetic, "read")
    contenders |= {f"{name} prefill": lambda side=side: side.prefill(n) for name, side in sides.items()}
    contenders |= {f"{name} decode": lambda side=side: side.decode(d) for name, side in sides.items()}
    measured = common.interleave(contenders, args.repeat, args.seconds / len(args.dtype), rotate=False)
    peaks = {name: common.median(measured[f"limit {name}"]) for name in (run.arithmetic, "read")}
    fractions = {
        "prefill": run.work.prefill_operations(0, n)
        / common.median(measured["lanewise prefill"])
        / peaks[run.arithmetic],
        "decode": run.work.decode_bytes(n, d) / common.median(measured["lanewise decode"]) / peaks["read"],
    }
    rows, cells = [], []
    for phase, tokens in (("prefill", n), ("decode", d)):
        speed = {name: tokens / common.median(measured[f"{name} {phase}"]) for name in sides}
        ratios = {name: speed["lanewise"] / other for name, other in speed.items() if name != "lanewise"}
        rows.append({"phase": phase, "tokens": tokens, "tokens_per_second": speed, "ratio": ratios,
                     "fraction_of_limit": fractions[phase],
                     "seconds": {name: measured[f"{name} {phase}"] for name in sides}})  # fmt: skip
        cells.append(
            [f"{phase} {tokens}", *speed.values(), *(f"{r:.2f}x" for r in ratios.values()), f"{fractions[phase]:.0%}"]
        )
    others = [f"/ {name}" for name in list(sides)[1:]]
    text = f"{args.source[0].name}, {dtype}, {run.model.isa}, {threads} threads, tokens/s\n"
    text += common.table(["", *sides, *others, "of our limit"], cells) + "\n"
    run.model.close()
    return {"dtype": dtype, "formats": run.model.formats, "limits": peaks, "rows": rows}, text


def names(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = common.arguments(__doc__ or "", repeat=3)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, nargs="+", help="one folder, or GGUF files")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--dtype", type=names, default=["bfloat16"], help="of a folder: bfloat16,float32")
    parser.add_argument("--what", type=names, default=list(compare_files.WHAT), help="of files; default: all")
    parser.add_argument("--depth", type=int, default=2048, help="of files: tokens before those that are decoded")
    parser.add_argument("--sequences", type=numbers, default=[8, 32], help="of files: decoded together")
    parser.add_argument("--kv-dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="of files")
    parser.add_argument("--openvino", type=Path, nargs="*", default=[], help="of files: exported folders, beside them")
    parser.add_argument("--ctranslate2", type=Path, nargs="*", default=[], help="of files: converted folders, likewise")
    parser.add_argument("--ik-llama", type=Path, metavar="CHECKOUT", help="of files: ik_llama.cpp, built in there")
    args = parser.parse_args()
    if unknown := set(args.what) - set(compare_files.WHAT):
        parser.error(f"--what: {', '.join(sorted(unknown))} is none of {', '.join(compare_files.WHAT)}")
    if all(path.suffix == ".gguf" for path in args.source):
        compare_files.run(args)
        return
    if len(args.source) > 1:
        parser.error("one folder, or GGUF files alone")
    limits = common.Limits(args.threads, args.isa)
    figures, text = [], ""
    for dtype in args.dtype:
        found, lines = compare(args, dtype, limits)
        figures.append(found)
        text += lines
        gc.collect()
    peers = common.versions("torch", "transformers")
    data = {"model": args.source[0].name, "peers": peers, "runs": figures}
    common.finish(args, limits.context, "compare", data, text)


if __name__ == "__main__":
    main()
