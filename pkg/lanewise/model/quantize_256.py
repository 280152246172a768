"""Float32 to the types with blocks of 256: whole-number scales of 8 or 16 parts under one or two float16 scales.

Each part is a column; the parts of a block stand side by side. First every part gets the scale (and minimum) that is
best for it alone, then the float16 scale is chosen and the parts' whole numbers rounded to it. Then, in turn: each
part tries the neighbours of its whole numbers, and the float16 scales are fitted to what all parts have; the best
state of a block is what is kept. Layouts as in gguf_types, which reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .quantize_32 import Quantizer, cuts_of, grid, half_bytes, iq4_book, join, rows_of
from .quantize_search import (
    HALF_MAX,
    Bytes,
    Code,
    Columns,
    Floats,
    Ints,
    best_range,
    best_scale,
    greatest,
    inverse,
    over_groups,
    ratio,
    to_half,
)  # fmt: skip

_ROUNDS = 2
_F = np.float32
_LONGEST = _F(1.3)  # a block that would have to grow by more is not what `lengthened` is for
_FINE = _F(2.0**-18)  # float16 rounds scales from here on by at most 1/128


@dataclass(slots=True)
class _State:
    """Of each block: its error, float16 scales as stored and as seen by the scaled numbers; of each part: integers."""

    error: Floats
    stored: list[Floats]
    scales: list[Floats]
    parts: list[Floats]

    def keep(self, other: _State, groups: int) -> None:
        """Take over the blocks that are better in `other`."""
        better = other.error < self.error
        wide = np.repeat(better, groups)
        self.error = np.where(better, other.error, self.error)
        for mine, theirs, mask in (
            (self.stored, other.stored, better), (self.scales, other.scales, better), (self.parts, other.parts, wide),
        ):  # fmt: skip
            mine[:] = [np.where(mask, b, a) for a, b in zip(mine, theirs, strict=True)]


class _Symmetric:
    """Values d * part * code; parts are whole numbers from least to most."""

    def __init__(self, c: Columns, exponent: Ints, code: Code, parts: Code, groups: int) -> None:
        self.c, self.exponent, self.code, self.parts, self.groups = c, exponent, code, parts, groups

    def wide(self, of_block: Floats) -> Floats:
        return np.repeat(of_block, self.groups)

    def codes(self, scale: Floats) -> Floats:
        return self.code(self.c.scaled(inverse(scale)))

    def state(self, d: Floats, wanted: Floats) -> _State:
        """The state with block scale d (as float16 says it) and the parts rounded to give the scales wanted."""
        stored, seen = to_half(d, self.exponent)
        part = self.parts(wanted * inverse(self.wide(seen)))
        return self.measured(stored, seen, part)

    def measured(self, stored: Floats, seen: Floats, part: Floats) -> _State:
        scale = self.wide(seen) * part
        error = self.c.error(self.codes(scale), scale)
        return _State(over_groups(error, self.groups), [stored], [seen], [part])

    def neighbours(self, state: _State) -> _State:
        """Each part as the best of itself and its two neighbours."""
        seen, part = self.wide(state.scales[0]), state.parts[0]
        best, chosen = np.full(len(part), np.inf, _F), part
        for step in (0, -1, 1):
            new = np.clip(part + _F(step), self.parts.low, self.parts.high)
            scale = seen * new
            error = self.c.error(self.codes(scale), scale)
            better = error < best
            best, chosen = np.where(better, error, best), np.where(better, new, chosen)
        return _State(over_groups(best, self.groups), state.stored, state.scales, [chosen])

    def fitted(self, state: _State) -> _State:
        """The block scale of least squares for the codes and parts that there are."""
        part = state.parts[0]
        q = self.codes(self.wide(state.scales[0]) * part)
        up, down = self.c.dot(self.c.wx, q) * part, self.c.squares(q) * part * part
        stored, seen = to_half(ratio(over_groups(up, self.groups), over_groups(down, self.groups)), self.exponent)
        return self.measured(stored, seen, part)

    def solve(self, tops: Sequence[float]) -> tuple[Floats, Floats, Floats]:
        """(block scale as stored, parts, codes); the greatest part becomes the outermost of its whole numbers."""
        plain = greatest(self.c) * _F(1 / tops[0])
        wanted = best_scale(self.c, self.code, tops)
        states = []
        for scales in (plain, wanted):
            parted = Columns(np.ascontiguousarray(scales.reshape(-1, self.groups).T), None)
            states.append(self.state(greatest(parted) * _F(1 / self.parts.low), scales))
        best = states[1]
        best.keep(states[0], self.groups)
        state = best
        for _ in range(_ROUNDS):
            state = self.fitted(self.neighbours(state))
            best.keep(state, self.groups)
        best.keep(self.neighbours(best), self.groups)
        return best.stored[0], best.parts[0], self.codes(self.wide(best.scales[0]) * best.parts[0])


class _Ranged:
    """Values d * part * code - dmin * least; both whole numbers from 0 to `most`."""

    def __init__(self, c: Columns, exponent: Ints, code: Code, most: int, groups: int) -> None:
        self.c, self.exponent, self.code, self.groups = c, exponent, code, groups
        self.parts = Code(0, most)

    def wide(self, of_block: Floats) -> Floats:
        return np.repeat(of_block, self.groups)

    def codes(self, scale: Floats, minimum: Floats) -> Floats:
        return self.code(self.c.shifted(minimum, inverse(scale)))

    def errors(self, scale: Floats, minimum: Floats) -> Floats:
        return self.c.error(self.codes(scale, minimum), scale, minimum)

    def measured(self, pairs: list[tuple[Floats, Floats]], parts: list[Floats]) -> _State:
        seen = [s for _, s in pairs]
        error = self.errors(self.wide(seen[0]) * parts[0], -(self.wide(seen[1]) * parts[1]))
        return _State(over_groups(error, self.groups), [s for s, _ in pairs], seen, parts)

    def state(self, scale: Floats, minimum: Floats, share: float) -> _State:
        """Both block scales so that the greatest part becomes `most` (or, with a smaller share, is cut off there)."""
        pairs, parts = [], []
        for wanted in (scale, -minimum):
            high = Columns(np.ascontiguousarray(wanted.reshape(-1, self.groups).T), None).extremes()[1]
            pairs.append(to_half(high * _F(share / float(self.parts.high)), self.exponent))
            parts.append(self.parts(wanted * inverse(self.wide(pairs[-1][1]))))
        return self.measured(pairs, parts)

    def neighbours(self, state: _State) -> _State:
        """Each part as the best of itself and its eight neighbours in scale and minimum."""
        seen = [self.wide(s) for s in state.scales]
        best = np.full(self.c.n, np.inf, _F)
        chosen = state.parts
        for step in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)):
            new = [np.clip(p + _F(s), _F(0), self.parts.high) for p, s in zip(state.parts, step, strict=True)]
            error = self.errors(seen[0] * new[0], -(seen[1] * new[1]))
            better = error < best
            best = np.where(better, error, best)
            chosen = [np.where(better, a, b) for a, b in zip(new, chosen, strict=True)]
        return _State(over_groups(best, self.groups), state.stored, state.scales, chosen)

    def fitted(self, state: _State) -> _State:
        """Both block scales by least squares for the codes and parts that there are."""
        part, least = state.parts
        q = self.codes(self.wide(state.scales[0]) * part, -(self.wide(state.scales[1]) * least))
        s1, s2, t1 = self.c.plain(q), self.c.squares(q), self.c.dot(self.c.wx, q)
        terms = (part * part * s2, part * least * s1, least * least * self.c.sum_w, part * t1, least * self.c.sum_wx)
        a, b, m, p, r = (over_groups(term, self.groups) for term in terms)
        determinant = a * m - b * b
        flat = determinant <= _F(1e-6) * a * m
        d = np.where(flat, ratio(p, a), ratio(p * m - b * r, determinant))
        least_d = np.where(flat, _F(0), ratio(b * p - a * r, determinant))
        negative = least_d < 0
        d, least_d = np.where(negative, ratio(p, a), d), np.where(negative, _F(0), least_d)
        return self.measured([to_half(d, self.exponent), to_half(least_d, self.exponent)], state.parts)

    def solve(self, cuts: Sequence[tuple[float, float]]) -> tuple[list[Floats], list[Floats], Floats]:
        """(both block scales as stored, scales and minima of the parts, codes)."""
        low, high = self.c.extremes()
        low = np.minimum(low, _F(0))
        scale, minimum = best_range(self.c, self.code, cuts, nonpositive=True)
        best = self.state(scale, minimum, 1.0)
        best.keep(self.state((high - low) * _F(1 / float(self.code.high)), low, 1.0), self.groups)
        if self.parts.high < 32:
            best.keep(self.state(scale, minimum, 0.9), self.groups)
        state = best
        for _ in range(_ROUNDS):
            state = self.fitted(self.neighbours(state))
            best.keep(state, self.groups)
        best.keep(self.neighbours(best), self.groups)
        seen = [self.wide(s) for s in best.scales]
        return best.stored, best.parts, self.codes(seen[0] * best.parts[0], -(seen[1] * best.parts[1]))


# ---- the types ----


def lengthened(c: Columns, exponent: Ints, stored: Sequence[Floats], terms: Sequence[Floats]) -> list[Floats]:
    """Block scales times <x, x> / <x, y>, so that what a block decodes to, y, is not shorter along x than x is.

    terms: for each scale in `stored`, what it is multiplied with, float32[part or 1, parts]; y is the sum. A relative
    squared error e becomes at most e / (1 - e). Left as they are: blocks that would shrink or grow by more than
    `_LONGEST`, and scales that float16 holds too coarsely or cannot hold.
    """
    groups = c.n // len(exponent)
    along = np.zeros(c.n, _F)
    for d, term in zip(stored, terms, strict=True):
        along += c.dot(c.wx, term) * np.repeat(np.ldexp(d, -exponent), groups)
    factor = ratio(over_groups(c.dot(c.wx, c.x), groups), over_groups(along, groups))
    fits = (factor > 1) & (factor <= _LONGEST) & (np.abs(stored[0]) >= _FINE)
    longer = [d * factor for d in stored]
    for d in longer:
        fits &= np.abs(d) <= HALF_MAX
    longer = [np.where(fits, d, _F(0)).astype(np.float16).astype(_F) for d in longer]
    return [np.where(fits, new, old) for new, old in zip(longer, stored, strict=True)]


def _blocks(code: Code, q: Floats, groups: int) -> Bytes:
    """Codes float32[part, parts] as uint8[blocks, 256]."""
    return rows_of(code, q).reshape(-1, groups * len(q))


def _whole(parts: Floats, groups: int, plus: int = 0) -> Bytes:
    return (parts + _F(plus)).astype(np.uint8).reshape(-1, groups)


_TOPS_3 = [-4.0, *grid(-4.6, -2.5, 10), *grid(2.2, 3.6, 8)]
_TOPS_6 = [-32.0, *grid(-32.5, -28.5, 6), *grid(28.0, 31.6, 6)]
_TOPS_IQ4 = [-127.0, *grid(-136, -90, 10), *grid(82, 119, 8)]
_CUTS_2 = cuts_of(-0.1, 0.0, 0.1, 0.2)
_CUTS_4 = cuts_of(-0.02, 0.01, 0.04, 0.08)
_CUTS_5 = cuts_of(-0.01, 0.01, 0.025, 0.045)


def _q2_k(c: Columns, exponent: Ints) -> Bytes:
    code = Code(0, 3)
    (d, least), (part, minimum), q = _Ranged(c, exponent, code, 15, 16).solve(_CUTS_2)
    d, least = lengthened(c, exponent, [d, least], [q * part, -minimum])
    scales = _whole(part, 16) | _whole(minimum, 16) << np.uint8(4)
    codes = join(_blocks(code, q, 16), 32, (0, 2, 4, 6))
    return np.concatenate([scales, codes, half_bytes(d), half_bytes(least)], axis=1)


def _q3_k(c: Columns, exponent: Ints) -> Bytes:
    code = Code(-4, 3)
    d, part, q = _Symmetric(c, exponent, code, Code(-32, 31), 16).solve(_TOPS_3)
    (d,) = lengthened(c, exponent, [d], [q * part])
    codes, scales = _blocks(code, q, 16), _whole(part, 16, 32)
    high = join(codes >> np.uint8(2), 32, range(8))
    low = join(codes & np.uint8(3), 32, (0, 2, 4, 6))
    packed = [join(scales & np.uint8(15), 8, (0, 4)), join(scales >> np.uint8(4), 4, (0, 2, 4, 6))]
    return np.concatenate([high, low, *packed, half_bytes(d)], axis=1)


def _twelve_bytes(part: Bytes, minimum: Bytes) -> Bytes:
    """Eight scales and eight minima of 6 bits: the first four of each whole, above them the high bits of the rest."""
    two, four = np.uint8(4), np.uint8(15)
    first = part[:, :4] | part[:, 4:] >> two << np.uint8(6)
    second = minimum[:, :4] | minimum[:, 4:] >> two << np.uint8(6)
    return np.concatenate([first, second, part[:, 4:] & four | (minimum[:, 4:] & four) << two], axis=1)


def _with_minimum(c: Columns, exponent: Ints, code: Code, cuts: Sequence[tuple[float, float]]) -> tuple[Bytes, Bytes]:
    """The first 16 bytes of Q4_K and Q5_K, and the codes."""
    (d, least), (part, minimum), q = _Ranged(c, exponent, code, 63, 8).solve(cuts)
    head = [half_bytes(d), half_bytes(least), _twelve_bytes(_whole(part, 8), _whole(minimum, 8))]
    return np.concatenate(head, axis=1), _blocks(code, q, 8)


def _q4_k(c: Columns, exponent: Ints) -> Bytes:
    head, codes = _with_minimum(c, exponent, Code(0, 15), _CUTS_4)
    return np.concatenate([head, join(codes, 32, (0, 4))], axis=1)


def _q5_k(c: Columns, exponent: Ints) -> Bytes:
    head, codes = _with_minimum(c, exponent, Code(0, 31), _CUTS_5)
    high = join(codes >> np.uint8(4), 32, range(8))
    return np.concatenate([head, high, join(codes & np.uint8(15), 32, (0, 4))], axis=1)


def _q6_k(c: Columns, exponent: Ints) -> Bytes:
    code = Code(-32, 31)
    d, part, q = _Symmetric(c, exponent, code, Code(-128, 127), 16).solve(_TOPS_6)
    codes = _blocks(code, q, 16)
    low, high = join(codes & np.uint8(15), 64, (0, 4)), join(codes >> np.uint8(4), 32, (0, 2, 4, 6))
    scales = part.astype(np.int8).view(np.uint8).reshape(-1, 16)
    return np.concatenate([low, high, scales, half_bytes(d)], axis=1)


def _iq4_xs(c: Columns, exponent: Ints) -> Bytes:
    d, part, q = _Symmetric(c, exponent, iq4_book, Code(-32, 31), 8).solve(_TOPS_IQ4)
    scales = _whole(part, 8, 32)
    shifts = np.arange(0, 16, 2, dtype=np.uint16)
    high = np.bitwise_or.reduce((scales >> np.uint8(4)).astype(np.uint16) << shifts, axis=1).astype("<u2")
    low = join(scales & np.uint8(15), 1, (0, 4))
    codes = join(_blocks(iq4_book, q, 8), 16, (0, 4))
    return np.concatenate([half_bytes(d), high.view(np.uint8).reshape(-1, 2), low, codes], axis=1)


# name -> (numbers in a part, how)
QUANTIZERS: dict[str, tuple[int, Quantizer]] = {
    "Q2_K": (16, _q2_k), "Q3_K": (16, _q3_k), "Q4_K": (32, _q4_k), "Q5_K": (32, _q5_k), "Q6_K": (16, _q6_k),
    "IQ4_XS": (32, _iq4_xs),
}  # fmt: skip
