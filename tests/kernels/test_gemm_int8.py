"""Integer products: exact against int64 for every code, on every table, and what scales make of them."""

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

SHAPES = [(1, 1, 1), (1, 16, 4), (3, 17, 5), (6, 32, 31), (7, 33, 16), (12, 48, 64), (13, 49, 65), (25, 97, 33)]


def integers(seed: int, shape: Any, dtype: type[np.integer[Any]] = np.int8, extreme: bool = False) -> np.ndarray:
    """Every code; or mostly the two outermost, whose products are the largest."""
    info = np.iinfo(dtype)
    x = np.random.default_rng(seed).integers(info.min, info.max + 1, shape, np.int64)
    if extreme:
        x = np.where(np.random.default_rng(seed + 1).random(shape) < 0.9, np.where(x < 0, info.min, info.max), x)
    return x.astype(dtype)


def product(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """In int64, wrapped to int32."""
    return (a.astype(np.int64) @ w.astype(np.int64).T).astype(np.int32)


def check_int8(table: str, m: int, n: int, depth: int, unsigned: bool, extreme: bool = False, seed: int = 0) -> None:
    a = integers(seed, (m, depth), np.uint8 if unsigned else np.int8, extreme)
    w = integers(seed + 7, (n, depth), np.int8, extreme)
    out = np.full((m, n), -123456789, np.int32)
    with k.isa(table):
        packed = k.pack(w)
        np.testing.assert_array_equal(packed.unpack(), w)
        assert k.gemm(a, packed, out=out) is out
        np.testing.assert_array_equal(out, product(a, w))
        np.testing.assert_array_equal(k.gemm(a, w, trans_b=True), product(a, w))


def check_scaled(table: str, m: int, n: int, depth: int, seed: int = 0) -> None:
    """float(sum) * column scale * row scale + bias, each rounded once; then activation and residual."""
    a, w = integers(seed, (m, depth)), integers(seed + 7, (n, depth))
    rows, columns = np.abs(s.normal(seed + 1, m)), np.abs(s.normal(seed + 2, n))
    bias, residual = s.normal(seed + 3, n), s.normal(seed + 4, (m, n))
    wanted = product(a, w).astype(np.float32) * columns * rows[:, None]
    with k.isa(table):
        packed = k.pack(w, scales=columns)
        got = k.gemm(a, packed, a_scale=rows, out=poison(np.empty((m, n), np.float32)))
        oracle.assert_same_bits(got, wanted)
        oracle.assert_same_bits(k.gemm(a, packed, a_scale=rows, bias=bias), wanted + bias)
        oracle.assert_same_bits(k.gemm(a, packed, a_scale=rows, residual=residual), wanted + residual)
        oracle.assert_same_bits(k.gemm(a, packed), product(a, w).astype(np.float32) * columns)
        got = k.gemm(a, packed, a_scale=rows, bias=bias, activation="silu", residual=residual)
        oracle.assert_same_bits(got, k.silu(wanted + bias) + residual)


@given(
    m=s.rows(), n=s.columns(), depth=s.depths(), unsigned=st.booleans(), extreme=st.booleans(), seed=s.seeds()
)  # fmt: skip
def test_exact(table: str, m: int, n: int, depth: int, unsigned: bool, extreme: bool, seed: int) -> None:
    check_int8(table, m, n, depth, unsigned, extreme, seed)


@pytest.mark.parametrize("unsigned", [False, True])
def test_long_sums_of_the_largest_products(table: str, unsigned: bool) -> None:
    """Sums beyond int16 and float32's 24 bits, the driver's blocks of rows and tasks."""
    for m, n, depth in ((1, 70, 9000), (30, 40, 4099), (200, 70, 515)):
        check_int8(table, m, n, depth // 8 if table == "scalar" else depth, unsigned, extreme=True)


def test_every_pair_of_codes(table: str) -> None:
    a, w = np.arange(256, dtype=np.uint8)[:, None], np.arange(-128, 128).astype(np.int8)[:, None]
    with k.isa(table):
        np.testing.assert_array_equal(k.gemm(a, k.pack(w)), product(a, w))
        np.testing.assert_array_equal(k.gemm(a.view(np.int8), k.pack(w)), product(a.view(np.int8), w))


@given(m=s.rows(), n=s.columns(), depth=s.depths(130), seed=s.seeds())
def test_scaled(table: str, m: int, n: int, depth: int, seed: int) -> None:
    check_scaled(table, m, n, depth, seed)


@given(m=s.rows(20), n=s.columns(50), depth=s.depths(130), kind=s.kinds(), seed=s.seeds())
def test_rounded_activations(table: str, m: int, n: int, depth: int, kind: str, seed: int) -> None:
    """A float a: as if it had been rounded to int8 with a scale per row; a row of NaN or infinity stays NaN."""
    a, w = s.values(seed, (m, depth), kind), s.normal(seed + 1, (n, depth))
    if m > 1 and depth:
        a[m // 2, depth // 2] = (np.nan, np.inf, -np.inf)[seed % 3]
    with k.isa(table):
        packed = k.pack(w, "int8")
        got = k.gemm(a, packed)
    whole, scales = packed.unpack(), packed.scales
    assert scales is not None
    if depth:
        q = np.rint(whole / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
        assert np.abs(whole - w).max(initial=0) <= 0.5001 * scales.max(initial=0)
    else:
        q = np.zeros((n, 0), np.int8)
    finite = np.isfinite(a).all(1)
    assert np.isnan(got[~finite]).all()
    row = np.abs(a).max(1, initial=0.0).astype(np.float32) / np.float32(127)
    with np.errstate(all="ignore"):
        inverse = np.where(row > 0, np.float32(1) / row, np.float32(0)).astype(np.float32)
        steps = np.clip(np.nan_to_num(a * inverse[:, None], nan=0.0), -127, 127)
        rounded = np.rint(steps).astype(np.int64)
        wanted = (rounded @ q.astype(np.int64).T).astype(np.float32) * scales * row[:, None]
    np.testing.assert_array_equal(got[finite], wanted[finite])


@pytest.mark.parametrize("depth", [64, 67])
def test_independence(table: str, depth: int) -> None:
    """Row i of any number of rows, any number of threads, is the row alone."""
    a, w = integers(1, (64, depth)), integers(2, (83, depth))
    x, scales = s.normal(3, (64, depth)), np.abs(s.normal(4, 83))
    with k.isa(table):
        packed = k.pack(w, scales=scales)
        alone = [k.gemm(x[i : i + 1], packed) for i in range(64)]
        for m in range(1, 65):
            np.testing.assert_array_equal(k.gemm(a[:m], k.pack(w)), product(a[:m], w))
            oracle.assert_same_bits(k.gemm(x[:m], packed), np.concatenate(alone[:m]))
        for threads in range(1, 9):
            with k.threads(threads):
                oracle.assert_same_bits(k.gemm(x, packed), np.concatenate(alone))


@pytest.mark.parametrize("side", SIDES)
@given(m=s.rows(), n=s.columns(50), depth=s.depths(66), seed=s.seeds())
def test_guarded(table: str, side: str, m: int, n: int, depth: int, seed: int) -> None:
    """Nothing is read or written beyond any array."""
    a, w = guard(integers(seed, (m, depth)), side), guard(integers(seed + 1, (n, depth)), side)
    scale, rows = guard(np.abs(s.normal(seed, n)), side), guard(np.abs(s.normal(seed, m)), side)
    bias, out = guard(s.normal(seed + 2, n), side), guarded((m, n), side=side)
    wanted = product(a, w).astype(np.float32) * scale * rows[:, None] + bias
    with k.isa(table):
        k.gemm(a, k.pack(w, scales=scale), a_scale=rows, bias=bias, out=poison(out))
        oracle.assert_same_bits(np.ascontiguousarray(out), wanted)


def test_rows_with_gaps(table: str) -> None:
    a, w = integers(1, (13, 40)), integers(2, (21, 40))
    memory = np.full((13, 30), 7, np.int32)
    with k.isa(table):
        k.gemm(np.repeat(a, 2, 0)[::2], k.pack(w.T.copy().T), out=memory[:, 4:25])
    np.testing.assert_array_equal(memory[:, 4:25], product(a, w))
    assert (memory[:, :4] == 7).all()
    assert (memory[:, 25:] == 7).all()


# ---- the other epilogues ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("m", "n"), [(1, 5), (7, 16), (13, 50), (40, 33), (3, 64)])
@pytest.mark.parametrize("depth", [24, 4100])
def test_gate_times_up(table: str, dtype: Any, m: int, n: int, depth: int) -> None:
    """The same bits as the two products, their activation and their multiplication one after the other."""
    depth = depth // 16 if table == "scalar" else depth
    a, gate, up = s.normal(1, (m, depth)), s.normal(2, (n, depth)), s.normal(3, (n, depth))
    bias, residual = s.normal(4, (2, n)), s.normal(5, (m, n))
    with k.isa(table):
        pair = k.pack_gated(gate, up, dtype)
        assert (pair.gated, pair.dtype) == (n, dtype)
        for activation in ("silu", "gelu"):
            act = getattr(k, activation)
            first, second = (k.gemm(a, k.pack(w, dtype), bias=b) for w, b in ((gate, bias[0]), (up, bias[1])))
            got = k.gemm(a, pair, bias=bias, activation=activation, residual=residual)  # type: ignore[arg-type]
            oracle.assert_same_bits(got, act(first) * second + residual)
        first, second = k.gemm(a, k.pack(gate, dtype)), k.gemm(a, k.pack(up, dtype))
        oracle.assert_same_bits(k.gemm(a, pair), first * second)
        bits = np.full((m, n + 1), 9, np.uint16)
        k.gemm(a, pair, activation="silu", out=bits[:, :n])
        oracle.assert_same_bits(
            (bits[:, :n].astype(np.uint32) << 16).view(np.float32), oracle.bfloat16(k.silu(first) * second)
        )
        assert (bits[:, n] == 9).all()


@pytest.mark.parametrize(("m", "n", "depth"), [(1, 5, 7), (13, 50, 33), (30, 33, 4100)])
def test_bfloat16_results(table: str, m: int, n: int, depth: int) -> None:
    depth = depth // 16 if table == "scalar" else depth
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a, w, bias = s.normal(1, (m, depth)), s.normal(2, (n, depth)), s.normal(3, n)
    with k.isa(table):
        whole = k.gemm(a, k.pack(w), bias=bias)
        memory = np.full((m, n + 3), 9, ml_dtypes.bfloat16)
        k.gemm(a, k.pack(w), bias=bias, out=memory[:, 1 : n + 1])
        bits = np.empty((m, n), np.uint16)
        k.gemm(a, k.pack(w), bias=bias, out=bits)
    oracle.assert_same_bits(memory[:, 1 : n + 1].astype(np.float32), oracle.bfloat16(whole))
    np.testing.assert_array_equal(bits, np.ascontiguousarray(memory[:, 1 : n + 1]).view(np.uint16))
    assert (memory[:, 0] == 9).all()
    assert (memory[:, n + 1 :] == 9).all()


@given(m=s.rows(), n=s.columns(50), depth=s.depths(66), layout=s.layouts(), trans=st.booleans(), seed=s.seeds())
def test_plain_is_packed(table: str, m: int, n: int, depth: int, layout: str, trans: bool, seed: int) -> None:
    """Two arrays: the bits of the packed product, whatever their layout."""
    a, w = s.normal(seed, (m, depth)), s.normal(seed + 1, (n, depth))
    with k.isa(table):
        wanted = k.gemm(a, k.pack(w))
        got = k.gemm(a, s.laid_out(w, layout) if trans else s.laid_out(w.T, layout), trans_b=trans)
        oracle.assert_same_bits(got, wanted)
        half = w.astype(np.float16)
        oracle.assert_same_bits(k.gemm(a, half, trans_b=True), k.gemm(a, k.pack(half)))


def test_plain_across_blocks(table: str) -> None:
    m, n, depth = (5, 40, 300) if table == "scalar" else (61, 150, 9001)
    a, w = s.normal(1, (m, depth)), s.normal(2, (n, depth))
    with k.isa(table):
        wanted = k.gemm(a, k.pack(w), activation="gelu")
        for threads in (1, 2, 5):
            with k.threads(threads):
                oracle.assert_same_bits(k.gemm(a, w, trans_b=True, activation="gelu"), wanted)
                oracle.assert_same_bits(k.gemm(a, w.T.copy(), activation="gelu"), wanted)


I8, F32 = np.zeros((3, 4), np.int8), np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "a: .*int8", lambda: k.gemm(I8, F32, trans_b=True)),
        (TypeError, "a: .*int16", lambda: k.gemm(I8.astype(np.int16), I8, trans_b=True)),
        (ValueError, "a_scale: .*bias", lambda: k.gemm(I8, I8, trans_b=True, bias=np.zeros(3, np.float32))),
        (ValueError, r"a_scale: shape \[3\]", lambda: k.gemm(I8, I8, trans_b=True, a_scale=np.ones(2, np.float32))),
        (ValueError, "a_scale: .*floating", lambda: k.gemm(F32, I8, trans_b=True, a_scale=np.ones(3, np.float32))),
        (TypeError, "out: a int32", lambda: k.gemm(I8, I8, trans_b=True, out=np.zeros((3, 3), np.float32))),
        (TypeError, "out: a float32", lambda: k.gemm(F32, I8, trans_b=True, out=np.zeros((3, 3), np.int32))),
        (ValueError, r"scales: shape \[3\]", lambda: k.pack(I8, scales=np.ones(4, np.float32))),
        (ValueError, "scales: only", lambda: k.pack(F32, scales=np.ones(3, np.float32))),
        (TypeError, "w: floating point", lambda: k.pack(I8, "float32")),
        (ValueError, "w: finite .* row 1, column 2", lambda: k.pack(_with_nan(), "int8")),
        (ValueError, "up: shape", lambda: k.pack_gated(F32, F32[:2])),
        (TypeError, "gate: floating", lambda: k.pack_gated(I8, I8)),
        (
            ValueError,
            r"bias: shape \[2, 3\]",
            lambda: k.gemm(F32, k.pack_gated(F32, F32), bias=np.zeros(3, np.float32)),
        ),
    ],
)
def test_errors_name_the_argument(error: type[Exception], name: str, call: Any) -> None:
    with pytest.raises(error, match=name):
        call()


def _with_nan() -> np.ndarray:
    x = F32.copy()
    x[1, 2] = np.nan
    return x
