"""From logits to a token: the same on every machine.

What decides is float32 element by element (correctly rounded everywhere), the C softmax (same bits on every table), a
sequential float64 cumulative sum and raw draws of PCG64, a fixed bit stream. NumPy's exp and sum, which differ between
machines, decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..results import TokenLogprob
from .params import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Softmax = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Choice:
    """A chosen token, with its log-probabilities where they were asked for."""

    token: int
    logprob: TokenLogprob | None = None


class Sampler:
    """The sampling state of one sequence: its random stream and the tokens that penalties count."""

    def __init__(self, sampling: Sampling, softmax: Softmax, prompt: NDArray[np.int32], index: int = 0):
        """prompt: int32[n] ids; index: which of the n samples; softmax: float32[n] -> float32[n]."""
        self.sampling = sampling
        self.softmax = softmax
        self.random = random_stream(sampling.seed, index)
        self.seen = _TokenCounts() if sampling.repetition_penalty != 1.0 else None
        penal = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self.produced = _TokenCounts() if penal else None
        if self.seen is not None:
            for token in np.unique(prompt):
                self.seen.add(int(token))
        self.bias_ids: Ids = np.array(sorted(sampling.logit_bias), np.int64)
        self.bias: Floats = np.array([sampling.logit_bias[int(i)] for i in self.bias_ids], np.float32)
        self.end_ids: Ids = np.array(sorted(sampling.end_ids), np.int64)
        self.count = 0

    def choose(self, raw: Floats, ids: NDArray[np.int32]) -> Choice:
        """The next token. raw: float32[vocabulary] logits, not changed; ids: int32[n], prompt and output so far."""
        sampling = self.sampling
        logits = self.process(raw, ids)
        token = int(np.argmax(logits)) if sampling.temperature == 0.0 else -1
        if token < 0:
            token = draw(*candidates(logits, sampling, self.softmax), next(self.random))
        elif not logits[token] > -math.inf:  # -inf everywhere, or NaN
            raise _nothing_left(logits)
        self.count += 1
        for counts in (self.seen, self.produced):
            if counts is not None:
                counts.add(token)
        wanted = sampling.logprobs
        return Choice(token, None if wanted is None else logprob_of(raw, token, wanted, self.softmax))

    def process(self, raw: Floats, ids: NDArray[np.int32]) -> Floats:
        """Penalties, bias, min_tokens and the user's processors; `raw` itself where nothing is to do."""
        s = self.sampling
        hold_end = self.count < s.min_tokens and self.end_ids.size > 0
        if not (self.seen or self.produced or self.bias_ids.size or hold_end or s.logits_processors):
            return raw
        logits = raw.copy()
        if self.seen is not None:
            at = self.seen.ids
            values = logits[at]
            penalty = np.float32(s.repetition_penalty)
            logits[at] = np.where(values < 0, values * penalty, values / penalty)
        if self.produced is not None:
            at = self.produced.ids
            values = logits[at] - np.float32(s.frequency_penalty) * self.produced.counts
            logits[at] = values - np.float32(s.presence_penalty)
        if self.bias_ids.size:
            logits[self.bias_ids] += self.bias
        if hold_end:
            logits[self.end_ids] = -np.inf
        for processor in s.logits_processors:
            logits = _checked(processor(ids, logits), logits)
        return logits


def random_stream(seed: int | None, index: int = 0) -> Iterator[float]:
    """Uniform doubles in [0, 1): 53 bits of PCG64 each. Sample 0 of a seed is the one that n=1 draws."""
    entropy = None if seed is None else [seed, index] if index else seed
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw
    while True:
        yield (int(raw()) >> 11) * 2.0**-53


def candidates(logits: Floats, s: Sampling, softmax: Softmax) -> tuple[Ids | None, Floats]:
    """The tokens that temperature, top_k, top_p and min_p leave, and their probabilities (not renormalised).

    In descending order of probability, ties by id; ids None: every token, in the order of ids.
    """
    best = logits.max()
    if not best > -math.inf:
        raise _nothing_left(logits)
    if best == math.inf:  # a processor insists: only those tokens, equally
        scaled = np.where(logits == best, np.float32(0), np.float32(-np.inf))
    else:
        scaled = (logits - best) / np.float32(s.temperature)
    if 0 < s.top_k < scaled.size:
        ids = largest(scaled, s.top_k)
        p = softmax(scaled[ids])
    elif s.top_p < 1.0 or s.min_p > 0.0:
        ids, p = _by_mass(scaled, softmax(scaled), s)
    else:
        return None, softmax(scaled)
    if s.top_p < 1.0:
        p = p[: _reached(p, s.top_p) + 1]
    if s.min_p > 0.0:
        p = p[p >= np.float32(s.min_p) * p[0]]  # descending: a prefix
    return ids[: p.size], p


def _by_mass(scaled: Floats, full: Floats, s: Sampling) -> tuple[Ids, Floats]:
    """A set of ids that holds all that top_p and min_p can keep, sorted; small, so that few have to be sorted.

    Every token of at least some probability: first a high one, then lower ones until they reach top_p. Those below
    (1 - top_p) / n have less than 1 - top_p together, so they are never needed.
    """
    low = np.float32(0)
    if s.top_p < 1.0:
        low = np.float32(max(0.0, 1.0 - s.top_p - 1e-5) / full.size)  # 1e-5: far more than rounding
    if s.min_p > 0.0:
        low = max(low, np.float32(s.min_p) * full.max())
    for least in (1e-3, 3e-5, 0.0):
        ids = np.flatnonzero(full >= max(low, np.float32(least)))
        ids = ids[np.argsort(-scaled[ids], kind="stable")]
        p = full[ids]
        if least <= low or (s.top_p < 1.0 and _reached(p, s.top_p) < p.size):
            break
    return ids, p


def _reached(p: Floats, mass: float) -> int:
    """The index at which the running sum of p is at least `mass`; p.size if it never is."""
    return int(p.astype(np.float64).cumsum().searchsorted(mass, side="left"))


def largest(x: Floats, k: int) -> Ids:
    """int64[k]: the ids of the k largest values, descending, ties by id (the lowest ids stay at the border)."""
    n = x.size
    if k >= n:
        return np.argsort(-x, kind="stable")
    if k == 1:
        return np.array([np.argmax(x)])
    border = np.partition(x, n - k)[n - k]
    above = np.flatnonzero(x > border)
    ids = np.concatenate([above, np.flatnonzero(x == border)[: k - above.size]])
    return ids[np.argsort(-x[ids], kind="stable")]


def draw(ids: Ids | None, p: Floats, u: float) -> int:
    """The token at which the running sum of p passes u of the whole; never one of probability 0."""
    sums = p.astype(np.float64).cumsum()
    total = sums[-1]
    at = int(min(sums.searchsorted(u * total, side="right"), sums.searchsorted(total, side="left")))
    return at if ids is None else int(ids[at])


def logprob_of(raw: Floats, token: int, top: int, softmax: Softmax) -> TokenLogprob:
    """Log-softmax of float32[vocabulary] logits at `token`, and at the `top` largest."""
    base = log_sum_exp(raw, softmax)
    ids = largest(raw, min(top, raw.size)) if top else ()
    return TokenLogprob(token, float(raw[token]) - base, {int(i): float(raw[i]) - base for i in ids})


def log_sum_exp(raw: Floats, softmax: Softmax) -> float:
    """log(sum(exp(raw))): the largest logit minus the log of its probability."""
    best = int(np.argmax(raw))
    return float(raw[best]) - math.log(float(softmax(raw)[best]))


def _checked(returned: Floats | None, logits: Floats) -> Floats:
    if returned is None or returned is logits:
        return logits
    array = np.asarray(returned)
    if array.shape != logits.shape:
        raise ValueError(f"a logits processor returned shape {array.shape}, not {logits.shape}")
    return np.ascontiguousarray(array, np.float32)


def _nothing_left(logits: Floats) -> ValueError:
    if np.isnan(logits).any():
        return ValueError("the logits hold NaN: the model's weights or a logits processor made them")
    return ValueError("no token is possible: logit_bias, min_tokens or a logits processor excluded every one")


class _TokenCounts:
    """Distinct tokens and how often each came; ids int64[n] and counts float32[n] grow by doubling."""

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        self._ids = np.zeros(16, np.int64)
        self._counts = np.zeros(16, np.float32)

    def add(self, token: int) -> None:
        at = self._at.setdefault(token, len(self._at))
        if at == self._ids.size:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[at] = token
        self._counts[at] += 1

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._at)]

    @property
    def counts(self) -> Floats:
        return self._counts[: len(self._at)]
