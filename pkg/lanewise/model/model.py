"""A loaded model: packed weights, the KV cache and the program, behind one call per step."""

from __future__ import annotations

import dataclasses
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native
from ..memory import empty
from ..tokenizer import Tokenizer
from .compile import compile_program
from .pack import Packer, Progress, plan_of
from .packed_cache import CacheOption, Entry, open_entry
from .quantize_load import RoundedWeights
from .safetensors import Weights
from .source import open_source
from .spec import STEP_ROWS, Spec

Int32 = np.ndarray[Any, np.dtype[np.int32]]
Float32 = np.ndarray[Any, np.dtype[np.float32]]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


class Model:
    """One model in memory. `run` is one step; steps of several threads take turns."""

    page_tokens = _native.PAGE

    def __init__(self, folder: Path, spec: Spec, generation: dict[str, Any], ctx: _native.Context) -> None:
        self.folder, self.spec, self.generation, self._ctx = folder, spec, generation, ctx
        self.vocabulary, self.context = spec.vocabulary, spec.context
        self.eos_ids: tuple[int, ...] = tuple(generation.pop("eos_ids", ())) or spec.eos_ids
        self.bos_id: int | None = generation.pop("bos_id", None)
        self.memory_limit: int | None = None
        self._lock = threading.Lock()
        self._sampling = _native.Context(ctx.isa, 1)
        self._sampling_lock = threading.Lock()
        self.tokenizer: Tokenizer | None = None
        self._program: _native.Program | None = None
        self._cache: _native.Cache | None = None

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        dtype: str = "auto",
        quantize: str | None = None,
        kv_dtype: str = "auto",
        numerics: str = "fast",
        context: int | None = None,
        threads: int | None = None,
        isa: str | None = None,
        revision: str | None = None,
        on_progress: Progress | None = None,
        memory_limit: int | None = None,
        cache: CacheOption = None,
    ) -> Model:
        """Reads, checks and packs a model; llm.load documents the arguments.

        Raises LoadError, ValueError, MemoryError.
        """
        _one_of("dtype", dtype, ("auto", "float32", "bfloat16"))
        _one_of("kv_dtype", kv_dtype, ("auto", "float32", "bfloat16"))
        _one_of("numerics", numerics, ("fast", "exact"))
        with open_source(source, revision) as opened:
            if quantize is not None:
                opened.weights = RoundedWeights(opened.weights, opened.spec, quantize, threads)
            spec = _with_context(opened.spec, context)
            ctx = make_context(isa, threads)
            model = cls(opened.path, spec, _given(opened.generation), ctx)
            model._layout(opened.weights, dtype, kv_dtype, numerics)
            model._limit(memory_limit)
            model.tokenizer = opened.tokenizer()
            plan = plan_of(spec, opened.weights, dtype)
            entry = open_entry(cache, opened.files, {"dtype": dtype, "quantize": quantize}, plan)
            packed = Packer(ctx, spec, opened.weights, dtype, plan, on_progress, entry).model()
        model._say(entry)
        score = compile_program(spec, packed, exact=numerics == "exact")
        model.ops = score.ops
        model.weight_bytes = packed.nbytes
        model._program = _native.Program(ctx, score.ops, score.widths)
        model._scratch = model._program.scratch(STEP_ROWS)
        first = spec.layers[0].attention
        model._cache = _native.Cache(len(spec.layers), first.kv_heads, first.head_dim, model.kv_dtype)
        return model

    ops: list[Any]
    weight_bytes: int
    kv_dtype: str
    formats: dict[str, int]
    numerics: str
    packed_cache: str = "off"
    _scratch: int = 0

    def _layout(self, weights: Weights, dtype: str, kv_dtype: str, numerics: str) -> None:
        """Formats and sizes, known before anything is packed."""
        plan = plan_formats(self.spec, weights, dtype)
        self.formats = plan
        self.kv_dtype = _kv_dtype(plan) if kv_dtype == "auto" else kv_dtype
        self.numerics, self.weight_bytes = numerics, sum(plan.values())

    def _say(self, entry: Entry | None) -> None:
        """What became of the packed cache."""
        if entry is not None:
            self.packed_cache = entry.state
            if entry.state not in ("mapped", "written"):
                warnings.warn(f"packed cache {entry.path}: {entry.state}", RuntimeWarning, stacklevel=2)

    def _limit(self, memory_limit: int | None) -> None:
        if memory_limit is None:
            return
        needed = self.memory_plan(context=1)["total"]
        if needed > memory_limit:
            raise MemoryError(f"{self.folder}: {needed} bytes are needed, over memory_limit={memory_limit}")
        self.memory_limit = memory_limit

    # ---- the cache ----

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: page_tokens tokens of every layer's keys and values."""
        return cache_bytes(self.spec, self.kv_dtype)

    @property
    def max_pages(self) -> int | None:
        """Pages that memory_limit leaves room for; None: no limit."""
        if self.memory_limit is None:
            return None
        rest = self.memory_limit - self.memory_plan(context=1)["total"] + self.page_bytes
        return max(1, rest // self.page_bytes)

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` positions need."""
        return -(-tokens // self.page_tokens)

    def reserve_pages(self, n: int) -> None:
        """Grows the cache to n pages in all. Raises MemoryError."""
        limit = self.max_pages
        if limit is not None and n > limit:
            raise MemoryError(f"{n} cache pages of {self.page_bytes} bytes are needed, memory_limit leaves {limit}")
        with self._lock:
            self._open().reserve(n)

    def copy_page(self, source: int, target: int) -> None:
        with self._lock:
            self._open().copy_page(source, target)

    # ---- steps ----

    def run(
        self,
        tokens: Int32,
        row_starts: Int32,
        first_position: Int32,
        page_table: Int32,
        logit_rows: Int32,
        out: Float32 | None = None,
        op_ns: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> Float32:
        """One step: rows of several sequences, prefill chunks and decode rows alike.

        tokens int32[rows]; sequence s owns rows row_starts[s]:row_starts[s+1] (int32[n+1]) at consecutive positions
        from first_position[s] (int32[n]); its pages page_table[s] (int32[n, width]). Returns float32[len(logit_rows),
        vocabulary]: the logits of those rows (ascending). op_ns int64[len(ops)]: nanoseconds per op are added.
        Raises ValueError (an index out of range), MemoryError, KeyboardInterrupt; the model stays usable.
        """
        if out is None:
            out = empty((len(logit_rows), self.vocabulary))
        with self._lock:
            cache = self._open()
            assert self._program is not None
            self._program.run(cache, tokens, row_starts, first_position, page_table, logit_rows, out, op_ns)
        return out

    def softmax(self, x: Float32) -> Float32:
        """softmax of float32[n] by the C kernel: the same bits on every machine."""
        y = np.empty_like(x)
        with self._sampling_lock:
            _native.softmax(self._sampling, x[None, :], y[None, :])
        return y

    def _open(self) -> _native.Cache:
        if self._cache is None:
            raise RuntimeError("the model is closed")
        return self._cache

    # ---- facts ----

    @property
    def isa(self) -> str:
        return self._ctx.isa

    @property
    def threads(self) -> int:
        return self._ctx.threads

    @property
    def dot(self) -> bool:
        """Whether bf16 products use the CPU's bf16 dot product (numerics="fast" where the CPU has one)."""
        return self.numerics == "fast" and self._ctx.has_dot and "bfloat16" in self.formats

    def info(self) -> dict[str, Any]:
        """What runs, as plain values."""
        return {
            "source": str(self.folder), **self.spec.info(), "formats": dict(self.formats), "kv_dtype": self.kv_dtype,
            "numerics": self.numerics, "bf16_dot": self.dot, "isa": self.isa, "threads": self.threads,
            "weight_bytes": self.weight_bytes, "packed_cache": self.packed_cache,
        }  # fmt: skip

    def memory_plan(self, batch: int = 1, context: int | None = None) -> dict[str, int]:
        """Bytes: weights, cache for `batch` sequences of `context` tokens (None: the limit), scratch, total."""
        return memory_plan(self.spec, self.weight_bytes, self.kv_dtype, batch, context, self._scratch)

    def close(self) -> None:
        """Frees weights and cache; later steps raise RuntimeError."""
        with self._lock:
            self._program = self._cache = None
            self.ops = []


def make_context(isa: str | None, threads: int | None) -> _native.Context:
    """A context of the C core; ValueError names what is wrong and what there is."""
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"threads must be from 1 to 1024, got {threads}")
    name = isa or os.environ.get("LANEWISE_ISA") or None
    if name is not None:
        tables = {table.name: table.missing for table in _native.isas()}
        where = "isa" if isa else "LANEWISE_ISA"
        if name not in tables:
            raise ValueError(f"{where}={name!r} is not one of {', '.join(tables)}")
        if tables[name] is not None:
            raise ValueError(f"{where}={name!r} cannot run on this machine: {tables[name]}")
    return _native.Context(name, threads or 0)


def _with_context(spec: Spec, context: int | None) -> Spec:
    if context is None:
        return spec
    if context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    return spec.with_context(context)


def _given(generation: Any) -> dict[str, Any]:
    values = dataclasses.asdict(generation)
    return {key: value for key, value in values.items() if value is not None}


def plan_formats(spec: Spec, weights: Weights, dtype: str = "auto") -> dict[str, int]:
    """Bytes per packed format that the matrices will take."""
    plan: dict[str, int] = {}
    for matrix in plan_of(spec, weights, dtype):
        plan[matrix.format] = plan.get(matrix.format, 0) + matrix.nbytes
    return plan


def _kv_dtype(plan: dict[str, int]) -> str:
    """What keys and values are kept in by default: bfloat16 where most of the weights are."""
    return "bfloat16" if 2 * plan.get("bfloat16", 0) >= sum(plan.values()) else "float32"


def cache_bytes(spec: Spec, kv_dtype: str, tokens: int = _native.PAGE) -> int:
    """Bytes of `tokens` positions (whole pages) in the cache."""
    size = 4 if kv_dtype == "float32" else 2
    total = 0
    for layer in spec.layers:
        a = layer.attention
        keys = a.head_dim + (a.head_dim % 2 if size == 2 else 0)
        total += a.kv_heads * (keys + -(-a.head_dim // 16) * 16) * size
    return total * -(-tokens // _native.PAGE) * _native.PAGE


def memory_plan(
    spec: Spec, weight_bytes: int, kv_dtype: str, batch: int = 1, context: int | None = None, scratch: int = 0
) -> dict[str, int]:
    """Model.memory_plan for a model that need not be loaded."""
    tokens = spec.context if context is None else context
    if batch < 1 or tokens < 1:
        raise ValueError(f"batch and context must be at least 1, got {batch} and {tokens}")
    if not scratch:
        layer = spec.layers[0]
        a = layer.attention
        row = 5 * spec.hidden + (3 * a.heads + 2 * a.kv_heads) * a.head_dim + 3 * layer.mlp.width
        scratch = row * 4 * STEP_ROWS
    cache = batch * cache_bytes(spec, kv_dtype, tokens)
    logits = batch * spec.vocabulary * 4
    return {
        "weights": weight_bytes, "cache": cache, "cache_per_token": cache_bytes(spec, kv_dtype, 1) // _native.PAGE,
        "scratch": scratch, "logits": logits, "context": tokens, "batch": batch,
        "total": weight_bytes + cache + scratch + logits,
    }  # fmt: skip


def describe(
    source: str | os.PathLike[str],
    *,
    context: int | None = None,
    batch: int = 1,
    dtype: str = "auto",
    quantize: str | None = None,
    kv_dtype: str = "auto",
    revision: str | None = None,
) -> dict[str, Any]:
    """What a model is and what it will take, without loading its weights. Raises LoadError, ValueError."""
    with open_source(source, revision) as opened:
        if quantize is not None:
            opened.weights = RoundedWeights(opened.weights, opened.spec, quantize)
        spec = _with_context(opened.spec, context)
        plan = plan_formats(spec, opened.weights, dtype)
        files = [str(path) for path in opened.weights.files]
        stored = opened.weights.nbytes
    if kv_dtype == "auto":
        kv_dtype = _kv_dtype(plan)
    return {
        "source": str(opened.path), "files": files, "file_bytes": stored, **spec.info(), "formats": plan,
        "kv_dtype": kv_dtype,
        "memory": memory_plan(spec, sum(plan.values()), kv_dtype, batch, context),
    }  # fmt: skip
