"""Rotary embedding: cosines and sines at every position, both pairings, what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import strategies as s
from guard import SIDES, guard, guarded
from lanewise import kernels as k

FAR = 1_048_575  # the last position of the contract
SIZES = [(1, 1, 2, 1), (3, 2, 16, 8), (2, 3, 34, 17), (5, 1, 64, 32), (4, 2, 40, 15), (2, 1, 128, 64)]
FREQUENCIES = (np.float32(1) / np.float32(10000.0) ** (np.arange(0, 64, 2, dtype=np.float32) / 64)).astype(np.float32)


def check_angles(table: str, positions: np.ndarray) -> None:
    """Pairs (1, 0) become (cos, sin): within 1 ulp of float64 at every position."""
    pairs = len(FREQUENCIES)
    x = np.zeros((len(positions), 1, 2 * pairs), np.float32)
    x[..., :pairs] = 1
    with k.isa(table):
        got = k.rope(x, positions, inv_freq=FREQUENCIES)
    angle = positions.astype(np.float64)[:, None] * FREQUENCIES.astype(np.float64)
    for value, ref in ((got[:, 0, :pairs], np.cos(angle)), (got[:, 0, pairs:], np.sin(angle))):
        worst = oracle.in_ulps(value, ref).max()
        assert worst <= 1, f"{worst:.2f} ulp"


def check_rope(
    table: str,
    tokens: int,
    heads: int,
    d: int,
    pairs: int,
    pairing: Any = "half",
    seed: int = 0,
    factor: float = 1.0,
    side: str = "end",
) -> None:
    rng = np.random.default_rng(seed)
    positions = rng.integers(0, FAR + 1, tokens)
    inv_freq = guard(rng.random(pairs, np.float32), side)
    x = guard(s.normal(seed, (tokens, heads, d)), side)
    factor = float(np.float32(factor))
    with k.isa(table):
        got = k.rope(
            x, positions, inv_freq=inv_freq, pairing=pairing, factor=factor, out=guarded((tokens, heads, d), side=side)
        )
        there = guard(x, side)
        oracle.assert_same_bits(
            k.rope(there, positions, inv_freq=inv_freq, pairing=pairing, factor=factor, out=there), got
        )
    ref, size = oracle.rope(x, positions, inv_freq, pairing, factor)
    oracle.assert_within(got, ref, 5 * oracle.U * size + 2.0**-145)
    oracle.assert_same_bits(got[..., 2 * pairs :], x[..., 2 * pairs :], "beyond the rotary dimension")


def check_pairs(table: str, heads: int, d: int, pairing: Any) -> None:
    """A quarter turn moves each value to its partner: position 1 at pi/2 up to the sine of float32's pi/2."""
    pairs = d // 2
    x = s.whole(3, (2, heads, d))
    quarter = np.full(pairs, np.pi / 2, np.float32)
    with k.isa(table):
        got = k.rope(x, [0, 1], inv_freq=quarter, pairing=pairing)
    oracle.assert_same_bits(got[0], x[0])
    first, second = (slice(0, pairs), slice(pairs, d)) if pairing == "half" else (slice(0, d, 2), slice(1, d, 2))
    wanted = np.empty_like(x[1])
    wanted[:, first], wanted[:, second] = -x[1][:, second], x[1][:, first]
    np.testing.assert_allclose(got[1], wanted, rtol=0, atol=1e-6)


def test_angles_at_every_position(table: str) -> None:
    """A sample of all positions, with both ends; every position is the deep test."""
    step = 4999 if table == "scalar" else 499
    check_angles(table, np.concatenate([np.arange(0, FAR, step), np.arange(300), np.arange(FAR - 300, FAR + 1)]))


@pytest.mark.deep
def test_angles_at_every_position_deep(table: str) -> None:
    for first in range(0, FAR + 1, 2**16):
        check_angles(table, np.arange(first, first + 2**16))


@given(
    tokens=st.integers(0, 5),
    heads=st.integers(1, 3),
    pairs=s.edges(8, 16, 24, 32, most=40),
    rest=st.sampled_from([0, 1, 6]),
    pairing=st.sampled_from(["half", "interleaved"]),
    seed=s.seeds(),
    factor=st.sampled_from([1.0, 0.7]),
    side=st.sampled_from(["end", "start"]),
)
def test_rope(
    table: str, tokens: int, heads: int, pairs: int, rest: int, pairing: str, seed: int, factor: float, side: str
) -> None:
    d = 2 * pairs + rest
    check_rope(table, tokens, heads, max(d, 1), pairs, pairing, seed, factor, side)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_sizes(table: str, pairing: str, side: str) -> None:
    for tokens, heads, d, pairs in SIZES:
        check_rope(table, tokens, heads, d, pairs, pairing, side=side)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("d", [2, 16, 18, 32, 64, 66])
def test_pairs(table: str, d: int, pairing: str) -> None:
    check_pairs(table, 2, d, pairing)


def test_default_frequencies() -> None:
    x, positions = s.normal(1, (7, 2, 32)), np.arange(7) * 100
    inv_freq = 1 / 10000.0 ** (np.arange(0, 32, 2) / 32)
    ref, size = oracle.rope(x, positions, inv_freq.astype(np.float32))
    oracle.assert_within(k.rope(x, positions), ref, 600 * 2**-23 * size + 1e-30)
    oracle.assert_same_bits(k.rope(x, positions), k.rope(x, positions, theta=10000.0, rotary_dim=32))
    assert (k.rope(x, positions, theta=500000.0) != k.rope(x, positions)).any()
    oracle.assert_same_bits(k.rope(x, positions, rotary_dim=16)[..., 16:], x[..., 16:])
    oracle.assert_same_bits(k.rope(x, positions, rotary_dim=0), x)


def test_positions() -> None:
    """Positions for all, or for each sequence; negative ones turn back."""
    x = s.normal(1, (2, 3, 2, 16))
    positions = np.array([[5, 6, 7], [0, 1, 2]])
    got = k.rope(x, positions)
    for i in range(2):
        oracle.assert_same_bits(got[i], k.rope(x[i], positions[i].astype(np.uint8)))
    oracle.assert_same_bits(k.rope(x, [5, 6, 7])[0], got[0])
    back = k.rope(got, -positions)
    np.testing.assert_allclose(back, x, atol=1e-6)


def test_layouts_and_outputs() -> None:
    x, positions = s.normal(1, (3, 2, 16)), np.arange(3)
    wanted = k.rope(x, positions)
    for layout in s.LAYOUTS:
        oracle.assert_same_bits(k.rope(s.laid_out(x, layout), positions), wanted, layout)
    memory = np.full((3, 96), np.nan, np.float32)
    memory[:, 32:64] = x.reshape(3, 32)
    part = memory[:, 32:64].reshape(3, 2, 16)
    assert k.rope(part, positions, out=part) is part
    oracle.assert_same_bits(part, wanted)
    assert np.isnan(memory[:, :32]).all()
    assert np.isnan(memory[:, 64:]).all()


X, P = np.zeros((3, 2, 8), np.float32), np.arange(3)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "x: .*float64", lambda: k.rope(X.astype(np.float64), P)),
        (ValueError, "x: ", lambda: k.rope(X[0], P)),
        (TypeError, "positions: integers", lambda: k.rope(X, P * 1.0)),
        (ValueError, "positions: shape", lambda: k.rope(X, P[:2])),
        (ValueError, "positions: numbers that fit", lambda: k.rope(X, P + 2**40)),
        (ValueError, "pairing: ", lambda: k.rope(X, P, pairing="both")),  # type: ignore[arg-type]
        (ValueError, "rotary_dim: ", lambda: k.rope(X, P, rotary_dim=3)),
        (ValueError, "rotary_dim: ", lambda: k.rope(X, P, rotary_dim=10)),
        (ValueError, "inv_freq: ", lambda: k.rope(X, P, rotary_dim=4, inv_freq=np.ones(3, np.float32))),
        (
            ValueError,
            "out: rows of contiguous",
            lambda: k.rope(X, P, out=np.zeros((3, 8, 2), np.float32).swapaxes(1, 2)),
        ),
    ],
)
def test_errors_name_the_argument(error: type[Exception], name: str, call: Any) -> None:
    with pytest.raises(error, match=name):
        call()
