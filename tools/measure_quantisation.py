"""Measure what quantising costs, and write the tables of docs/quantisation.md.

    python tools/measure_quantisation.py quality NAME MODEL TEXT      # perplexity, KL divergence, agreement per type
    python tools/measure_quantisation.py engines NAME MODEL TEXT ...  # KL divergence of lanewise and of llama.cpp
    python tools/measure_quantisation.py errors MODEL ...             # squared error and speed of the quantiser itself

TEXT is a file, or "grammar" for fresh documents of the built-in model's own grammar. The first half of it serves for
the importance, the second is what is measured. llama.cpp's quantiser stands beside ours where llama-cpp-python is
installed: the same types for the same tensors, run by the same engine. `engines` needs it: the same file, run by
either. MODEL is a folder; with --widen it is first written with widths that are multiples of 256
(tools/widen_model.py), so that the types with such blocks fit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from engine_divergence import Figures, excess, ours, theirs
from widen_model import widen

import lanewise
from lanewise.model.calibrate import collect
from lanewise.model.convert import quantize_model
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_types import TYPES
from lanewise.model.gguf_writer import Declared, GgufWriter, value_of
from lanewise.model.importance import read_importance, write_importance
from lanewise.model.quantize import WRITABLE, dequantize_rows, kind_of, quantize_rows
from lanewise.model.quantize_plan import PRESETS
from lanewise.model.source import open_source

DOCS = Path(__file__).resolve().parents[1] / "docs" / "quantisation.md"
NUMBERS = {kind.name: number for number, kind in TYPES.items()}
NARROW = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0", "MXFP4")
WIDE = ("Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K")
READ_ONLY = ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0")
BLOCKS = [name for name in WRITABLE if name not in ("F32", "F16", "BF16")]
Rows = Any


def peer() -> Callable[[Rows, str, Any], Rows] | None:
    """llama.cpp's quantiser, rows float32 to blocks; None where it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    found = sorted((Path(os.path.dirname(llama_cpp.__file__)) / "lib").glob("libggml-base.so*"))
    if not found:
        return None
    function = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantize(rows: Rows, name: str, weights: Any = None) -> Rows:
        kind, rows = TYPES[NUMBERS[name]], np.ascontiguousarray(rows, np.float32)
        out = np.empty((len(rows), rows.shape[1] // kind.block * kind.size), np.uint8)
        w = None if weights is None else np.ascontiguousarray(weights, np.float32)
        given = None if w is None else w.ctypes.data
        function(NUMBERS[name], rows.ctypes.data, out.ctypes.data, 0, *rows.shape, given)
        return out

    return quantize


# ---- quality ----


def texts_of(source: str) -> list[str]:
    """The documents of a file (a line, a JSON line or a stretch each), or of the grammar."""
    if source == "grammar":
        from builtin_grammar import document

        rng = random.Random(20_261_125)
        return [document(rng, kind) for kind in ("story", "everyday", "references", "chinese") * 150]
    text = Path(source).read_text("utf-8")
    if source.endswith(".jsonl"):
        return [json.loads(line)["text"] for line in text.splitlines()]
    return [text[start : start + 2000] for start in range(0, len(text), 2000)]


def chunks_of(llm: Any, texts: list[str], context: int, most: int) -> list[Any]:
    """Documents joined to chunks of `context` ids."""
    ids = [i for text in texts for i in llm.tokenize(text)]
    return [np.array(ids[s : s + context], np.int32) for s in range(0, min(len(ids), most) - context + 1, context)]


def compare(path: Path | str, chunks: list[Any], reference: list[Any] | None) -> tuple[Figures, list[Any]]:
    """Figures of a model against the logits of another (None: itself), and its own logits."""
    logits = ours(path, chunks)
    return Figures.of(chunks, reference or logits, logits), logits


def as_peer(
    plain: Path, made: Path, target: Path, quantize: Any, importance: dict[str, Any] | None, instead: str = ""
) -> None:
    """A file like `made`, its blocks made by llama.cpp of the float32 rows in `plain`; of `instead` where Q4_K is."""
    with open_gguf(plain) as source, open_gguf(made) as like:
        pairs = {key: value_of(value, like.types[key]) for key, value in like.metadata.items()}
        kinds = {t.name: instead if instead and t.type.name == "Q4_K" else t.type.name for t in like.tensors.values()}
        tensors = [Declared(t.name, kinds[t.name], t.shape) for t in like.tensors.values()]
        with GgufWriter(target, pairs, tensors, overwrite=True) as writer:
            for t in like.tensors.values():
                if t.type.name in BLOCKS:
                    w = None if importance is None else importance.get(t.name)
                    writer.write(t.name, quantize(source.array(t.name), kinds[t.name], w))
                else:
                    writer.write(t.name, like.rows(t.name))


def quality(name: str, model: str, text: str, most: int, types: tuple[str, ...]) -> str:
    """The table of one model."""
    other = peer()
    texts = texts_of(text)
    half = len(texts) // 2
    with lanewise.load(model) as llm:
        context = min(256, llm.context)
        seen, chunks = chunks_of(llm, texts[:half], context, most), chunks_of(llm, texts[half:], context, most)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        plain = quantize_model(model, at / "f32.gguf", type="F32", tokenizer=False)
        importance = importance_of(model, seen, at / "i.gguf", text)
        figures, reference = compare(at / "f32.gguf", chunks, None)
        rows = sum(len(ids) for ids in chunks)
        lines.append(f"**{name}**: {plain['weights']:,} weights, {rows:,} tokens, perplexity {figures.perplexity:.4f}")
        lines += ["", "| type | bits | quantiser | perplexity | KL (1e-3) | same top token |", "|---" * 6 + "|"]
        for kind in types:
            for file, label in variants(model, kind, at, importance, other):
                found, _ = compare(file, chunks, reference)
                bits = 8 * found_bytes(file) / plain["weights"]
                lines.append(f"| {kind} | {bits:.2f} | {label} | {found} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def importance_of(model: str, chunks: list[Any], path: Path, text: str) -> dict[str, Any]:
    """Written to `path`, and read again."""
    with open_source(model) as opened:
        sums, count = collect(opened.spec, opened.weights, chunks)
    write_importance(path, sums, count, text=text, chunk=len(chunks[0]))
    return read_importance(path)


# ---- engines ----


def engines(name: str, model: str, texts: list[str], most: int, types: tuple[str, ...]) -> str:
    """The table of one model: each file run by lanewise and by llama.cpp, over the second half of each text."""
    with lanewise.load(model) as llm:
        context = min(256, llm.context)
        halves = [texts_of(text)[len(texts_of(text)) // 2 :] for text in texts]
        chunks = [chunks_of(llm, half, context, most) for half in halves]
        seen = chunks_of(llm, texts_of(texts[0])[: len(texts_of(texts[0])) // 2], context, most)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        plain = quantize_model(model, at / "f32.gguf", type="F32")
        reference = [ours(at / "f32.gguf", part) for part in chunks]
        importance = importance_of(model, seen, at / "i.gguf", texts[0])
        head = [f"{Path(text).name}, {len(part) * context:,}" for text, part in zip(texts, chunks, strict=True)]
        lines = [f"**{name}**: {plain['weights']:,} weights", "", "| type | " + " | ".join(head) + " |"]
        lines.append("|---" * (1 + len(texts)) + "|")
        for kind in types:
            file, cells = file_of(kind, model, at, importance), []
            for part, wanted in zip(chunks, reference, strict=True):
                mine, other = (Figures.of(part, wanted, run(file, part)) for run in (ours, theirs))
                more, error = (f"{100 * x:.1f}" for x in excess(mine, other, context))
                sign = "" if more.startswith("-") else "+"
                kl = " / ".join(f"{1e3 * f.kl.mean():.3f}" for f in (mine, other))
                cells.append(f"{kl} ({sign}{more} ± {error} %)")
            lines.append(f"| {kind} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def file_of(kind: str, model: str, at: Path, importance: dict[str, Any]) -> Path:
    """A file of that type: by our quantiser, or in the place of Q4_K by llama.cpp's where ours cannot write it."""
    if kind in WRITABLE or kind in PRESETS:
        quantize_model(model, at / "q.gguf", type=kind, overwrite=True)
        return at / "q.gguf"
    quantize = peer()
    if quantize is None:
        raise SystemExit(f"{kind} needs llama.cpp's quantiser")
    quantize_model(model, at / "k.gguf", type="Q4_K", overwrite=True)
    as_peer(at / "f32.gguf", at / "k.gguf", at / "q.gguf", quantize, importance, kind)
    return at / "q.gguf"


def found_bytes(path: Path) -> int:
    with open_gguf(path) as file:
        return file.nbytes


def variants(model: str, kind: str, at: Path, importance: dict[str, Any], theirs: Any) -> Iterator[tuple[Path, str]]:
    """Files of one type: ours, llama.cpp's, and both with the importance."""
    for label, given in (("", None), (", importance", importance)):
        file = at / "q.gguf"
        quantize_model(model, file, type=kind, tokenizer=False, overwrite=True,
                       importance=at / "i.gguf" if given else None)  # fmt: skip
        yield file, f"lanewise{label}"
        if theirs is not None:
            as_peer(at / "f32.gguf", file, at / "p.gguf", theirs, given)
            yield at / "p.gguf", f"llama.cpp{label}"


# ---- the quantiser itself ----


def weights_of(model: str) -> Rows:
    """The matrices of a model as rows of 1024."""
    parts = []
    with open_source(model) as opened:
        for tensor in opened.spec.tensors():
            if len(tensor.shape) == 2 and tensor.role not in ("embed", "head"):
                values = opened.weights.array(tensor.name)
                if opened.weights.info(tensor.name).dtype == "BF16":
                    values = (values.astype(np.uint32) << 16).view(np.float32)
                parts.append(values.reshape(-1).astype(np.float32))
    flat = np.concatenate(parts)
    return flat[: len(flat) // 1024 * 1024].reshape(-1, 1024)


def errors(models: list[str]) -> str:
    """Relative squared errors, ours over llama.cpp's, and weights per second."""
    theirs, random_ = peer(), np.random.default_rng(0)
    sets = {"Gaussian": random_.standard_normal((128, 1024)).astype(np.float32)}
    sets |= {Path(model).name: weights_of(model) for model in models}
    importance = np.random.default_rng(1).lognormal(0, 1.5, 1024).astype(np.float32)
    head = "| type | bits | " + " | ".join(f"{name} | weighted" for name in sets) + " | M weights/s, 1 and 2 threads |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    speed_rows = random_.standard_normal((512, 4096)).astype(np.float32)
    for kind in BLOCKS:
        cells = []
        for x in sets.values():
            for w in (None, importance):

                def square(blocks: Rows, x: Rows = x, w: Any = w, kind: str = kind) -> float:
                    e = (x - dequantize_rows(blocks, kind)).astype(np.float64) ** 2
                    return float((e if w is None else e * w).sum())

                ours = square(quantize_rows(x, kind, w))
                total = float((x.astype(np.float64) ** 2 * (1 if w is None else w)).sum())
                beside = f" ({ours / square(theirs(x, kind, w)):.3f})" if theirs else ""
                cells.append(f"{ours / total:.3e}{beside}")
        rates = []
        for threads in (1, 2):
            begin = time.perf_counter()
            quantize_rows(speed_rows, kind, threads=threads)
            rates.append(f"{speed_rows.size / (time.perf_counter() - begin) / 1e6:.1f}")
        bits = kind_of(kind).size * 8 / kind_of(kind).block
        lines.append(f"| {kind} | {bits:.4g} | {' | '.join(cells)} | {', '.join(rates)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def put(name: str, table: str) -> None:
    """Replaces what stands between the markers of that name in the docs."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = DOCS.read_text("utf-8")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    if not pattern.search(text):
        raise SystemExit(f"{DOCS} has no place {begin} ... {end}")
    DOCS.write_text(pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("quality", "engines"):
        one = commands.add_parser(command)
        one.add_argument("name")
        one.add_argument("model")
        one.add_argument("text", nargs="+" if command == "engines" else None)
        one.add_argument("--tokens", type=int, default=16384)
        one.add_argument("--widen", action="store_true")
    two = commands.add_parser("errors")
    two.add_argument("models", nargs="*", default=["builtin"])
    options = parser.parse_args()
    if options.command == "errors":
        put("errors", errors(options.models))
        return
    with tempfile.TemporaryDirectory() as folder:
        model, name = options.model, options.name + " widened" * options.widen
        if options.widen:
            model = str(widen(Path(model), Path(folder)))
        if options.command == "quality":
            put(name, quality(name, model, options.text, options.tokens, WIDE if options.widen else NARROW))
        else:
            types = ("q4m", *NARROW, *WIDE, *READ_ONLY) if options.widen else NARROW
            put(name + ", engines", engines(name, model, options.text, options.tokens, types))


if __name__ == "__main__":
    main()
