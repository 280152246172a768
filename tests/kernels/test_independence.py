"""The same bits: whatever the other rows, their order, the padding, the threads, the cuts of a prompt, the table."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paged import Paged

import oracle
import strategies as s
from lanewise import kernels as k
from tables import usable_tables

THREADS = range(2, 9)
ROWS = 64
DTYPES = st.sampled_from(["float32", "bfloat16"])


def check_gemm_rows(table: str, m: int, n: int, depth: int, dtype: str = "float32", seed: int = 0) -> None:
    """Row i of a product is the product of row i, in any order and any company."""
    a, w = s.normal(seed, (m, depth)), s.normal(seed + 1, (n, depth))
    bias, residual = s.normal(seed + 2, n), s.normal(seed + 3, (m, n))
    order = np.random.default_rng(seed).permutation(m)
    with k.isa(table):
        packed = k.pack(w, dtype)
        for exact in (True, False):
            whole = k.gemm(a, packed, bias=bias, residual=residual, exact=exact)
            for i in {0, m // 2, m - 1} if m else ():
                alone = k.gemm(a[i : i + 1], packed, bias=bias, residual=residual[i : i + 1], exact=exact)
                oracle.assert_same_bits(alone, whole[i : i + 1], f"row {i}")
            shuffled = k.gemm(a[order], packed, bias=bias, residual=residual[order], exact=exact)
            oracle.assert_same_bits(shuffled, whole[order], "order")


def check_every_count(
    table: str, packed: k.PackedMatrix, a: np.ndarray, wanted: np.ndarray, every: bool = True, exact: bool = True
) -> None:
    """Products of 1 to ROWS rows on 1 to 8 threads are made of `wanted`, a row each. every: all pairs of both; else
    each number of rows on one thread and on one other number of them."""
    with k.isa(table):
        for n_threads in range(1, 9):
            with k.threads(n_threads):
                for m in range(1, ROWS + 1):
                    if every or n_threads in (1, 2 + m % 7):
                        got = k.gemm(a[ROWS - m :], packed, exact=exact)
                        oracle.assert_same_bits(got, wanted[ROWS - m :], f"{m} rows, {n_threads} threads")


def row_by_row(table: str, packed: k.PackedMatrix, a: np.ndarray, exact: bool = True) -> np.ndarray:
    """The products of a's rows, each by itself on one thread."""
    with k.isa(table), k.threads(1):
        return np.concatenate([k.gemm(row[None], packed, exact=exact) for row in a])


def check_gemm_columns(table: str, m: int, n: int, depth: int, dtype: str = "float32") -> None:
    """Column j does not depend on the other columns."""
    a, w = s.normal(1, (m, depth)), s.normal(2, (n, depth))
    with k.isa(table):
        whole = k.gemm(a, k.pack(w, dtype))
        for first, last in ((0, n // 2), (n // 2, n), (n // 3, n // 3 + 1)):
            oracle.assert_same_bits(k.gemm(a, k.pack(w[first:last], dtype)), whole[:, first:last])


def check_gemm_threads(table: str, m: int, n: int, depth: int, dtype: str = "float32", seed: int = 0) -> None:
    a, w = s.normal(seed, (m, depth)), s.normal(seed + 1, (n, depth))
    with k.isa(table):
        packed = k.pack(w, dtype)
        for exact in (True, False):
            with k.threads(1):
                wanted = k.gemm(a, packed, exact=exact)
            for n_threads in THREADS:
                with k.threads(n_threads):
                    oracle.assert_same_bits(k.gemm(a, packed, exact=exact), wanted, f"{n_threads} threads")
                    oracle.assert_same_bits(k.pack(w, dtype).unpack(), packed.unpack(), "packing")


def sequences(seed: int, batch: int, length: int, heads: int, kv_heads: int, d: int) -> tuple[np.ndarray, ...]:
    return tuple(s.normal(seed + i, (batch, length, h, d)) for i, h in enumerate((heads, kv_heads, kv_heads)))


def check_attention_rows(
    table: str,
    length: int,
    heads: int,
    kv_heads: int,
    d: int,
    kind: str = "float32",
    window: tuple[int, int] = (-1, -1),
    seed: int = 0,
) -> None:
    """Sequences of different lengths in one call, in any order, give what each gives alone."""
    q, key, v = sequences(seed, 3, length, heads, kv_heads, d)
    with k.isa(table):
        paged = Paged(3, length, kv_heads, d, kind, seed=seed)
        paged.append(key, v, [0, 0, 0])
        for exact in (True, False):
            pieces = [q[0], q[1, length // 3 :], q[2, length - 1 :]]
            first = [0, length // 3, length - 1]
            together, lse = paged.attend(pieces, first, window=window, exact=exact)
            for i in range(3):
                alone, alone_lse = paged.attend([pieces[i]], [first[i]], [i], window=window, exact=exact)
                oracle.assert_same_bits(together[i], alone[0], f"sequence {i}")
                oracle.assert_same_bits(lse[i], alone_lse[0], f"lse {i}")
            swapped, _ = paged.attend(pieces[::-1], first[::-1], [2, 1, 0], window=window, exact=exact)
            for i in range(3):
                oracle.assert_same_bits(swapped[2 - i], together[i], f"order {i}")


def check_attention_phases(
    table: str,
    cuts: list[int],
    heads: int,
    kv_heads: int,
    d: int,
    kind: str = "float32",
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    seed: int = 0,
) -> None:
    """Appended and attended in pieces of any length: the bits of the whole."""
    length = cuts[-1]
    q, key, v = sequences(seed, 1, length, heads, kv_heads, d)
    with k.isa(table):
        for exact in (True, False):
            whole = Paged(1, length, kv_heads, d, kind)
            whole.append(key, v, [0])
            (wanted,), (wanted_lse,) = whole.attend([q[0]], [0], window=window, softcap=softcap, exact=exact)
            pieces = Paged(1, length, kv_heads, d, kind, seed=seed + 1)
            for first, last in itertools.pairwise(cuts):
                pieces.append(key[:, first:last], v[:, first:last], [first])
                if first < last:
                    (got,), (lse,) = pieces.attend(
                        [q[0, first:last]], [first], window=window, softcap=softcap, exact=exact
                    )
                    oracle.assert_same_bits(got, wanted[first:last], f"rows {first} to {last}")
                    oracle.assert_same_bits(lse, wanted_lse[first:last], f"lse {first} to {last}")


def check_attention_threads(
    table: str, lq: int, lk: int, heads: int, kv_heads: int, d: int, causal: bool = True, low: bool = False
) -> None:
    """Also where few rows and many keys are shared out by segments."""
    q, key, v = s.normal(1, (1, lq, heads, d)), s.normal(2, (1, lk, kv_heads, d)), s.normal(3, (1, lk, kv_heads, d))
    if low:
        dtype = pytest.importorskip("ml_dtypes").bfloat16
        key, v = key.astype(dtype), v.astype(dtype)
    with k.isa(table):
        for exact in (True, False):
            with k.threads(1):
                wanted, wanted_lse = k.attention(q, key, v, causal=causal, return_lse=True, exact=exact)
            for n_threads in THREADS:
                with k.threads(n_threads):
                    got, lse = k.attention(q, key, v, causal=causal, return_lse=True, exact=exact)
                oracle.assert_same_bits(got, wanted, f"{n_threads} threads")
                oracle.assert_same_bits(lse, wanted_lse, f"lse, {n_threads} threads")


def everything(table: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Every kernel once, with special values where they may be."""
    x, up, w, b = s.special(1, (3, 77)), s.normal(2, (3, 77)), s.normal(3, 77), s.normal(4, 77)
    tame, rotary = s.values(5, (3, 77), "wide"), s.normal(6, (5, 3, 34))
    q, key, v = s.normal(7, (2, 9, 4, 33)), s.normal(8, (2, 301, 2, 33)), s.normal(9, (2, 301, 2, 33))
    a, m = s.values(10, (13, 65), "wide"), s.values(11, (35, 65), "wide")
    every = np.concatenate(
        [
            np.arange(0, 2**32, 3_000_017, dtype=np.uint64).astype(np.uint32).view(np.float32),
            np.arange(-20, 20, 0.05, dtype=np.float32),
        ]
    )
    if dtype == "bfloat16":
        kind = pytest.importorskip("ml_dtypes").bfloat16
        key, v = key.astype(kind), v.astype(kind)
    with k.isa(table):
        packed = k.pack(m, dtype)
        out = {
            "unpack": packed.unpack(),
            "gemm": k.gemm(a, packed),
            "gemm, one row": k.gemm(a[:1], packed),
            "gemm, special": k.gemm(s.special(12, (5, 65), 0.01), packed),
            "gemm, bias": k.gemm(a, packed, bias=m[:35, 0]),
            "rms_norm": k.rms_norm(tame, w),
            "rms_norm, tiny": k.rms_norm(s.values(13, (2, 40), "tiny")),
            "layer_norm": k.layer_norm(tame, w, b),
            "layer_norm, no weight": k.layer_norm(up),
            "softmax": k.softmax(tame),
            "rope": k.rope(rotary, np.arange(5) * 99_991),
            "rope, interleaved": k.rope(rotary, np.arange(5) * 99_991, pairing="interleaved", factor=0.7),
            "silu_mul": k.silu_mul(x, up),
            "gelu_mul": k.gelu_mul(x, up),
        }
        for name in ("exp", "tanh", "silu", "gelu", "gelu_tanh", "relu2"):
            out[name] = getattr(k, name)(every)
        for name, options in {
            "": {},
            ", causal": {"causal": True},
            ", window": {"window": (37, 5)},
            ", softcap": {"softcap": 3.0},
            ", long": {"scale": 3.0},
        }.items():
            o, lse = k.attention(q, key, v, return_lse=True, **options)
            out["attention" + name], out["lse" + name] = o, lse
    return {name: np.where(np.isnan(y), np.float32(np.nan), y) for name, y in out.items()}  # any NaN is a NaN


def check_tables(table: str, reference: str, dtype: str = "float32") -> None:
    ours, theirs = everything(table, dtype), everything(reference, dtype)
    for name, y in ours.items():
        oracle.assert_same_bits(y, theirs[name], f"{name}: {table} and {reference}")


@given(m=s.rows(), n=s.columns(50), depth=s.depths(130), dtype=DTYPES, seed=s.seeds())
def test_gemm_rows(table: str, m: int, n: int, depth: int, dtype: str, seed: int) -> None:
    check_gemm_rows(table, m, n, depth, dtype, seed)


@pytest.mark.parametrize("depth", [1, 600, 2100])
def test_gemm_rows_of_every_number(table: str, depth: int) -> None:
    """Every number of rows up to several tiles, across blocks of k, against each row by itself."""
    a, w = s.normal(1, (ROWS, depth)), s.normal(2, (17, depth))
    bias, residual = s.normal(3, 17), s.normal(4, (ROWS, 17))
    with k.isa(table):
        packed = k.pack(w)
        rows = [k.gemm(a[i : i + 1], packed, bias=bias, residual=residual[i : i + 1]) for i in range(ROWS)]
        wanted = np.concatenate(rows)
        for m in range(1, ROWS + 1):
            got = k.gemm(a[:m], packed, bias=bias, residual=residual[:m])
            oracle.assert_same_bits(got, wanted[:m], f"{m} rows")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bfloat16, fast", "int8", "int8 sums"])
def test_rows_threads_and_tables(table: str, kind: str) -> None:
    """1 to 64 rows on 1 to 8 threads: the bits of the scalar table, of one row on one thread. Ten panels, the last one
    and k in part, are as few as threads share; without the rounding of `fast` every table has the same bits."""
    dtype, exact = kind.split(maxsplit=1)[0].rstrip(","), kind != "bfloat16, fast"
    a, w = s.normal(1, (ROWS, 71)), s.normal(2, (149, 71))
    if kind == "int8 sums":
        a, w = np.rint(np.clip(20 * a, -128, 127)).astype(np.int8), np.rint(np.clip(20 * w, -128, 127)).astype(np.int8)
    packed = k.pack(w, dtype)
    wanted = row_by_row("scalar" if exact else table, packed, a, exact)
    assert wanted.dtype == (np.int32 if kind == "int8 sums" else np.float32)
    check_every_count(table, packed, a, wanted, exact=exact)


@pytest.mark.parametrize("depth", [1, 31, 64, 200])
def test_fast_rows_of_every_number(table: str, depth: int) -> None:
    """The same for the CPU's dot product of bfloat16; a whole tile of tile registers has 32 rows."""
    a, w, residual = s.normal(1, (67, depth)), s.normal(2, (35, depth)), s.normal(3, (67, 35))
    with k.isa(table):
        packed = k.pack(w, "bfloat16")
        whole = k.gemm(a, packed, residual=residual, exact=False)
        for m in (*range(1, 36), 63, 64, 65):
            got = k.gemm(a[-m:], packed, residual=residual[-m:], exact=False)
            oracle.assert_same_bits(got, whole[-m:], f"{m} rows")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("m", "n", "depth"), [(1, 33, 40), (14, 97, 33), (5, 200, 7)])
def test_gemm_columns(table: str, m: int, n: int, depth: int, dtype: str) -> None:
    check_gemm_columns(table, m, n, depth, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("m", "n", "depth"), [(1, 400, 129), (3, 100, 130), (70, 50, 65), (40, 40, 700), (133, 50, 4900)]
)
def test_gemm_threads(table: str, m: int, n: int, depth: int, dtype: str) -> None:
    check_gemm_threads(table, m, n, depth // 4 if table == "scalar" else depth, dtype)


HEADS = st.sampled_from([(1, 1), (2, 1), (4, 2), (7, 1)])


@given(length=s.lengths().filter(bool), heads=HEADS, d=s.head_dims(33), kind=DTYPES, window=s.windows(), seed=s.seeds())
def test_attention_rows(
    table: str, length: int, heads: tuple[int, int], d: int, kind: str, window: tuple[int, int], seed: int
) -> None:
    check_attention_rows(table, min(length, 70) if table == "scalar" else length, *heads, d, kind, window, seed)


@given(
    cuts=st.sampled_from([5, 17, 63, 64, 65, 128, 257, 300]).flatmap(s.cuts),
    heads=HEADS,
    d=s.head_dims(33),
    kind=DTYPES,
    window=s.windows(),
    softcap=st.sampled_from([0.0, 5.0]),
    seed=s.seeds(),
)
def test_attention_phases(
    table: str,
    cuts: list[int],
    heads: tuple[int, int],
    d: int,
    kind: str,
    window: tuple[int, int],
    softcap: float,
    seed: int,
) -> None:
    if window[1] > 0:
        window = (window[0], -1)  # keys to the right are not there yet: causal
    check_attention_phases(table, cuts, *heads, d, kind, window, softcap, seed)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [(-1, -1), (20, -1)])
def test_attention_token_by_token(table: str, kind: str, window: tuple[int, int]) -> None:
    check_attention_phases(table, list(range(71)), 2, 1, 17, kind, window)
    if table != "scalar":
        check_attention_phases(table, [0, 250, *range(251, 262), 300], 3, 1, 16, kind, window)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize(
    ("lq", "lk", "causal"), [(1, 1500, True), (3, 700, False), (130, 130, True), (40, 600, True), (1, 256, True)]
)
def test_attention_threads(table: str, lq: int, lk: int, causal: bool, low: bool) -> None:
    check_attention_threads(table, min(lq, 20) if table == "scalar" else lq, lk, 2, 1, 16, causal, low)


def test_row_kernels_and_threads(table: str) -> None:
    x = s.normal(1, (300, 96))
    with k.isa(table):
        for f in (k.rms_norm, k.layer_norm, k.softmax, k.silu, lambda x: k.rope(x.reshape(300, 3, 32), np.arange(300))):
            with k.threads(1):
                wanted = f(x)
                if f in (k.rms_norm, k.layer_norm, k.softmax):
                    oracle.assert_same_bits(np.concatenate([f(x[i : i + 1]) for i in range(40)]), wanted[:40])
            for n in THREADS:
                with k.threads(n):
                    oracle.assert_same_bits(f(x), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tables_agree(table: str, dtype: str) -> None:
    """ISA independence: the bits of the scalar table, which is plain C."""
    if table == "scalar":
        pytest.skip("this is the reference")
    assert "scalar" in usable_tables()
    check_tables(table, "scalar", dtype)


@given(m=s.rows(), n=s.columns(40), depth=s.depths(66), dtype=DTYPES, seed=s.seeds())
def test_tables_agree_on_products(m: int, n: int, depth: int, dtype: str, seed: int) -> None:
    a, w = s.values(seed, (m, depth), "wide"), s.normal(seed + 1, (n, depth))
    results = []
    for table in usable_tables():
        with k.isa(table):
            results.append(k.gemm(a, k.pack(w, dtype)))
    for got in results[1:]:
        oracle.assert_same_bits(got, results[0])


def test_threads_of_the_caller() -> None:
    """Many Python threads at once: contexts serve one call at a time, settings belong to their thread."""
    a, w = s.normal(1, (9, 130)), s.normal(2, (50, 130))
    wanted, wanted_norm = k.gemm(a, w, trans_b=True), k.rms_norm(a)
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            with k.isa(usable_tables()[i % len(usable_tables())]), k.threads(1 + i % 2):
                for _ in range(20):
                    oracle.assert_same_bits(k.gemm(a, w, trans_b=True), wanted)
                    oracle.assert_same_bits(k.rms_norm(a), wanted_norm)
                    assert k.context().isa == usable_tables()[i % len(usable_tables())]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
