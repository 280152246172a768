"""Float32 to the types with blocks of 32: each block has its own float16 scale, some a float16 minimum.

Layouts as in gguf_types, which reads them. Per type a grid of candidates for the search; whatever it finds is compared
with plain rounding (the greatest number becomes the outermost code), so that the error is never over that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .gguf_types import E2M1, IQ4
from .quantize_search import (
    Book,
    Bytes,
    Code,
    Columns,
    Floats,
    Ints,
    best_range,
    best_scale,
    greatest,
    inverse,
    to_half,
)  # fmt: skip

Quantizer = Callable[[Columns, Ints], Bytes]


def grid(start: float, stop: float, count: int) -> list[float]:
    return [float(v) for v in np.linspace(start, stop, count)]


def cuts_of(*shares: float) -> list[tuple[float, float]]:
    """The whole range, then every pair of these shares of it, cut off below and above."""
    return [(0.0, 0.0), *((below, above) for below in shares for above in shares)]


# The codes that the greatest number of a block may get: both signs where the codes are not symmetric.
_TOPS_4 = [-8.0, *grid(-8.7, -5.6, 12), *grid(5.3, 7.6, 9)]
_TOPS_5 = [-16.0, *grid(-16.6, -12.5, 10), *grid(12.0, 15.6, 8)]
_TOPS_8 = [127.0, *grid(124.6, 127.4, 6), *grid(-127.4, -124.6, 6)]  # without -128: no reference encoder writes it
_TOPS_BOOK = [-127.0, *grid(-136, -90, 11), *grid(82, 119, 9)]
_CUTS_4 = cuts_of(-0.03, -0.01, 0.01, 0.03, 0.05, 0.08)
_CUTS_5 = cuts_of(-0.01, 0.0, 0.01, 0.02, 0.03, 0.045)
_MOST_E8M0 = 252  # 12 * 2^(252 - 128) is still finite
iq4_book = Book(IQ4)
_e2m1_book = Book(E2M1)


def join(q: Bytes, run: int, shifts: Sequence[int]) -> Bytes:
    """The inverse of gguf_types' fields: bytes that hold, at shifts[0], the first `run` of the codes, and so on."""
    parts = q.reshape(len(q), -1, len(shifts), run)
    out = parts[:, :, 0] << np.uint8(shifts[0])
    for i, shift in enumerate(shifts[1:], 1):
        out |= parts[:, :, i] << np.uint8(shift)
    return out.reshape(len(q), -1)


def nibbles(q: Bytes) -> Bytes:
    return join(q & np.uint8(15), 16, (0, 4))


def high_bits(q: Bytes) -> Bytes:
    return np.packbits(q >> np.uint8(4) & np.uint8(1), axis=1, bitorder="little")


def half_bytes(d: Floats) -> Bytes:
    """float32[n] that are float16 as uint8[n, 2]."""
    return d.astype("<f2").view(np.uint8).reshape(-1, 2)


def rows_of(code: Code, q: Floats) -> Bytes:
    """Codes float32[32, n] as stored numbers uint8[n, 32]."""
    return np.ascontiguousarray(code.stored(q).T)


def _symmetric(c: Columns, exponent: Ints, code: Code, tops: Sequence[float]) -> tuple[Floats, Floats]:
    """(scale as float16 says it, codes float32[32, n]); tops[0] is that of plain rounding."""
    found = best_scale(c, code, tops)
    stored, scale = to_half(found, exponent)
    stored_plain, plain = to_half(greatest(c) * np.float32(1 / tops[0]), exponent)
    error = c.error(code(c.scaled(inverse(scale))), scale)
    worse = error > c.error(code(c.scaled(inverse(plain))), plain)
    scale, stored = np.where(worse, plain, scale), np.where(worse, stored_plain, stored)
    return stored, code(c.scaled(inverse(scale)))


def _with_minimum(c: Columns, exponent: Ints, code: Code, cuts: Sequence[tuple[float, float]]) -> list[Floats]:
    """Scale and minimum, both as float16 says them, and codes."""
    found = best_range(c, code, cuts, nonpositive=False)
    low, high = c.extremes()
    plain = ((high - low) * np.float32(1 / code.high), low)
    kept: list[Floats] = []
    for pair in (found, plain):
        (stored, scale), (stored_minimum, minimum) = (to_half(v, exponent) for v in pair)
        error = c.error(code(c.shifted(minimum, inverse(scale))), scale, minimum)
        new = [error, stored, stored_minimum, scale, minimum]
        better = new[0] < kept[0] if kept else None
        kept = new if better is None else [np.where(better, a, b) for a, b in zip(new, kept, strict=True)]
    _, stored, stored_minimum, scale, minimum = kept
    return [stored, stored_minimum, code(c.shifted(minimum, inverse(scale)))]


def _q4_0(c: Columns, exponent: Ints) -> Bytes:
    code = Code(-8, 7)
    scale, q = _symmetric(c, exponent, code, _TOPS_4)
    return np.concatenate([half_bytes(scale), nibbles(rows_of(code, q))], axis=1)


def _q5_0(c: Columns, exponent: Ints) -> Bytes:
    code = Code(-16, 15)
    scale, q = _symmetric(c, exponent, code, _TOPS_5)
    stored = rows_of(code, q)
    return np.concatenate([half_bytes(scale), high_bits(stored), nibbles(stored)], axis=1)


def _q8_0(c: Columns, exponent: Ints) -> Bytes:
    scale, q = _symmetric(c, exponent, Code(-127, 127), _TOPS_8)
    return np.concatenate([half_bytes(scale), np.ascontiguousarray(q.astype(np.int8).T).view(np.uint8)], axis=1)


def _iq4_nl(c: Columns, exponent: Ints) -> Bytes:
    scale, q = _symmetric(c, exponent, iq4_book, _TOPS_BOOK)
    return np.concatenate([half_bytes(scale), nibbles(rows_of(iq4_book, q))], axis=1)


def _q4_1(c: Columns, exponent: Ints) -> Bytes:
    code = Code(0, 15)
    scale, minimum, q = _with_minimum(c, exponent, code, _CUTS_4)
    return np.concatenate([half_bytes(scale), half_bytes(minimum), nibbles(rows_of(code, q))], axis=1)


def _q5_1(c: Columns, exponent: Ints) -> Bytes:
    code = Code(0, 31)
    scale, minimum, q = _with_minimum(c, exponent, code, _CUTS_5)
    stored = rows_of(code, q)
    return np.concatenate([half_bytes(scale), half_bytes(minimum), high_bits(stored), nibbles(stored)], axis=1)


def _mxfp4(c: Columns, exponent: Ints) -> Bytes:
    """The scale is 2^(e - 128) over doubled codes, a power of two: all that can be best are tried.

    x lies in [1/2, 1) after scaling by 2^-exponent, so the plain choice puts it between 4 and 8 (doubled: 8 to 16).
    """
    best = np.full(c.n, np.inf, np.float32)
    chosen = np.zeros(c.n, np.int32)
    for power in (-4, -3, -5):  # x / 2^power: 8 to 16, doubled codes; a greater scale; a smaller one
        e = np.clip(exponent + np.int32(power + 128), 0, _MOST_E8M0)
        scale = np.ldexp(np.float32(1), e - 128 - exponent).astype(np.float32)
        error = c.error(_e2m1_book(c.scaled(inverse(scale))), scale)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, e, chosen)
    scale = np.ldexp(np.float32(1), chosen - 128 - exponent).astype(np.float32)
    q = rows_of(_e2m1_book, _e2m1_book(c.scaled(inverse(scale))))
    return np.concatenate([chosen.astype(np.uint8)[:, None], nibbles(q)], axis=1)


QUANTIZERS: dict[str, Quantizer] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "IQ4_NL": _iq4_nl, "MXFP4": _mxfp4,
}  # fmt: skip
