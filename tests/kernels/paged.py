"""Attention through the paged cache itself, for tests that need to say what is appended when, and on which pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from lanewise import _native
from lanewise.kernels.contexts import borrowed


class Paged:
    """Sequences of up to `length` keys on shuffled pages; every page begins full of `fill`."""

    def __init__(
        self, batch: int, length: int, kv_heads: int, d: int, kind: str = "float32", fill: float = np.nan, seed: int = 0
    ) -> None:
        pages = max(1, -(-length // _native.PAGE))
        self.kv_heads, self.d = kv_heads, d
        self.table = np.random.default_rng(seed).permutation(batch * pages).astype(np.int32).reshape(batch, pages)
        self.cache = _native.Cache(1, kv_heads, d, kind)
        self.cache.reserve(batch * pages)
        room = pages * _native.PAGE
        garbage = np.full((batch, room, kv_heads, d), fill, np.float32)
        self.append(garbage, garbage, [0] * batch)

    def append(self, k: np.ndarray, v: np.ndarray, first: Any) -> None:
        """k, v [batch, rows, kv_heads, d] at positions from first[i]."""
        batch, count = k.shape[:2]
        width = self.kv_heads * self.d
        with borrowed() as ctx:
            _native.append(
                ctx,
                self.cache,
                0,
                np.arange(batch + 1, dtype=np.int32) * np.int32(count),
                np.asarray(first, np.int32),
                self.table[:batch],
                np.ascontiguousarray(k).reshape(batch * count, width),
                np.ascontiguousarray(v).reshape(batch * count, width),
            )

    def attend(
        self,
        pieces: list[np.ndarray],
        first: Any,
        which: Any = None,
        *,
        kv_length: Any = None,
        window: tuple[int, int] = (-1, -1),
        causal: bool = True,
        softcap: float = 0.0,
        exact: bool = True,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Queries pieces[i] [rows, heads, d] of sequence which[i] from position first[i], all in one call."""
        heads = pieces[0].shape[1]
        starts = np.cumsum([0, *(len(piece) for piece in pieces)]).astype(np.int32)
        q = np.concatenate(pieces).reshape(starts[-1], heads * self.d)
        out, lse = np.full_like(q, np.nan), np.full((len(q), heads), np.nan, np.float32)
        table = np.ascontiguousarray(self.table[list(range(len(pieces)) if which is None else which)])
        with borrowed() as ctx:
            _native.attend(
                ctx,
                self.cache,
                0,
                starts,
                np.asarray(first, np.int32),
                table,
                q,
                out,
                heads=heads,
                kv_heads=self.kv_heads,
                scale=1 / np.sqrt(self.d),
                softcap=softcap,
                causal=causal,
                window=window,
                kv_length=None if kv_length is None else np.asarray(kv_length, np.int32),
                lse=lse,
                exact=exact,
            )
        cut = starts[1:-1]
        return np.split(out.reshape(-1, heads, self.d), cut), np.split(lse, cut)
