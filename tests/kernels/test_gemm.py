"""Products: exact indexing, the float64 bound of each element, edges, layouts, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import strategies as s
from guard import SIDES, guard, guarded, is_poison, poison
from lanewise import kernels as k

SHAPES = [  # m, n, k: fixed ones for the broken tables, drawn ones for the rest
    (1, 1, 1),
    (1, 16, 2),
    (3, 17, 5),
    (6, 32, 31),
    (7, 33, 16),
    (12, 48, 64),
    (13, 49, 65),
    (25, 97, 33),
    (2, 15, 257),
]


def check_exact(table: str, m: int, n: int, depth: int, dtype: str = "float32", seed: int = 0) -> None:
    """Whole numbers: every sum is exact, so the difference is zero; outputs are poisoned first."""
    a, w = s.whole(seed, (m, depth)), s.whole(seed + 1, (n, depth))
    bias, residual = s.whole(seed + 2, n), s.whole(seed + 3, (m, n))
    wanted = (a.astype(np.int64) @ w.astype(np.int64).T).astype(np.float32)
    out = poison(np.empty((m, n), np.float32))
    with k.isa(table):
        packed = k.pack(w, dtype)
        for exact in (True, False):
            got = k.gemm(a, packed, exact=exact, out=poison(out))
            np.testing.assert_array_equal(got, wanted)
            got = k.gemm(a, packed, bias=bias, residual=residual, exact=exact, out=poison(out))
            np.testing.assert_array_equal(got, wanted + bias + residual)


def check_bound(table: str, m: int, n: int, depth: int, kind: str = "normal", seed: int = 0) -> None:
    a, w = s.values(seed, (m, depth), kind), s.values(seed + 1, (n, depth), "wide" if kind == "tiny" else kind)
    bias, residual = s.normal(seed + 2, n), s.normal(seed + 3, (m, n))
    with k.isa(table):
        ref, bound = oracle.gemm(a, w)
        oracle.assert_within(k.gemm(a, w, trans_b=True), ref, bound)
        ref, bound = oracle.gemm(a, w, bias, residual)
        oracle.assert_within(k.gemm(a, w.T, bias=bias, residual=residual), ref, bound)


def check_bfloat16(table: str, m: int, n: int, depth: int, seed: int = 0) -> None:
    """bfloat16 weights: exact mode has the bits of widened weights, the fast one the bound over rounded operands."""
    a, w = s.normal(seed, (m, depth)), s.normal(seed + 1, (n, depth))
    rounded = oracle.bfloat16(w)
    with k.isa(table):
        packed = k.pack(w, "bfloat16")
        np.testing.assert_array_equal(packed.unpack(), rounded)
        oracle.assert_same_bits(k.gemm(a, packed), k.gemm(a, rounded, trans_b=True), "widened")
        got = k.gemm(a, packed, exact=False)
        fast = k.context().has_dot
    ref, bound = oracle.gemm(oracle.bfloat16(a) if fast else a, rounded)
    oracle.assert_within(got, ref, bound)


def check_bfloat16_rows(table: str, m: int, n: int, depth: int, seed: int = 0, side: str = "end") -> None:
    """A bfloat16 a: the bits of its values in float32, whatever it is multiplied by."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a, w = oracle.bfloat16(s.normal(seed, (m, depth))), s.normal(seed + 1, (n, depth))
    a[m // 2 :, depth // 2 : depth // 2 + 1] = 2.0**-130  # the dot product alone takes subnormal numbers for zeros
    narrow = guard(a.astype(ml_dtypes.bfloat16).view(np.uint16), side).view(ml_dtypes.bfloat16)
    with k.isa(table):
        for b in (w, w.astype(ml_dtypes.bfloat16)):
            oracle.assert_same_bits(k.gemm(narrow, b, trans_b=True), k.gemm(a, b, trans_b=True), "plain")
            packed = k.pack(b)
            for exact in (True, False):
                got = k.gemm(narrow, packed, exact=exact)
                oracle.assert_same_bits(got, k.gemm(a, packed, exact=exact), f"{packed.dtype}, exact: {exact}")
            oracle.assert_same_bits(k.gemm(s.laid_out(narrow, "gap"), packed), k.gemm(a, packed))
        whole = k.pack(w, "int8")  # rounded to int8 from float32
        oracle.assert_same_bits(k.gemm(narrow, whole), k.gemm(a, whole))


def check_guarded(table: str, m: int, n: int, depth: int, side: str, dtype: str = "float32", seed: int = 0) -> None:
    """Nothing is read or written beyond any array."""
    a, w = guard(s.whole(seed, (m, depth)), side), guard(s.whole(seed + 1, (n, depth)), side)
    bias, residual = guard(s.whole(seed + 2, n), side), guard(s.whole(seed + 3, (m, n)), side)
    out = guarded((m, n), side=side)
    with k.isa(table):
        packed = k.pack(w, dtype)
        for exact in (True, False):
            k.gemm(a, packed, bias=bias, residual=residual, exact=exact, out=poison(out))
            np.testing.assert_array_equal(out, a @ w.T + bias + residual)


def check_padding(table: str, m: int, n: int, depth: int, dtype: str = "float32", seed: int = 0) -> None:
    """NaN between the rows of every array changes nothing, and nothing is written there."""
    a, w, residual = s.normal(seed, (m, depth)), s.normal(seed + 1, (n, depth)), s.normal(seed + 2, (m, n))
    memory = poison(np.empty((m, n + 3), np.float32))
    with k.isa(table):
        wanted = k.gemm(a, k.pack(w, dtype), residual=residual)
        got = k.gemm(
            s.laid_out(a, "gap"),
            k.pack(s.laid_out(w, "gap"), dtype),
            residual=s.laid_out(residual, "gap"),
            out=memory[:, :n],
        )
    oracle.assert_same_bits(got, wanted)
    assert is_poison(np.ascontiguousarray(memory[:, n:])).all()


def check_row_nan(table: str, m: int, n: int, depth: int) -> None:
    """A NaN in one row, one weight row or one bias stays in its row and column."""
    a, w = s.normal(1, (m, depth)), s.normal(2, (n, depth))
    a[m // 2, depth // 2] = np.nan
    w[n // 2, depth // 3] = np.nan
    with k.isa(table):
        got = np.isnan(k.gemm(a, w, trans_b=True))
    wanted = np.zeros((m, n), bool)
    wanted[m // 2] = True
    wanted[:, n // 2] = True
    np.testing.assert_array_equal(got, wanted)


@given(m=s.rows(), n=s.columns(), depth=s.depths(), dtype=st.sampled_from(["float32", "bfloat16"]), seed=s.seeds())
def test_exact(table: str, m: int, n: int, depth: int, dtype: str, seed: int) -> None:
    check_exact(table, m, n, depth, dtype, seed)


@pytest.mark.parametrize("depth", [511, 512, 513, 1025, 2049, 4099])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exact_across_blocks_of_k(table: str, depth: int, dtype: str) -> None:
    check_exact(table, 3 if table == "scalar" else 13, 17 if table == "scalar" else 49, depth, dtype)


@pytest.mark.parametrize(("m", "n"), [(150, 40), (64, 700), (1, 1100)])
def test_exact_across_blocks_of_rows_and_columns(table: str, m: int, n: int) -> None:
    check_exact(table, m, n, 9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exact_where_activations_outgrow_the_cache(table: str, dtype: str) -> None:
    check_exact(table, 307, 17, 1031, dtype)


def test_exact_in_several_passes(table: str) -> None:
    """Activations of more than 32 MiB are staged in passes."""
    if table == "scalar":
        pytest.skip("the driver is the same for every table")
    check_exact(table, 70, 2, 140_000, "bfloat16")


@given(m=s.rows(), n=s.columns(), depth=s.depths(66), kind=s.kinds(), seed=s.seeds())
def test_bound(table: str, m: int, n: int, depth: int, kind: str, seed: int) -> None:
    check_bound(table, m, n, depth, kind, seed)


def test_bound_for_long_sums(table: str) -> None:
    check_bound(table, 3, 17, 8192)
    check_bound(table, 2, 16, 3001, "wide")


@given(m=s.rows(), n=s.columns(), depth=s.depths(130), seed=s.seeds())
def test_bfloat16(table: str, m: int, n: int, depth: int, seed: int) -> None:
    check_bfloat16(table, m, n, depth, seed)


@pytest.mark.parametrize("side", SIDES)
@given(m=s.rows(), n=s.columns(), depth=s.depths(66), dtype=st.sampled_from(["float32", "bfloat16"]), seed=s.seeds())
def test_guarded(table: str, side: str, m: int, n: int, depth: int, dtype: str, seed: int) -> None:
    check_guarded(table, m, n, depth, side, dtype, seed)


@pytest.mark.parametrize("side", SIDES)
@given(m=s.rows(), n=s.columns(66), depth=s.depths(99), seed=s.seeds())
def test_bfloat16_rows(table: str, side: str, m: int, n: int, depth: int, seed: int) -> None:
    check_bfloat16_rows(table, m, n, depth, seed, side)


@pytest.mark.parametrize(("m", "n", "depth"), [(1, 40, 4100), (16, 130, 1027), (61, 150, 2048), (150, 33, 4864)])
def test_bfloat16_rows_across_blocks(table: str, m: int, n: int, depth: int) -> None:
    depth = depth // 16 if table == "scalar" else depth
    for threads in (1, 3):
        with k.threads(threads):
            check_bfloat16_rows(table, m, n, depth)


@given(m=s.rows(), n=s.columns(50), depth=s.depths(66), dtype=st.sampled_from(["float32", "bfloat16"]), seed=s.seeds())
def test_padding(table: str, m: int, n: int, depth: int, dtype: str, seed: int) -> None:
    check_padding(table, m, n, depth, dtype, seed)


@pytest.mark.parametrize(("m", "n", "depth"), [(1, 1, 1), (13, 49, 33), (7, 31, 64)])
def test_nan_stays_in_its_row_and_column(table: str, m: int, n: int, depth: int) -> None:
    check_row_nan(table, m, n, depth)


@given(layout=s.layouts(), layout_b=s.layouts(), m=s.rows(), n=s.columns(33), depth=s.depths(33), trans=st.booleans())
def test_layouts(layout: str, layout_b: str, m: int, n: int, depth: int, trans: bool) -> None:
    a, b = s.normal(1, (m, depth)), s.normal(2, (n, depth) if trans else (depth, n))
    wanted = k.gemm(a, b, trans_b=trans)
    oracle.assert_same_bits(k.gemm(s.laid_out(a, layout), s.laid_out(b, layout_b), trans_b=trans), wanted)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (2, 1, 4, 5), (0, 5), (3, 0, 5)])
def test_leading_dimensions_are_rows(shape: tuple[int, ...]) -> None:
    a, b = s.normal(1, shape), s.normal(2, (5, 7))
    got = k.gemm(a, b)
    assert got.shape == (*shape[:-1], 7)
    oracle.assert_same_bits(got.reshape(-1, 7), k.gemm(a.reshape(-1, 5), b))


@pytest.mark.parametrize(("m", "n", "depth"), [(0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0)])
def test_empty(table: str, m: int, n: int, depth: int) -> None:
    a, w, bias = s.normal(1, (m, depth)), s.normal(2, (n, depth)), s.normal(3, n)
    residual = s.normal(4, (m, n))
    with k.isa(table):
        packed = k.pack(w)
        assert packed.unpack().shape == (n, depth)
        for b in (packed, w.T):
            np.testing.assert_array_equal(k.gemm(a, b), np.zeros((m, n)))
            np.testing.assert_array_equal(k.gemm(a, b, bias=bias), np.zeros((m, n), np.float32) + bias)
            np.testing.assert_array_equal(k.gemm(a, b, bias=bias, residual=residual), bias + residual)
            got = k.gemm(a, b, bias=bias, activation="relu2")
            np.testing.assert_array_equal(got, np.broadcast_to(np.maximum(bias, 0) ** 2, (m, n)))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu2"])
def test_activation_then_residual(activation: Any) -> None:
    a, b, bias, residual = s.normal(1, (7, 20)), s.normal(2, (20, 33)), s.normal(3, 33), s.normal(4, (7, 33))
    wanted = getattr(k, activation)(k.gemm(a, b, bias=bias))
    oracle.assert_same_bits(k.gemm(a, b, bias=bias, activation=activation), wanted)
    oracle.assert_same_bits(k.gemm(a, b, bias=bias, activation=activation, residual=residual), wanted + residual)
    memory = poison(np.empty((7, 40), np.float32))
    k.gemm(a, b, bias=bias, activation=activation, residual=residual, out=memory[:, 2:35])
    oracle.assert_same_bits(memory[:, 2:35], wanted + residual)


@pytest.mark.parametrize("depth", [64, 1500])
def test_out_may_overlap_the_inputs(table: str, depth: int) -> None:
    m, n = 9, depth
    a, w, bias, residual = s.normal(1, (m, depth)), s.normal(2, (n, depth)), s.normal(3, n), s.normal(4, (m, n))
    with k.isa(table):
        wanted = k.gemm(a, w, trans_b=True, bias=bias, residual=residual)
        out = residual.copy()
        assert k.gemm(a, w, trans_b=True, bias=bias, residual=out, out=out) is out
        oracle.assert_same_bits(out, wanted, "residual is out")
        out = a.copy()
        k.gemm(out, w, trans_b=True, bias=bias, residual=residual, out=out)
        oracle.assert_same_bits(out, wanted, "a is out")
        if depth > 64:
            return
        memory = np.empty((m + 1, n), np.float32)
        memory[:m] = residual
        k.gemm(a, w, trans_b=True, bias=bias, residual=memory[:m], out=memory[1:])
        oracle.assert_same_bits(memory[1:], wanted, "residual a row before out")
        out = np.concatenate([w, w[:1] * 0])
        got = k.gemm(w[:9], out[:n], trans_b=True, out=out[3:12])
        oracle.assert_same_bits(got, k.gemm(w[:9], w, trans_b=True), "b overlaps out")


@pytest.mark.parametrize("distance", [-40, -36, -35, -1, 0, 1, 24, 25, 40, 69, 70])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_plain_product_beside_or_over_its_inputs(distance: int, step: int) -> None:
    """out [5, 5] begins `distance` values after a [5, 7], or a strided b [7, 5]: apart, touching and overlapping."""
    for over_b in (False, True):
        memory = s.normal(1, (300,))
        a, b = memory[100:135].reshape(5, 7), s.normal(2, (7, 5))
        if over_b:
            a, b = (
                s.normal(2, (5, 7)),
                memory[100:170].reshape(7, 10)[:: -1 if step < 0 else 1, : 5 * abs(step) : abs(step)],
            )
        out = memory[100 + distance : 125 + distance].reshape(5, 5)
        wanted = k.gemm(a.copy(), b.copy())
        assert k.gemm(a, b, out=out) is out
        oracle.assert_same_bits(out, wanted, f"over b: {over_b}")


def test_other_buffers_than_plain_arrays() -> None:
    """What is no ndarray, subclasses, types that cannot say what they are: the same product, or the usual error."""
    a, b = s.normal(1, (3, 7)), s.normal(2, (7, 5))
    wanted = k.gemm(a, b)
    for other in (memoryview(a), a.view(np.ma.MaskedArray), np.asfortranarray(a)):
        oracle.assert_same_bits(k.gemm(other, b), wanted)
    half = k.gemm(a.astype(np.float16), b)
    oracle.assert_same_bits(half, k.gemm(a.astype(np.float16).astype(np.float32), b))
    for bad in (a.astype("M8[s]"), a > 0, a.astype(complex), a.astype(">f4")):
        with pytest.raises(TypeError, match="a: "):
            k.gemm(bad, b)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pack_keeps_every_value(table: str, dtype: str) -> None:
    with np.errstate(over="ignore"):
        w = s.special(5, (35, 37)).astype(dtype)
    w[0, :2] = 2.0**-24, -(2.0**-24)
    with k.isa(table):
        for layout in s.LAYOUTS:
            packed = k.pack(s.laid_out(w, layout))
            assert (packed.shape, packed.dtype) == ((35, 37), "float32")
            assert packed.nbytes >= 35 * 37 * 4
            oracle.assert_same_bits(packed.unpack(), w.astype(np.float32), layout)


def test_pack_rounds_to_bfloat16(table: str) -> None:
    every = np.arange(0, 2**32, 65536 // 4 + 3, dtype=np.uint64).astype(np.uint32).view(np.float32)
    w = np.resize(every[np.isfinite(every) & (np.abs(every) < 3e38)], (61, 1001))
    with k.isa(table):
        packed = k.pack(w, "bfloat16")
        oracle.assert_same_bits(packed.unpack(), oracle.bfloat16(w))
        odd = k.pack(np.array([[np.nan, np.inf, -np.inf, 3.4e38, -0.0]], np.float32), "bfloat16").unpack()[0]
    assert np.isnan(odd[0])
    np.testing.assert_array_equal(odd[1:], [np.inf, -np.inf, np.inf, 0.0])


def test_bfloat16_arrays() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    w, a = s.normal(1, (19, 21)).astype(ml_dtypes.bfloat16), s.normal(2, (4, 21)).astype(ml_dtypes.bfloat16)
    packed = k.pack(w)
    assert packed.dtype == "bfloat16"
    for layout in s.LAYOUTS:
        oracle.assert_same_bits(k.pack(s.laid_out(w, layout)).unpack(), w.astype(np.float32), layout)
    oracle.assert_same_bits(k.pack(w.view(np.uint16), source="bfloat16").unpack(), w.astype(np.float32))
    oracle.assert_same_bits(k.pack(w, "float32").unpack(), w.astype(np.float32))
    wanted = k.gemm(a.astype(np.float32), w.astype(np.float32), trans_b=True)
    for b in (packed, w):
        oracle.assert_same_bits(k.gemm(a, b, trans_b=True), wanted)


A, B = np.zeros((3, 4), np.float32), np.zeros((4, 5), np.float32)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "a: .*float64", lambda: k.gemm(A.astype(np.float64), B)),
        (TypeError, "a: .*byte order", lambda: k.gemm(A.astype(">f4"), B)),
        (TypeError, "b: .*int64", lambda: k.gemm(A, B.astype(np.int64))),
        (ValueError, "a: 4 values", lambda: k.gemm(A[:, :3], B)),
        (ValueError, "a: ", lambda: k.gemm(np.float32(1), B)),
        (ValueError, "b: ", lambda: k.gemm(A, B[0])),
        (ValueError, r"bias: shape \[5\]", lambda: k.gemm(A, B, bias=np.zeros(4, np.float32))),
        (TypeError, "bias: ", lambda: k.gemm(A, B, bias=np.zeros(5))),
        (ValueError, r"residual: shape \[3, 5\]", lambda: k.gemm(A, B, residual=np.zeros(5, np.float32))),
        (ValueError, "activation: one of silu", lambda: k.gemm(A, B, activation="selu")),  # type: ignore[arg-type]
        (TypeError, "out: .*float64", lambda: k.gemm(A, B, out=np.zeros((3, 5)))),  # type: ignore[arg-type]
        (TypeError, "out: .*list", lambda: k.gemm(A, B, out=[0.0])),  # type: ignore[arg-type]
        (ValueError, r"out: shape \[3, 5\]", lambda: k.gemm(A, B, out=np.zeros((5, 3), np.float32))),
        (ValueError, "out: rows of contiguous", lambda: k.gemm(A, B, out=np.zeros((5, 3), np.float32).T)),
        (ValueError, "out: rows of contiguous", lambda: k.gemm(A, B, out=np.zeros((3, 5), np.float32)[::-1])),
        (ValueError, "out: .*writable", lambda: k.gemm(A, B, out=np.broadcast_to(np.float32(0), (3, 5)))),
        (ValueError, "w: a matrix", lambda: k.pack(np.zeros(3, np.float32))),
        (TypeError, "w: ", lambda: k.pack(np.zeros((3, 3)))),
        (TypeError, "w: uint16", lambda: k.pack(np.zeros((3, 3), np.float32), source="bfloat16")),
        (ValueError, "dtype: ", lambda: k.pack(np.zeros((3, 3), np.float32), "float64")),  # type: ignore[arg-type]
    ],
)
def test_errors_name_the_argument(error: type[Exception], name: str, call: Any) -> None:
    with pytest.raises(error, match=name):
        call()


@pytest.mark.parametrize("bias", [None, np.zeros(300, np.float32)])
def test_large_results_begin_on_a_cache_line(bias: Any) -> None:
    a, w = s.normal(0, (200, 33)), s.normal(1, (300, 33))
    small, large = k.gemm(a[:2], k.pack(w), bias=bias), k.gemm(a, k.pack(w), bias=bias)
    assert large.ctypes.data % 64 == 0
    assert (large.shape, large.dtype, large.flags.c_contiguous) == ((200, 300), np.float32, True)
    oracle.assert_same_bits(large[:2], small, "however a result lies")


def test_unaligned_memory() -> None:
    a = np.frombuffer(b"x" + s.normal(1, (3, 4)).tobytes(), np.float32, 12, 1).reshape(3, 4)
    oracle.assert_same_bits(k.gemm(a, B + 1), k.gemm(a.copy(), B + 1))
    oracle.assert_same_bits(k.pack(a).unpack(), a.copy())
