"""Attention over arrays: keys and values go into a private paged cache, as in the engine."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from .. import _native
from . import contexts
from .arrays import Float32, apart, array, as_rows, float32, is_bfloat16, require_shape, rows, target

_UNLIMITED = (-1, -1)


@overload
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = ...,
    scale: float | None = ...,
    window: tuple[int, int] = ...,
    softcap: float = ...,
    return_lse: Literal[False] = ...,
    exact: bool = ...,
    out: Float32 | None = ...,
) -> Float32: ...
@overload
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = ...,
    scale: float | None = ...,
    window: tuple[int, int] = ...,
    softcap: float = ...,
    return_lse: Literal[True],
    exact: bool = ...,
    out: Float32 | None = ...,
) -> tuple[Float32, Float32]: ...


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = _UNLIMITED,
    softcap: float = 0.0,
    return_lse: bool = False,
    exact: bool = True,
    out: Float32 | None = None,
) -> Any:
    """softmax(q . k^T * scale) . v, never forming the scores as a matrix.

    Layout and names as in FlashAttention: q is [batch, lq, heads, d], k and v are [batch, lk, kv_heads, d]; without
    `batch` all three lack it. heads is a multiple of kv_heads: each kv head serves heads / kv_heads neighbours. The
    last query stands at the last key: row i is at position i + lk - lq, `causal` lets it see keys up to there, and
    window=(left, right) those within reach (-1: unlimited). softcap > 0 bends scores to softcap * tanh(score/softcap).
    scale is 1/sqrt(d) unless given. A row that sees no key gives zeros. return_lse also gives the logarithm of the sum
    of exponentials, [batch, heads, lq]. bfloat16 keys and values stay bfloat16, their products are summed in float32;
    exact=False lets them use the CPU's bfloat16 dot product, which rounds q and the probabilities too.
    """
    bf16 = all(is_bfloat16(array(name, x)) for name, x in (("k", k), ("v", v)))
    q, k, v = float32("q", q), float32("k", k), float32("v", v)
    batched = q.ndim == 4
    _check(q, k, v)
    left, right = (max(-1, int(reach)) for reach in window)
    if causal:
        right = 0
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if not softcap >= 0:
        raise ValueError(f"softcap: a number from 0 on expected, got {softcap}")
    c = target("out", out, q.shape, inner=2)
    q, k, v = apart(q, c), apart(k, c), apart(v, c)
    o = c
    if not batched:
        q, k, v, o = q[None], k[None], v[None], c[None]
    job = _Job(k, v, "bfloat16" if bf16 else "float32", scale, softcap, exact)
    lse = job.run(q, o, left, right)
    if not return_lse:
        return c
    lse = np.ascontiguousarray(lse.transpose(0, 2, 1))
    return c, lse if batched else lse[0]


def _check(q: Float32, k: Float32, v: Float32) -> None:
    if q.ndim not in (3, 4):
        raise ValueError(f"q: [batch, length, heads, d] or [length, heads, d] expected, got {q.ndim} dimensions")
    if k.ndim != q.ndim:
        raise ValueError(f"k: {q.ndim} dimensions expected, as q has, got {k.ndim}")
    require_shape("v", v, k.shape)
    if k.shape[-1] != q.shape[-1] or k.shape[:-3] != q.shape[:-3]:
        raise ValueError(f"k: the batch and head sizes of q {list(q.shape)} expected, got {list(k.shape)}")
    heads, kv_heads, d = q.shape[-2], k.shape[-2], q.shape[-1]
    if d < 1 or kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise ValueError(
            f"q: heads that are a multiple of the {kv_heads} of k, and d from 1 on, expected, got {heads} heads of {d}"
        )


def _ranges(lq: int, lk: int, left: int, right: int) -> list[tuple[int, int, int, int, int]]:
    """The rows as runs (from, to, first position, left, right) for the engine, where positions begin at 0.

    Row i stands at i + lk - lq. Rows before position 0 see keys 0 .. position + right: the same as rows at
    position + right that see nothing to the right of them. Rows that see nothing are in no run.
    """
    shift = lk - lq
    if lk == 0:
        return []
    if left < 0 and right < 0:
        return [(0, lq, 0, -1, -1)]
    early = min(lq, max(0, -shift))
    runs = [(early, lq, early + shift, left, right)]
    if right < 0:
        runs.append((0, early, 0, -1, -1))
    else:
        begin = max(0, -shift - right)
        runs.append((begin, early, begin + shift + right, -1, 0))
    return [run for run in runs if run[0] < run[1]]


class _Job:
    """One call: the cache with its keys and values, and what all rows share."""

    def __init__(self, k: Float32, v: Float32, kind: str, scale: float, softcap: float, exact: bool) -> None:
        self.k, self.v, self.scale, self.softcap, self.exact = k, v, scale, softcap, exact
        self.batch, self.length, self.kv_heads, self.d = k.shape
        pages = -(-self.length // _native.PAGE)
        self.table = np.arange(self.batch * pages, dtype=np.int32).reshape(self.batch, pages)
        self.cache = _native.Cache(1, self.kv_heads, self.d, kind)

    def starts(self, rows_each: int) -> Any:
        return np.arange(self.batch + 1, dtype=np.int32) * np.int32(rows_each)

    def run(self, q: Float32, o: Float32, left: int, right: int) -> Float32:
        """Fills o; returns the log-sum-exps [batch, rows, heads]."""
        lq, heads = q.shape[1:3]
        lse = np.full((self.batch, lq, heads), -np.inf, np.float32)
        runs = _ranges(lq, self.length, left, right) if q.size else []
        if not runs or runs[0][:2] != (0, lq):
            o[...] = 0
        if not runs:
            return lse
        with contexts.borrowed() as ctx:
            self.cache.reserve(self.table.size)
            _native.append(
                ctx,
                self.cache,
                0,
                self.starts(self.length),
                np.zeros(self.batch, np.int32),
                self.table,
                rows(self.k, 2),
                rows(self.v, 2),
            )
            for begin, end, first, reach_left, reach_right in runs:
                whole = (begin, end) == (0, lq)
                part = as_rows(o, 2) if whole else np.empty((self.batch * (end - begin), heads * self.d), np.float32)
                sums = np.empty((self.batch * (end - begin), heads), np.float32)
                _native.attend(
                    ctx,
                    self.cache,
                    0,
                    self.starts(end - begin),
                    np.full(self.batch, first, np.int32),
                    self.table,
                    rows(q[:, begin:end], 2),
                    part,
                    heads=heads,
                    kv_heads=self.kv_heads,
                    scale=self.scale,
                    softcap=self.softcap,
                    causal=False,
                    window=(reach_left, reach_right),
                    kv_length=np.full(self.batch, self.length, np.int32),
                    lse=sums,
                    exact=self.exact,
                )
                if part is not None and not whole:
                    o[:, begin:end] = part.reshape(self.batch, end - begin, heads, self.d)
                lse[:, begin:end] = sums.reshape(self.batch, end - begin, heads)
        return lse
