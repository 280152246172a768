"""The search for a block's scale (and minimum): the one with the least weighted squared error that is found.

A block is a column here: x float32[size, blocks], scaled so that no number is over 1, and w the weights of the squared
errors (None: all alike). A candidate scale gives codes by rounding; for codes that are given, the best scale (or scale
and minimum) is that of weighted least squares; new codes for that scale cannot be worse. So each of a grid of
candidates is rounded, fitted and measured, and the best of them goes through two more rounds of rounding and fitting.
(The idea is that of alternating minimisation, Lloyd 1982; llama.cpp's `make_qx_quants` fits in the same sense.)

All operations act on columns alone, and sums are taken in a fixed order, so that a block becomes the same bits
whatever blocks stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
_TINY = np.float32(2.0**-100)
HALF_MAX = np.float32(65504)
# Candidates that do not look at the greatest numbers, which may weigh next to nothing: multiples of the weighted
# spread that become the outermost codes.
_SPREADS = (1.0, 1.4, 1.8, 2.2, 2.6)


def total(x: Floats) -> Floats:
    """Sums over the first axis, whose length is a power of two: halves are added until one row is left."""
    while len(x) > 1:
        half = len(x) // 2
        x = x[:half] + x[half:]
    row: Floats = x[0]
    return row


def over_groups(x: Floats, groups: int) -> Floats:
    """float32[n * groups] to the sums of each `groups` neighbours, float32[n]."""
    return total(np.ascontiguousarray(x.reshape(-1, groups).T))


def inverse(x: Floats) -> Floats:
    """1 / x; 0 where x is 0 or so small that the inverse would not be finite."""
    small = np.abs(x) <= _TINY
    out: Floats = np.where(small, np.float32(0), np.float32(1) / np.where(small, np.float32(1), x))
    return out


def ratio(a: Floats, b: Floats) -> Floats:
    """a / b, 0 where b is 0."""
    zero = b == 0
    out: Floats = np.where(zero, np.float32(0), a / np.where(zero, np.float32(1), b))
    return out


def to_half(d: Floats, exponent: Ints) -> tuple[Floats, Floats]:
    """d * 2^exponent as float16 (never infinite), and d again, as that float16 says it."""
    stored = np.clip(np.ldexp(d, exponent), -HALF_MAX, HALF_MAX).astype(np.float16).astype(np.float32)
    return stored, np.ldexp(stored, -exponent)


class Code:
    """Rounding to whole numbers from low to high."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = np.float32(low), np.float32(high)
        self.coarse = high - low < 32

    def __call__(self, v: Floats) -> Floats:
        """The codes of v, in place."""
        np.rint(v, out=v)
        np.maximum(v, self.low, out=v)
        np.minimum(v, self.high, out=v)
        return v

    def stored(self, q: Floats) -> Bytes:
        """Codes as unsigned numbers, the lowest as 0."""
        out: Bytes = (q - self.low).astype(np.uint8)
        return out


class Book(Code):
    """Rounding to the nearest of some whole numbers within -127 to 127; stored as their index (of twins the first)."""

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(min(values), max(values))
        self.coarse = len(values) < 32
        # All borders are multiples of a half, so every step of a half belongs to one value.
        steps = (np.arange(512) - 256) / 2 + 0.25
        distance = np.abs(steps[:, None] - np.array(values))
        self._nearest = np.array(values, np.float32)[distance.argmin(axis=1)]
        self._index = np.zeros(256, np.uint8)
        for i, value in reversed(list(enumerate(values))):
            self._index[value + 128] = i

    def __call__(self, v: Floats) -> Floats:
        v *= np.float32(2)
        v += np.float32(256)
        np.maximum(v, np.float32(0), out=v)
        np.minimum(v, np.float32(511), out=v)
        self._nearest.take(v.astype(np.intp), out=v, mode="clip")
        return v

    def stored(self, q: Floats) -> Bytes:
        out: Bytes = self._index[(q + np.float32(128)).astype(np.intp)]
        return out


class Columns:
    """Blocks as columns, with room for the work on them."""

    def __init__(self, x: Floats, w: Floats | None) -> None:
        self.x, self.w = x, w
        self.wx = x if w is None else x * w
        self.size, self.n = x.shape
        self._q, self._t, self._s = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        self.sum_w = np.full(self.n, self.size, np.float32) if w is None else total(w)
        self.sum_wx = total(self.wx)

    def sum(self, x: Floats) -> Floats:
        """As `total`, without new memory for the first halves."""
        half = len(x) // 2
        return total(np.add(x[:half], x[half:], out=self._s[:half]))

    def dot(self, a: Floats, b: Floats) -> Floats:
        """Sums of a * b."""
        return self.sum(np.multiply(a, b, out=self._t))

    def scaled(self, by: Floats) -> Floats:
        """x times one number per column; the array is used again by the next call of this or `shifted`."""
        return np.multiply(self.x, by, out=self._q)

    def shifted(self, minimum: Floats, by: Floats) -> Floats:
        """(x - minimum) * by."""
        np.subtract(self.x, minimum, out=self._q)
        return np.multiply(self._q, by, out=self._q)

    def squares(self, q: Floats) -> Floats:
        """Sums of w q q."""
        t = np.multiply(q, q, out=self._t)
        return self.sum(t if self.w is None else np.multiply(t, self.w, out=t))

    def plain(self, q: Floats) -> Floats:
        """Sums of w q."""
        return self.sum(q if self.w is None else np.multiply(q, self.w, out=self._t))

    def error(self, q: Floats, scale: Floats, minimum: Floats | None = None) -> Floats:
        """Sums of w (x - scale q - minimum)^2."""
        t = np.multiply(q, scale, out=self._t)
        np.subtract(self.x, t, out=t)
        if minimum is not None:
            np.subtract(t, minimum, out=t)
        np.multiply(t, t, out=t)
        return self.sum(t if self.w is None else np.multiply(t, self.w, out=t))

    def extremes(self) -> tuple[Floats, Floats]:
        """The least and the greatest of each column."""
        low, high = self.x, self.x
        while len(low) > 1:
            half = len(low) // 2
            low, high = np.minimum(low[:half], low[half:]), np.maximum(high[:half], high[half:])
        return low[0], high[0]


def greatest(c: Columns) -> Floats:
    """Of each column the number that is farthest from 0, with its sign."""
    low, high = c.extremes()
    out: Floats = np.where(-low > high, low, high)
    return out


def best_scale(c: Columns, code: Code, tops: Sequence[float], rounds: int = 2) -> Floats:
    """The scale. tops: codes, maybe between or beyond the real ones, that the greatest number may get.

    For a fitted scale the error is sum w x^2 - (sum w x q)^2 / sum w q^2. That costs nothing more, but is a small
    difference of large numbers, so it serves for few levels only; for many the error is summed itself.
    """
    step = inverse(greatest(c))
    best = np.full(c.n, np.inf, np.float32)
    scale = np.zeros(c.n, np.float32)

    def consider(by: Floats) -> None:
        nonlocal best, scale
        q = code(c.scaled(by))
        along = c.dot(c.wx, q)
        fitted = ratio(along, c.squares(q))
        error = -along * fitted if code.coarse else c.error(q, fitted)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, fitted, scale)

    for top in tops:
        consider(step * np.float32(top))
    if c.w is not None:
        spread = np.sqrt(ratio(c.dot(c.wx, c.x), c.sum_w))
        for share in _SPREADS:
            step = inverse(spread * np.float32(share))
            consider(step * code.high)
            consider(step * code.low)
    for _ in range(rounds):
        consider(inverse(scale))
    return scale


def fit_range(c: Columns, q: Floats, most: Floats | None) -> tuple[Floats, Floats, Floats]:
    """The scale and minimum that fit codes best, and their error less sum w x^2; most: what the minimum may be."""
    s0, t0 = c.sum_w, c.sum_wx
    s1, s2, t1 = c.plain(q), c.squares(q), c.dot(c.wx, q)
    determinant = s0 * s2 - s1 * s1
    flat = determinant <= np.float32(1e-6) * s0 * s2  # all codes alike
    scale = np.where(flat, np.float32(0), ratio(s0 * t1 - s1 * t0, determinant))
    minimum = np.where(flat, ratio(t0, s0), ratio(s2 * t0 - s1 * t1, determinant))
    gain: Floats = np.add(scale * t1, minimum * t0, dtype=np.float32)
    if most is not None:
        over = minimum > most
        along = t1 - most * s1
        held = ratio(along, s2)
        scale, minimum = np.where(over, held, scale), np.where(over, most, minimum)
        gain = np.where(over, held * along - most * (most * s0 - np.float32(2) * t0), gain)
    return scale, minimum, -gain


def best_range(
    c: Columns, code: Code, cuts: Sequence[tuple[float, float]], nonpositive: bool, rounds: int = 2
) -> tuple[Floats, Floats]:
    """(scale, minimum). cuts: shares of the range that candidates leave out below and above (negative: add).

    Errors come from the sums of the fit, as in `best_scale`; so that no large numbers cancel in them, the middle of
    each block's range is taken off first.
    """
    low, high = c.extremes()
    middle = (low + high) * np.float32(0.5)
    most = -middle if nonpositive else None
    c = Columns(c.x - middle, c.w)
    if nonpositive:
        low = np.minimum(low, np.float32(0))
    low, width = low - middle, high - low
    best = np.full(c.n, np.inf, np.float32)
    scale, minimum = np.zeros(c.n, np.float32), np.zeros(c.n, np.float32)

    def consider(start: Floats, by: Floats) -> None:
        nonlocal best, scale, minimum
        fitted, base, error = fit_range(c, code(c.shifted(start, by)), most)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, fitted, scale)
        minimum = np.where(better, base, minimum)

    for below, above in cuts:
        step = inverse(width * np.float32(1 - below - above))
        consider(low + width * np.float32(below), step * code.high)
    if c.w is not None:
        center = ratio(c.sum_wx, c.sum_w)
        spread: Floats = np.sqrt(np.maximum(ratio(c.dot(c.wx, c.x), c.sum_w) - center * center, np.float32(0)))
        for share in _SPREADS:
            consider(center - spread * np.float32(share), inverse(spread * np.float32(2 * share)) * code.high)
    for _ in range(rounds):
        consider(minimum, inverse(scale))
    return scale, minimum + middle
