"""Measure what quantising costs, and write the tables of docs/quantisation.md.

    python tools/measure_quantisation.py quality NAME MODEL TEXT   # perplexity, KL divergence, agreement per type
    python tools/measure_quantisation.py wide NAME MODEL TEXT      # the same for blocks of 256, laid over the rows
    python tools/measure_quantisation.py errors MODEL ...          # squared error and speed of the quantiser itself

TEXT is a file, or "grammar" for fresh documents of the built-in model's own grammar. The first half of it serves for
the importance, the second is what is measured. llama.cpp's quantiser stands beside ours where llama-cpp-python is
installed: the same types for the same tensors, run by the same engine.
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

import lanewise
from lanewise.model.calibrate import collect
from lanewise.model.convert import quantize_model
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_types import TYPES
from lanewise.model.gguf_writer import Declared, GgufWriter, value_of
from lanewise.model.importance import read_importance, write_importance
from lanewise.model.quantize import WRITABLE, dequantize_rows, kind_of, quantize_rows
from lanewise.model.source import open_source

DOCS = Path(__file__).resolve().parents[1] / "docs" / "quantisation.md"
NUMBERS = {kind.name: number for number, kind in TYPES.items()}
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
        kind, rows = kind_of(name), np.ascontiguousarray(rows, np.float32)
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


def log_softmax(logits: Rows) -> Rows:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def compare(path: Path | str, chunks: list[Any], reference: list[Any] | None) -> tuple[dict[str, float], list[Any]]:
    """Figures of a model against the logits of another, and its own logits."""
    nll = kl = same = rows = 0.0
    kept = []
    with lanewise.load(path, dtype="auto", numerics="exact") as llm:
        for i, ids in enumerate(chunks):
            logits = llm.logits(ids)
            kept.append(logits)
            log_q = log_softmax(logits)
            nll -= log_q[np.arange(len(ids) - 1), ids[1:]].sum()
            log_p = log_softmax(reference[i]) if reference else log_q
            kl += (np.exp(log_p) * (log_p - log_q)).sum()
            same += (log_p.argmax(axis=1) == log_q.argmax(axis=1)).sum()
            rows += len(ids)
    return {"ppl": float(np.exp(nll / (rows - len(chunks)))), "kl": kl / rows, "same": same / rows}, kept


def as_peer(plain: Path, ours: Path, target: Path, quantize: Any, importance: dict[str, Any] | None) -> None:
    """A file like `ours`, its blocks made by llama.cpp of the float32 rows in `plain`."""
    with open_gguf(plain) as source, open_gguf(ours) as like:
        pairs = {key: value_of(value, like.types[key]) for key, value in like.metadata.items()}
        tensors = [Declared(t.name, t.type.name, t.shape) for t in like.tensors.values()]
        with GgufWriter(target, pairs, tensors, overwrite=True) as writer:
            for t in like.tensors.values():
                if t.type.name in BLOCKS:
                    w = None if importance is None else importance.get(t.name)
                    writer.write(t.name, quantize(source.array(t.name), t.type.name, w))
                else:
                    writer.write(t.name, like.rows(t.name))


def quality(name: str, model: str, text: str, most: int) -> str:
    """The table of one model."""
    theirs = peer()
    texts = texts_of(text)
    half = len(texts) // 2
    with lanewise.load(model) as llm:
        context = min(256, llm.context)
        seen, chunks = chunks_of(llm, texts[:half], context, most), chunks_of(llm, texts[half:], context, most)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        plain = quantize_model(model, at / "f32.gguf", type="F32", tokenizer=False)
        with open_source(model) as opened:
            sums, count = collect(opened.spec, opened.weights, seen)
        write_importance(at / "i.gguf", sums, count, text=text, chunk=context)
        importance = read_importance(at / "i.gguf")
        figures, reference = compare(at / "f32.gguf", chunks, None)
        rows = sum(len(ids) for ids in chunks)
        lines.append(f"**{name}**: {plain['weights']:,} weights, {rows:,} tokens, perplexity {figures['ppl']:.4f}")
        lines += ["", "| type | bits | quantiser | perplexity | KL (1e-3) | same top token |", "|---" * 6 + "|"]
        for kind in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0", "MXFP4"):
            for file, label in variants(model, kind, at, importance, theirs):
                found, _ = compare(file, chunks, reference)
                bits = 8 * found_bytes(file) / plain["weights"]
                shown = f"{found['ppl']:.4f} | {found['kl'] * 1e3:.3f} | {found['same']:.2%}"
                lines.append(f"| {kind} | {bits:.2f} | {label} | {shown} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def flattened(plain: Path, target: Path, kind: str, quantize: Any) -> int:
    """A float32 file with the values that blocks of 256 give; bytes that its matrices would take.

    No width here is a multiple of 256, so a block runs on over the ends of rows. Embedding and head are Q8_0.
    """
    size = 0
    with open_gguf(plain) as source:
        pairs = {key: value_of(value, source.types[key]) for key, value in source.metadata.items()}
        declared = [Declared(t.name, "F32", t.shape) for t in source.tensors.values()]
        with GgufWriter(target, pairs, declared, overwrite=True) as writer:
            for t in declared:
                values = np.asarray(source.array(t.name), np.float32)
                if len(t.shape) == 2:
                    name = "Q8_0" if t.name in ("token_embd.weight", "output.weight") else kind
                    blocks = quantize(values.reshape(-1, kind_of(name).block), name, None)
                    values, size = dequantize_rows(blocks, name), size + blocks.nbytes
                else:
                    size += values.nbytes
                writer.write(t.name, values)
    return size


def wide(name: str, model: str, text: str, most: int) -> str:
    """The table of one model for blocks of 256."""
    texts = texts_of(text)
    with lanewise.load(model) as llm:
        chunks = chunks_of(llm, texts[len(texts) // 2 :], min(256, llm.context), most)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        plain = quantize_model(model, at / "f32.gguf", type="F32", tokenizer=False)
        figures, reference = compare(at / "f32.gguf", chunks, None)
        rows = sum(len(ids) for ids in chunks)
        lines = [f"**{name}**: {plain['weights']:,} weights, {rows:,} tokens, perplexity {figures['ppl']:.4f}"]
        lines += ["", "| type | bits | quantiser | perplexity | KL (1e-3) | same top token |", "|---" * 6 + "|"]
        for kind in ("Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K"):
            for label, quantize in (("lanewise", quantize_rows), ("llama.cpp", peer())):
                if quantize is None:
                    continue
                bits = 8 * flattened(at / "f32.gguf", at / "q.gguf", kind, quantize) / plain["weights"]
                found, _ = compare(at / "q.gguf", chunks, reference)
                shown = f"{found['ppl']:.4f} | {found['kl'] * 1e3:.3f} | {found['same']:.2%}"
                lines.append(f"| {kind} | {bits:.2f} | {label} | {shown} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


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
    for command in ("quality", "wide"):
        one = commands.add_parser(command)
        one.add_argument("name")
        one.add_argument("model")
        one.add_argument("text")
        one.add_argument("--tokens", type=int, default=16384)
    two = commands.add_parser("errors")
    two.add_argument("models", nargs="*", default=["builtin"])
    options = parser.parse_args()
    if options.command == "quality":
        put(options.name, quality(options.name, options.model, options.text, options.tokens))
    elif options.command == "wide":
        table = wide(options.name, options.model, options.text, options.tokens)
        put(f"{options.name}, blocks of 256", table)
    else:
        put("errors", errors(options.models))


if __name__ == "__main__":
    main()
