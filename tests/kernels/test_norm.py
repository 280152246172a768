"""RMS norm and layer norm: ulps against float64, extremes, edges of lines."""

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

SIZES = [(1, 1), (2, 15), (3, 16), (2, 17), (1, 33), (4, 100)]


def inputs(seed: int, rows: int, n: int, kind: str, shift: float = 0.0) -> np.ndarray:
    """Distinct rows of a kind; `huge` has squares beyond float32."""
    x = s.values(seed, (rows, n), "normal" if kind == "huge" else kind)
    return (x * np.float32(1e30 if kind == "huge" else 1) + np.float32(shift)).astype(np.float32)


def check_rms_norm(table: str, rows: int, n: int, kind: str = "normal", seed: int = 0, side: str = "end") -> None:
    x, w = guard(inputs(seed, rows, n, kind), side), guard(s.normal(seed + 1, n), side)
    with k.isa(table):
        for weight, eps in ((None, 1e-6), (w, 1e-6), (w, 0.5)):
            got = k.rms_norm(x, weight, eps, out=guarded((rows, n), side=side))
            ref = oracle.rms_norm(x, weight, eps)
            distance = oracle.in_ulps(got, ref)
            assert (distance <= 3).all(), f"{distance.max():.2f} ulp"
            there = guard(x, side)
            oracle.assert_same_bits(k.rms_norm(there, weight, eps, out=there), got, "in place")


def check_layer_norm(
    table: str, rows: int, n: int, kind: str = "normal", seed: int = 0, side: str = "end", shift: float = 0.0
) -> None:
    x = guard(inputs(seed, rows, n, kind, shift), side)
    w, b = guard(s.normal(seed + 1, n), side), guard(s.normal(seed + 2, n), side)
    with k.isa(table):
        for weight, bias in ((None, None), (w, None), (None, b), (w, b)):
            got = k.layer_norm(x, weight, bias, 1e-5, out=guarded((rows, n), side=side))
            ref, size = oracle.layer_norm(x, weight, bias, 1e-5)
            # values near the mean keep the error of its float64 sum, and of subnormals when it is subtracted
            off_mean = 2.0**-50 * float(np.abs(x).max(initial=0)) + 2.0**-149
            spread = np.sqrt(np.var(x.astype(np.float64), -1, keepdims=True) + 1e-5) if n else 1
            scale = np.abs(np.ones(n) if weight is None else weight.astype(np.float64))
            oracle.assert_within(got, ref, 4 * oracle.ulp(size) + off_mean * scale / spread)
            there = guard(x, side)
            oracle.assert_same_bits(k.layer_norm(there, weight, bias, 1e-5, out=there), got, "in place")


def check_equal_values(table: str, n: int) -> None:
    """All equal: the RMS norm is +-1 (eps 0), the layer norm its bias."""
    bias = s.normal(1, n)
    with k.isa(table):
        np.testing.assert_allclose(k.rms_norm(np.full((1, n), -3.5, np.float32), eps=0.0), -1, rtol=3e-7)
        np.testing.assert_array_equal(k.layer_norm(np.full((1, n), 4.25, np.float32), None, bias)[0], bias)
        np.testing.assert_array_equal(k.rms_norm(np.zeros((2, n), np.float32)), np.zeros((2, n)))


def check_nan_stays_in_its_row(table: str, n: int) -> None:
    for bad in (np.nan, np.inf):
        x = s.normal(1, (5, n))
        clean = x.copy()
        x[2, n // 2] = bad
        with k.isa(table):
            for norm in (k.rms_norm, k.layer_norm):
                got, wanted = norm(x), norm(clean)
                assert np.isnan(got[2]).any()
                rest = [0, 1, 3, 4]
                oracle.assert_same_bits(got[rest], wanted[rest])


KINDS = st.sampled_from(["normal", "wide", "tiny", "equal", "zero", "huge"])


@given(
    rows=st.integers(0, 4),
    n=s.columns().filter(bool),
    kind=KINDS,
    seed=s.seeds(),
    side=st.sampled_from(["end", "start"]),
)
def test_rms_norm(table: str, rows: int, n: int, kind: str, seed: int, side: str) -> None:
    check_rms_norm(table, rows, n, kind, seed, side)


@given(
    rows=st.integers(0, 4),
    n=s.columns().filter(bool),
    kind=st.sampled_from(["normal", "wide", "tiny", "equal", "zero"]),
    seed=s.seeds(),
    side=st.sampled_from(["end", "start"]),
    shift=st.sampled_from([0.0, 3.0, 1000.0]),
)
def test_layer_norm(table: str, rows: int, n: int, kind: str, seed: int, side: str, shift: float) -> None:
    check_layer_norm(table, rows, n, kind, seed, side, shift)


@pytest.mark.parametrize("n", [896, 2048, 4099])
def test_widths_of_models(table: str, n: int) -> None:
    check_rms_norm(table, 3, n)
    check_layer_norm(table, 3, n, shift=10.0)


@pytest.mark.parametrize("side", SIDES)
def test_sizes(table: str, side: str) -> None:
    for rows, n in SIZES:
        check_rms_norm(table, rows, n, side=side)
        check_layer_norm(table, rows, n, side=side)


def test_empty(table: str) -> None:
    with k.isa(table):
        for shape in ((0, 5), (3, 0), (0,)):
            assert k.rms_norm(np.zeros(shape, np.float32)).shape == shape
            assert k.layer_norm(np.zeros(shape, np.float32)).shape == shape


@pytest.mark.parametrize("n", [1, 15, 16, 17, 64])
def test_equal_values(table: str, n: int) -> None:
    check_equal_values(table, n)


@pytest.mark.parametrize("n", [1, 16, 33])
def test_nan_stays_in_its_row(table: str, n: int) -> None:
    check_nan_stays_in_its_row(table, n)


@pytest.mark.parametrize("layout", s.LAYOUTS)
def test_layouts(layout: str) -> None:
    x, w = s.normal(1, (2, 5, 19)), s.normal(2, 19)
    for norm in (k.rms_norm, k.layer_norm):
        oracle.assert_same_bits(norm(s.laid_out(x, layout), np.repeat(w, 2)[::2]), norm(x, w))


def test_out_may_be_rows_of_a_wider_array() -> None:
    x, memory = s.normal(1, (2, 3, 16)), np.full((2, 3, 40), np.nan, np.float32)
    for norm in (k.rms_norm, k.layer_norm):
        norm(x, out=memory[..., 8:24])
        oracle.assert_same_bits(memory[..., 8:24], norm(x))
        assert np.isnan(memory[..., :8]).all()
        assert np.isnan(memory[..., 24:]).all()
    shifted = np.zeros((4, 16), np.float32)
    shifted[:3] = x[0]
    k.rms_norm(shifted[:3], shifted[3], out=shifted[1:])
    oracle.assert_same_bits(shifted[1:], k.rms_norm(x[0], np.zeros(16, np.float32)))


X = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "x: .*float64", lambda: k.rms_norm(np.zeros((2, 3)))),
        (ValueError, "x: ", lambda: k.rms_norm(np.float32(1))),
        (ValueError, r"weight: shape \[4\]", lambda: k.rms_norm(X, np.zeros(3, np.float32))),
        (ValueError, r"bias: shape \[4\]", lambda: k.layer_norm(X, None, np.zeros((1, 4), np.float32))),
        (ValueError, r"out: shape \[3, 4\]", lambda: k.layer_norm(X, out=np.zeros((4, 3), np.float32))),
    ],
)
def test_errors_name_the_argument(error: type[Exception], name: str, call: Any) -> None:
    with pytest.raises(error, match=name):
        call()
