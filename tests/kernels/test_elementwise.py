"""Activations, exp, tanh and softmax: how far from float64, special values, edges of lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import strategies as s
from guard import SIDES, guard, guarded, poison
from lanewise import kernels as k

ULPS = {"exp": 1.2, "tanh": 1.6, "silu": 3.2, "gelu": 5, "gelu_tanh": 4, "relu2": 0.5}  # exp: at most 2 is promised
NAMES = sorted(ULPS)
SIZES = [0, 1, 15, 16, 17, 31, 33, 100, 1023, 1024, 1025, 2049]


def sweep(step: int) -> np.ndarray:
    """Every step-th float32 of all: both signs, subnormals, infinities, NaN."""
    return np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


def check_ulps(table: str, name: str, x: np.ndarray) -> None:
    with k.isa(table):
        got = getattr(k, name)(x)
    with np.errstate(all="ignore"):
        ref = oracle.activation(name, x)
        distance = oracle.in_ulps(got, ref)
    finite = np.isfinite(x)
    worst = int(np.argmax(np.where(finite, np.where(np.isnan(distance), np.inf, distance), 0)))
    assert not finite.any() or distance[worst] <= ULPS[name], (
        f"{name}({x[worst]!r}) = {got[worst]!r}, reference {ref[worst]!r}: {distance[worst]:.2f} ulp"
    )


def check_special(table: str, name: str) -> None:
    limits = {
        "exp": (0, np.inf),
        "tanh": (-1, 1),
        "silu": (0, np.inf),
        "gelu": (0, np.inf),
        "gelu_tanh": (0, np.inf),
        "relu2": (0, np.inf),
    }
    x = np.array([-np.inf, np.inf, np.nan, 0.0, -0.0] * 7, np.float32)
    with k.isa(table):
        got = getattr(k, name)(x).reshape(7, 5)
    zero = 1.0 if name == "exp" else 0.0
    np.testing.assert_array_equal(got, np.tile(np.float32([*limits[name], np.nan, zero, zero]), (7, 1)))


def check_size(table: str, name: str, n: int, side: str = "end") -> None:
    """Any length, in place or not, gives for each element what it gives alone, and touches nothing else."""
    x, up = s.special(n, n), s.normal(n + 1, n)
    with k.isa(table), np.errstate(all="ignore"):
        alone = np.array([getattr(k, name)(x[i : i + 1])[0] for i in range(n)], np.float32)
        out = guarded(n, side=side)
        oracle.assert_same_bits(getattr(k, name)(guard(x, side), out=out), alone, name)
        there = guard(x, side)
        oracle.assert_same_bits(getattr(k, name)(there, out=there), alone, f"{name} in place")
        if name in ("silu", "gelu"):
            mul = getattr(k, name + "_mul")
            wanted = alone * up
            got = mul(guard(x, side), guard(up, side), out=poison(out))
            np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(mul(there := guard(x, side), up, out=there), wanted)
            np.testing.assert_array_equal(mul(x, there := guard(up, side), out=there), wanted)


def check_softmax(table: str, rows: int, n: int, spread: float = 1.0, seed: int = 0, side: str = "end") -> None:
    x = guard(s.normal(seed, (rows, n)) * np.float32(spread), side)
    out = guarded((rows, n), side=side)
    with k.isa(table):
        got = k.softmax(x, out=out)
        there = guard(x, side)
        oracle.assert_same_bits(k.softmax(there, out=there), got, "in place")
    ref, relative = oracle.softmax(x)
    oracle.assert_within(got, ref, 4 * oracle.ulp(ref) + relative * ref + 2.0**-149)


def check_softmax_special(table: str) -> None:
    inf, nan = np.inf, np.nan
    for n in (3, 16, 40):
        x = s.normal(n, (6, n))
        x[0, 1] = -inf
        x[1, 1] = nan
        x[2, :] = -inf
        x[3, :] = 7.5
        x[4, :] = np.float32(-3.4e38)
        x[4, 2] = np.float32(3.4e38)
        x[5, :] *= np.float32(1e-40)
        with k.isa(table):
            got = k.softmax(x)
        assert got[0, 1] == 0
        assert abs(got[0].sum(dtype=np.float64) - 1) < 1e-6
        assert np.isnan(got[1]).all()
        assert np.isnan(got[2]).all()
        np.testing.assert_array_equal(got[3], np.float32(1) / np.float32(n))
        np.testing.assert_array_equal(got[4], np.eye(n, dtype=np.float32)[2])
        np.testing.assert_array_equal(got[5], np.float32(1) / np.float32(n))


@pytest.mark.parametrize("name", NAMES)
def test_ulps_over_all_floats(table: str, name: str) -> None:
    check_ulps(table, name, sweep(104_729))


@pytest.mark.parametrize("name", NAMES)
def test_ulps_where_it_bends(table: str, name: str) -> None:
    step = 1e-2 if table == "scalar" else 1e-3
    check_ulps(table, name, np.arange(-110, 95, step).astype(np.float32))
    check_ulps(table, name, np.arange(-2, 2, step / 10).astype(np.float32))


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_ulps_of_every_float(table: str, name: str) -> None:
    step = 257 if table == "scalar" or "gelu" in name else 13
    for first in range(0, 2**32, 2**26):
        part = np.arange(first, first + 2**26, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        check_ulps(table, name, part)


@pytest.mark.parametrize("name", NAMES)
def test_special_values(table: str, name: str) -> None:
    check_special(table, name)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(table: str, name: str, side: str) -> None:
    for n in (0, 1, 2, 15, 16, 17, 33, 70):
        check_size(table, name, n, side)


@pytest.mark.parametrize("n", [1023, 1024, 1025, 2049, 20_000])
def test_long_arrays_equal_their_pieces(table: str, n: int) -> None:
    x, up = s.normal(n, n), s.normal(n + 1, n)
    with k.isa(table), k.threads(3):
        pieces = np.concatenate([k.silu(part) for part in np.array_split(x, 7)])
        oracle.assert_same_bits(k.silu(x), pieces)
        oracle.assert_same_bits(k.silu_mul(x, up), pieces * up)


@given(
    rows=st.integers(0, 5),
    n=s.columns(),
    spread=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    seed=s.seeds(),
    side=st.sampled_from(["end", "start"]),
)
def test_softmax(table: str, rows: int, n: int, spread: float, seed: int, side: str) -> None:
    check_softmax(table, rows, n, spread, seed, side)


def test_softmax_special(table: str) -> None:
    check_softmax_special(table)


def test_softmax_axes() -> None:
    x = s.normal(1, (3, 4, 5))
    for axis in (-1, 0, 1, 2, -3):
        wanted = np.moveaxis(k.softmax(np.ascontiguousarray(np.moveaxis(x, axis, -1))), -1, axis)
        oracle.assert_same_bits(k.softmax(x, axis), wanted)
        out = x.copy()
        assert k.softmax(out, axis, out=out) is out
        oracle.assert_same_bits(out, wanted)
    with pytest.raises(ValueError, match="axis: "):
        k.softmax(x, 3)


@pytest.mark.parametrize("layout", s.LAYOUTS)
def test_layouts(layout: str) -> None:
    x, up = s.normal(1, (5, 19)), s.normal(2, (5, 19))
    y = s.laid_out(x, layout)
    for name in NAMES:
        oracle.assert_same_bits(getattr(k, name)(y), getattr(k, name)(x), name)
    oracle.assert_same_bits(k.gelu_mul(y, s.laid_out(up, layout)), k.gelu_mul(x, up))
    oracle.assert_same_bits(k.softmax(y), k.softmax(x))


def test_scalars_and_shifted_outputs() -> None:
    assert k.exp(np.float32(0)).shape == ()
    memory = s.normal(1, 100)
    wanted = k.tanh(memory[:99].copy())
    k.tanh(memory[:99], out=memory[1:])
    oracle.assert_same_bits(memory[1:], wanted)


def test_bfloat16_and_float16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (ml_dtypes.bfloat16, np.float16):
        x = s.normal(1, 33).astype(dtype)
        oracle.assert_same_bits(k.silu(x), k.silu(x.astype(np.float32)))


X = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "x: .*float64", lambda: k.exp(X.astype(np.float64))),
        (TypeError, "x: .*int32", lambda: k.softmax(X.astype(np.int32))),
        (ValueError, r"up: shape \[3, 4\]", lambda: k.silu_mul(X, X[:2])),
        (TypeError, "gate: ", lambda: k.gelu_mul([[1]], X)),
        (ValueError, "out: rows of contiguous", lambda: k.exp(X, out=np.zeros((3, 8), np.float32)[:, :4])),
        (ValueError, r"out: shape \[3, 4\]", lambda: k.softmax(X, out=np.zeros(12, np.float32))),
        (ValueError, "axis: ", lambda: k.softmax(np.float32(1))),
    ],
)
def test_errors_name_the_argument(error: type[Exception], name: str, call: Any) -> None:
    with pytest.raises(error, match=name):
        call()
