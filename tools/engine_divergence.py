"""The same quantised GGUF file in lanewise and in llama.cpp: how far each is from the float32 model, token by token.

`python tools/measure_quantisation.py engines` makes its table with this; tests/model/test_divergence_peer.py asks for
its bounds. llama.cpp runs as llama-cpp-python gives it, with its own activations, cache and kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lanewise

Array = np.ndarray[Any, Any]


def log_softmax(logits: Array) -> Array:
    """float64 along the last axis."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def ours(path: Path, chunks: list[Array], **given: Any) -> list[Array]:
    """Logits of each chunk, lanewise."""
    with lanewise.load(path, numerics="exact", **given) as llm:
        return [llm.logits(ids) for ids in chunks]


def theirs(path: Path, chunks: list[Array], **given: Any) -> list[Array]:
    """Logits of each chunk, llama.cpp; `given` goes to llama_cpp.Llama. ImportError where it is not installed."""
    import llama_cpp

    longest = max(len(ids) for ids in chunks)
    how = {"n_ctx": longest, "n_batch": longest, "n_ubatch": longest, "n_threads": 1, "n_threads_batch": 1}
    llama = llama_cpp.Llama(str(path), logits_all=True, verbose=False, **how, **given)
    found = []
    try:
        for ids in chunks:
            llama.reset()
            llama.eval([int(i) for i in ids])
            found.append(np.array(llama.scores[: len(ids)], np.float32))
    finally:
        llama.close()
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """Against the reference, one entry a token: KL divergence, and whether the likeliest token is the same."""

    kl: Array
    same: Array
    perplexity: float

    def __str__(self) -> str:
        return f"{self.perplexity:.4f} | {self.kl.mean() * 1e3:.3f} | {self.same.mean():.2%}"

    @classmethod
    def of(cls, chunks: Iterable[Array], reference: Iterable[Array], logits: Iterable[Array]) -> Figures:
        kl, same, nll = [], [], []
        for ids, wanted, got in zip(chunks, reference, logits, strict=True):
            log_p, log_q = log_softmax(wanted), log_softmax(got)
            kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
            same.append(log_p.argmax(axis=1) == log_q.argmax(axis=1))
            nll.append(-log_q[np.arange(len(ids) - 1), ids[1:]])
        return cls(np.concatenate(kl), np.concatenate(same), float(np.exp(np.concatenate(nll).mean())))


def excess(mine: Figures, peer: Figures, chunk: int) -> tuple[float, float]:
    """(mean KL over the peer's mean KL, less 1; the standard error of that).

    Both read the same tokens, and tokens of one chunk depend on each other: the error is that of the mean over chunks
    of the difference to the ratio.
    """
    ratio = float(mine.kl.mean() / peer.kl.mean())
    rest = (mine.kl - ratio * peer.kl).reshape(-1, chunk).mean(axis=1)
    return ratio - 1, float(rest.std(ddof=1) / len(rest) ** 0.5 / peer.kl.mean())
