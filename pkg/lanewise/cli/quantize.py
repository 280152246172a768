"""lanewise quantize SRC DST: a model as a GGUF file of few bits. lanewise calibrate: which inputs matter on a text."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import bar
from .options import UsageError, check_type, error_line


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declares both commands."""
    quantize = commands.add_parser(
        "quantize", parents=[common], help="write a model as a quantised GGUF file",
        description="Writes a Hugging Face folder, safetensors or GGUF as a GGUF file with quantised matrices.",
    )  # fmt: skip
    quantize.add_argument("source", metavar="SRC", help="folder, .safetensors, .gguf, owner/name, or builtin")
    quantize.add_argument("target", metavar="DST", help="the .gguf file to write")
    quantize.add_argument(
        "--type", default="q4m", metavar="TYPE",
        help="q4, q4m, q6, q8, a mixture of llama.cpp such as Q4_K_M, or a GGUF type such as Q5_K (default: q4m)",
    )  # fmt: skip
    quantize.add_argument("--importance", metavar="FILE", help="what `lanewise calibrate` wrote, or an imatrix in GGUF")
    quantize.add_argument("--embedding", metavar="TYPE", help="type of the embedding; default: 6 or 8 bits")
    quantize.add_argument("--head", metavar="TYPE", help="type of the head; default: 6 or 8 bits")
    quantize.add_argument("--no-tokenizer", action="store_true", help="leave the tokenizer out")
    quantize.add_argument("--force", action="store_true", help="overwrite DST")
    quantize.add_argument("--threads", type=int, metavar="N", help="default: all that this process may use")
    quantize.add_argument("--json", action="store_true")
    quantize.set_defaults(run=run_quantize, parser=quantize)
    calibrate = commands.add_parser(
        "calibrate", parents=[common], help="collect which inputs of each matrix matter, for quantize --importance",
        description="Reads a text with the model and writes the mean squares of the inputs of each matrix.",
    )  # fmt: skip
    calibrate.add_argument("model", metavar="MODEL", help="folder, .safetensors, .gguf, owner/name, or builtin")
    calibrate.add_argument("text", metavar="TEXT", help="a text file in UTF-8, or - for standard input")
    calibrate.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    calibrate.add_argument("--chunk", type=int, default=512, metavar="N", help="tokens read together (512)")
    calibrate.add_argument("--max-tokens", type=int, default=32768, metavar="N", help="tokens read in all (32768)")
    calibrate.add_argument("--force", action="store_true", help="overwrite FILE")
    calibrate.add_argument("--json", action="store_true")
    calibrate.set_defaults(run=run_calibrate, parser=calibrate)


def run_quantize(options: argparse.Namespace) -> int:
    """Writes the file and prints what is in it."""
    from ..model.convert import quantize_model
    from ..model.quantize import kind_of

    _may_write(options.target, options.force)
    if not options.target.endswith(".gguf"):
        raise UsageError(f"DST must end in .gguf, not {Path(options.target).name!r}")
    _at_least_one(options.threads, "--threads")
    check_type(options.type)
    try:
        for name in (options.embedding, options.head):
            kind_of(name or "F32")
    except ValueError as error:
        raise UsageError(str(error)) from None
    begin = time.perf_counter()
    with bar(f"quantizing {options.source}", "weights", quiet=options.json) as report:
        found = quantize_model(
            options.source, options.target, type=options.type, importance=options.importance, embed=options.embedding,
            head=options.head, tokenizer=not options.no_tokenizer, overwrite=options.force, threads=options.threads,
            on_progress=lambda done, total, name: report(done, total),
        )  # fmt: skip
    found["seconds"] = time.perf_counter() - begin
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    for line in _fallbacks(found["fallbacks"]) + found["notes"]:
        error_line(f"note: {line}")
    sizes = ", ".join(f"{name} {size:,}" for name, size in found["types"].items())
    print(f"{found['target']}: {found['weights']:,} weights, {found['bits_per_weight']:.2f} bits each ({sizes} bytes)")
    print(f"{found['file_bytes']:,} bytes after {found['source_bytes']:,}, {found['seconds']:.1f} s")
    return 0


def run_calibrate(options: argparse.Namespace) -> int:
    """Reads the text with the model and writes the file."""
    from ..errors import LoadError
    from ..model.calibrate import collect
    from ..model.importance import write_importance
    from ..model.source import open_source

    _may_write(options.output, options.force)
    _at_least_one(options.chunk, "--chunk")
    _at_least_one(options.max_tokens, "--max-tokens")
    text = sys.stdin.read() if options.text == "-" else Path(options.text).read_text("utf-8")
    begin = time.perf_counter()
    with open_source(options.model) as opened:
        tokenizer = opened.tokenizer()
        if tokenizer is None:
            raise LoadError("the model has no tokenizer, so a text cannot be read", file=opened.path)
        chunk = min(options.chunk, opened.spec.context)
        chunks = _chunks(tokenizer, text, chunk, options.max_tokens)
        with bar(f"calibrating {options.model}", "layers", quiet=options.json) as report:
            sums, count = collect(opened.spec, opened.weights, chunks, lambda done, total, _: report(done, total))
        if not all(np.isfinite(values).all() for values in sums.values()):
            raise LoadError("gives inputs that are not finite on this text", file=opened.path)
        write_importance(
            options.output, sums, count, text=os.path.basename(options.text), chunk=chunk, overwrite=options.force
        )
    found = {"model": str(opened.path), "output": options.output, "tokens": count, "chunks": len(chunks),
             "matrices": len(sums), "seconds": time.perf_counter() - begin}  # fmt: skip
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(f"{options.output}: {len(sums)} matrices over {count:,} tokens, {found['seconds']:.1f} s")
    return 0


def _chunks(tokenizer: Any, text: str, chunk: int, most: int) -> list[Any]:
    """The text's ids in pieces of at most `chunk`, what the tokenizer puts before a text before each."""
    before, ids = tokenizer.encode(""), tokenizer.encode(text, False)
    if not ids:
        raise UsageError("TEXT is empty")
    step = max(1, chunk - len(before))
    pieces = [[*before, *ids[start : start + step]][:chunk] for start in range(0, len(ids), step)]
    arrays = [np.array(piece, np.int32) for piece in pieces[: -(-most // chunk)]]
    return arrays[:-1] if len(arrays) > 1 and len(arrays[-1]) < len(arrays[0]) // 2 else arrays


def _may_write(path: str, force: bool) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder")
    if not force and os.path.lexists(path):
        raise FileExistsError(f"{path} is there already; --force overwrites it")


def _at_least_one(value: int | None, name: str) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{name} must be at least 1")


def _fallbacks(found: list[dict[str, Any]]) -> list[str]:
    """One line for tensors that differ in the number of the layer only."""
    count = Counter(
        (".".join("*" if part.isdigit() else part for part in one["tensor"].split(".")), one["wanted"], one["taken"],
         one["width"])
        for one in found
    )  # fmt: skip
    return [
        f"{name} ({n}): rows of {width} do not fit {wanted}; {taken} instead"
        for (name, wanted, taken, width), n in count.items()
    ]
