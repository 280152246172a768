"""Products with GGUF's quantised weights: packing is lossless, integer sums are exact, the same bits on every table."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_independence import check_every_count, row_by_row

import oracle
import quants as q
import strategies as s
from guard import SIDES, guard, guarded, is_poison
from lanewise import kernels as k
from lanewise.model.gguf_wide import LEVELS
from lanewise.model.quantize import WRITABLE
from tables import usable_tables

# rows of activations: one tile, several, and so many that panels are expanded
ROWS = (1, 2, 3, 4, 5, 6, 7, 13, 24, 57, 97)
SHAPES = [(1, 16, 256), (2, 33, 512), (5, 17, 256), (7, 48, 256), (26, 35, 512), (98, 31, 256)]  # m, n, k
SHORT = [(1, 16, 32), (3, 17, 96), (6, 47, 288), (13, 32, 416), (97, 33, 128)]  # for blocks of 32


def shapes(name: str) -> list[tuple[int, int, int]]:
    return SHAPES + (SHORT if name in q.SMALL else [])


def assert_unpacks(name: str, raw: q.Array) -> None:
    got, wanted = k.pack_blocks(raw, name).unpack(), q.values(name, raw)
    nan = np.isnan(wanted)
    assert (np.isnan(got) == nan).all()
    assert (oracle.bits(got) == oracle.bits(wanted))[~nan].all()


# ---- packing ----


@pytest.mark.parametrize("name", q.NAMES)
@given(seed=s.seeds(), n=st.integers(1, 40), blocks=st.integers(1, 9), extreme=st.booleans())
def test_packing_is_lossless(name: str, seed: int, n: int, blocks: int, extreme: bool) -> None:
    depth = blocks * q.KINDS[name].block
    assert_unpacks(name, q.blocks(name, n, depth, seed, q.HALVES if extreme else None))


@pytest.mark.parametrize("name", q.NAMES)
def test_every_code(name: str) -> None:
    """Each byte of a block takes all 256 values, beside each of the scales."""
    kind = q.KINDS[name]
    for seed, half in enumerate(q.HALVES):
        start = np.random.default_rng(seed).integers(0, 256, kind.size)
        raw = ((start + np.arange(256)[:, None]) % 256).astype(np.uint8)
        for at in q.SCALES[name]:
            raw[:, at : at + 2] = np.array([half], "<u2").view(np.uint8)
        assert_unpacks(name, raw)


@pytest.mark.parametrize("name", q.NAMES)
def test_packed_is_as_large_as_the_file(name: str) -> None:
    raw = q.blocks(name, 64, 1024)
    assert raw.nbytes <= k.pack_blocks(raw, name).nbytes <= 1.02 * raw.nbytes


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="dtype"):
        k.pack_blocks(np.zeros((1, 18), np.uint8), "q4_2")
    with pytest.raises(ValueError, match="18 bytes"):
        k.pack_blocks(np.zeros((1, 17), np.uint8), "q4_0")
    with pytest.raises(ValueError, match="matrix"):
        k.pack_blocks(np.zeros(18, np.uint8), "q4_0")
    with pytest.raises(TypeError, match="uint8"):
        k.pack_blocks(np.zeros((1, 18), np.int8), "q4_0")
    empty = k.pack_blocks(np.zeros((3, 0), np.uint8), "q4_0")
    assert k.gemm(np.zeros((2, 0), np.float32), empty).tolist() == [[0] * 3] * 2


# ---- from float32, and back ----

WRITTEN = [name for name in q.NAMES if name.upper() in WRITABLE]


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=5)
@given(n=st.integers(0, 9), blocks=st.integers(1, 3), seed=s.seeds())
def test_quantize_pack_and_dequantize_agree(name: str, n: int, blocks: int, seed: int) -> None:
    w = s.normal(seed, (n, blocks * q.KINDS[name].block))
    raw = k.quantize(w, name)
    assert (raw.dtype, raw.shape) == (np.uint8, (n, blocks * q.KINDS[name].size))
    wanted = k.dequantize(raw, name)
    assert q.nmse(wanted, w) < (0.2 if name == "q2_k" else 0.1)
    oracle.assert_same_bits(k.pack(w, name).unpack(), wanted, name)
    oracle.assert_same_bits(k.pack_blocks(raw, name).unpack(), wanted, name)


@pytest.mark.parametrize("name", sorted(q.STORED.keys() - set(LEVELS)))
def test_dequantize_is_the_formats_definition(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    raw = q.blocks(name, 3, 512, 7)
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name.upper()])
    oracle.assert_same_bits(k.dequantize(raw, name), wanted, name)


def test_quantize_weighs_errors_and_widens() -> None:
    w, importance = s.normal(1, (4, 256)), np.where(np.arange(256) % 32 == 5, 1.0, 1e-3)

    def error(raw: q.Array) -> float:
        return float(((k.dequantize(raw, "q4_0") - w)[:, importance == 1] ** 2).sum())

    assert error(k.quantize(w, "q4_0", importance=importance)) < error(k.quantize(w, "q4_0"))
    half = w.astype(np.float16)
    np.testing.assert_array_equal(k.quantize(half, "q8_0"), k.quantize(half.astype(np.float32), "q8_0"))
    bits = (w.view(np.uint32) >> 16).astype(np.uint16)
    widened = (bits.astype(np.uint32) << 16).view(np.float32)
    oracle.assert_same_bits(
        k.pack(bits, "q8_0", source="bfloat16").unpack(), k.pack(widened, "q8_0").unpack(), "bfloat16"
    )


def test_what_cannot_be_quantized() -> None:
    w = np.zeros((2, 64), np.float32)
    for call in (k.quantize, k.pack, k.dequantize):
        with pytest.raises(ValueError, match=r"dtype.*q4_0.*got 'q4_2'"):
            call(w, "q4_2")
    with pytest.raises(ValueError, match="256"):
        k.quantize(w, "q4_k")
    with pytest.raises(ValueError, match="matrix"):
        k.quantize(w[0], "q4_0")
    with pytest.raises(ValueError, match=r"\[1, 6\] is nan"):
        k.quantize(np.where(np.arange(128).reshape(2, 64) == 70, np.nan, w), "q4_0")
    with pytest.raises(ValueError, match="importance"):
        k.quantize(w, "q4_0", importance=np.ones(63))
    with pytest.raises(TypeError, match="float"):
        k.quantize(w.astype(np.int8), "q4_0")
    with pytest.raises(ValueError, match="scales"):
        k.pack(w, "q4_0", scales=np.ones(2, np.float32))
    with pytest.raises(TypeError, match="uint8"):
        k.dequantize(w, "q4_0")
    with pytest.raises(ValueError, match="18 bytes"):
        k.dequantize(np.zeros((1, 17), np.uint8), "q4_0")


# ---- products ----


def check_product(table: str, name: str, m: int, n: int, depth: int, kind: str = "normal", seed: int = 0) -> None:
    """Against float64 over the same quantised operands."""
    raw, a = q.blocks(name, n, depth, seed), s.values(seed + 1, (m, depth), kind)
    bias, residual = s.normal(seed + 2, n), s.normal(seed + 3, (m, n))
    weights = q.values(name, raw)
    wanted = q.product(a, weights, name)
    with k.isa(table):
        packed = k.pack_blocks(raw, name)
        got = k.gemm(a, packed)
        assert q.close(got, wanted, a, weights, name)
        late = k.gemm(a, packed, bias=bias, residual=residual)
        oracle.assert_same_bits(late, got + bias + residual, "bias, then residual")


def check_exact(table: str, name: str, m: int, depth: int, extreme: bool, seed: int = 0) -> None:
    """Whole activations with a 127 in each group, scales of one: every float is a whole number below 2^24."""
    random = np.random.default_rng(seed)
    raw = q.blocks(name, 33, depth, seed, [0x3C00, 0xBC00])
    if name == "q4_k" or name == "q5_k":
        raw.reshape(-1, q.KINDS[name].size)[:, 4:16] &= 0x45  # small sub-scales
    elif name == "q6_k":
        raw.reshape(-1, 210)[:, 192:208] = random.choice(np.array([1, 255, 7, 0], np.uint8), (raw.size // 210, 16))
    elif name in LEVELS:
        raw.reshape(-1, 148)[:, 4:20] = random.choice(np.array([1, 255, 7, 0], np.uint8), (raw.size // 148, 16))
    elif name == "mxfp4":
        raw.reshape(-1, 17)[:, 0] = 128
    if extreme:
        codes = raw.reshape(-1, q.KINDS[name].size)[:, {"q5_0": 2, "q4_1": 4, "q5_1": 4}.get(name, 2) :]
        if name in q.SMALL and name != "mxfp4":
            codes[...] = random.choice(np.array([0, 255], np.uint8), (len(codes), 1))
    a = random.integers(-127, 128, (m, depth)).astype(np.float32)
    if extreme:
        a = random.choice(np.array([-127, 127], np.float32), (m, 1)) * np.ones((1, depth), np.float32)
    a[:, ::32] = 127
    wanted = a.astype(np.int64) @ q.values(name, raw).astype(np.int64).T
    with k.isa(table):
        got = k.gemm(a, k.pack_blocks(raw, name))
    assert np.abs(wanted).max() < 1 << 24
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", q.NAMES)
def test_product(table: str, name: str) -> None:
    for shape in shapes(name):
        check_product(table, name, *shape)


@pytest.mark.parametrize("name", q.NAMES)
@settings(max_examples=15)
@given(m=s.rows(), n=st.integers(1, 50), blocks=st.integers(1, 5), kind=s.kinds(), seed=s.seeds())
@example(m=2, n=1, blocks=5, kind="equal", seed=12904)  # iq3_xxs_w: a sum of 5.6 from terms of 20000
def test_product_drawn(name: str, m: int, n: int, blocks: int, kind: str, seed: int) -> None:
    depth = blocks * q.KINDS[name].block
    if kind != "tiny":  # products of subnormals lose digits by right
        check_product(k.tables()[0], name, m, n, depth, kind, seed)


@pytest.mark.parametrize("name", q.NAMES)
def test_integer_sums_are_exact(table: str, name: str) -> None:
    for m, depth, extreme in itertools.product((1, 6, 98), (256,), (False, True)):
        check_exact(table, name, m, depth, extreme)


@pytest.mark.parametrize("name", [name for name in q.NAMES if name not in q.SMALL])
def test_sub_scales_are_part_of_one_integer(table: str, name: str) -> None:
    """Rounded once, times d once, times the activations' scale once, whatever the sub-scales; the largest sums too."""
    raw, a, (d, *dmin) = q.blocks(name, 40, 256, 3), s.normal(4, (98, 256)), q.SCALES[name] or [0]
    size, kind = (4, "<f4") if name in LEVELS else (2, "<f2")
    d_bytes = np.arange(d, d + size)
    others = np.setdiff1d(np.arange(raw.shape[1]), [*d_bytes, *dmin, *(np.array(dmin, int) + 1)])
    raw[:10, others] = np.array([0, 255, 0, 255, 0x0F, 0xF0, 0xAA, 0x55, 0x7F, 0x80], np.uint8)[:, None]
    a[::7], a[1::7] = 127, -127
    for at in dmin:
        raw[:, at : at + 2] = 0
    codes, scales = q.quantised(a, name)
    whole = raw.copy()
    whole[:, d_bytes] = np.ones(1, kind).view(np.uint8)
    sums = codes @ q.values(name, whole).astype(np.int64).T
    assert 1 << 20 < np.abs(sums).max() < 1 << 31
    wanted = sums.astype(np.float32) * raw[:, d_bytes].copy().view(kind).astype(np.float32)[:, 0]
    with k.isa(table):
        packed = k.pack_blocks(raw, name)
        for rows in (1, 6, 40, 98):
            got = k.gemm(a[:rows], packed)
            np.testing.assert_array_equal(got, (wanted * scales[:, :1].astype(np.float32))[:rows])


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "q4_k", "q6_k"])
def test_activations_that_are_not_finite_or_tiny(table: str, name: str) -> None:
    raw, a = q.blocks(name, 20, 512), s.normal(1, (8, 512))
    for value, row in ((np.nan, 1), (np.inf, 3), (-np.inf, 6)):
        spoiled = a.copy()
        spoiled[row, 300] = value
        with k.isa(table):
            packed = k.pack_blocks(raw, name)
            got, plain = k.gemm(spoiled, packed), k.gemm(a, packed)
        assert np.isnan(got[row]).all()
        others = np.arange(8) != row
        oracle.assert_same_bits(got[others], plain[others], "the other rows")
    a[2], a[4, :256] = 0, 2.0**-101
    with k.isa(table):
        got = k.gemm(a, packed)
    assert (got[2] == 0).all()
    a[4, :256] = 0
    with k.isa(table):
        oracle.assert_same_bits(got, k.gemm(a, packed), "a group below 2^-100 counts as zero")


# ---- the same bits ----


def check_rows(table: str, name: str, n: int, depth: int, seed: int = 0) -> None:
    """Row i is the same in any company: one tile or several, planes or expanded panels, and in any order."""
    raw, a = q.blocks(name, n, depth, seed), s.normal(seed + 1, (max(ROWS), depth))
    order = np.random.default_rng(seed).permutation(len(a))
    with k.isa(table):
        packed = k.pack_blocks(raw, name)
        whole = k.gemm(a, packed)
        for m in ROWS:
            oracle.assert_same_bits(k.gemm(a[:m], packed), whole[:m], f"{m} rows")
        oracle.assert_same_bits(k.gemm(a[order], packed), whole[order], "order")


@pytest.mark.parametrize("name", q.NAMES)
def test_rows_are_independent(table: str, name: str) -> None:
    check_rows(table, name, 37, 512)


@functools.cache
def one_by_one(name: str) -> tuple[k.PackedMatrix, q.Array, q.Array]:
    """Weights of 18 panels, which threads share, the last one and, where the type can, k in part; rows of activations;
    the products of each row by itself in scalar C."""
    depth = 544 if name in q.SMALL else 512
    packed, a = k.pack_blocks(q.blocks(name, 277, depth, 1), name), s.normal(6, (64, depth))
    return packed, a, row_by_row("scalar", packed, a)


@pytest.mark.parametrize("name", q.NAMES)
def test_rows_threads_and_tables(table: str, name: str) -> None:
    """1 to 64 rows on 1 to 8 threads: the bits of the scalar table, of one row on one thread."""
    check_every_count(table, *one_by_one(name), every=not table.startswith(("scalar", "emulated_")))


@pytest.mark.parametrize("name", q.NAMES)
def test_tables_agree(name: str) -> None:
    for m, n, depth in shapes(name):
        raw, a = q.blocks(name, n, depth, m), s.normal(n, (m, depth))
        got = {}
        for table in usable_tables():
            with k.isa(table):
                got[table] = k.gemm(a, k.pack_blocks(raw, name))
        for table, c in got.items():
            oracle.assert_same_bits(c, got["scalar"], f"{table} {m} x {n} x {depth}")


def test_scales_that_are_not_finite(table: str) -> None:
    """Infinity stays infinity on tile registers, where finite scales go another way; other outputs do not change."""
    a, m = s.normal(3, (98, 512)), 98
    raw = q.blocks("q8_0", 40, 512)
    spoiled = raw.copy()
    for row, value in ((3, np.inf), (20, -np.inf), (37, np.nan)):
        spoiled[row, 34 * 5 : 34 * 5 + 2] = np.array([value], "<f2").view(np.uint8)
    with k.isa("scalar"):
        wanted = k.gemm(a, k.pack_blocks(spoiled, "q8_0"))
        plain = k.gemm(a, k.pack_blocks(raw, "q8_0"))
    with k.isa(table):
        got = k.gemm(a, k.pack_blocks(spoiled, "q8_0"))
    for row in (3, 20):
        assert np.isinf(wanted[:, row]).sum() > m // 2
    assert np.isnan(got[:, 37]).all()
    np.testing.assert_array_equal(got, wanted)
    others = ~np.isin(np.arange(40), (3, 20, 37))
    oracle.assert_same_bits(got[:, others], plain[:, others], "the other outputs")


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "q4_k", "q2_k"])
def test_threads_do_not_matter(name: str) -> None:
    raw = q.blocks(name, 200, 2048)
    for m in (1, 5, 40, 100):
        a = s.normal(m, (m, 2048))
        with k.threads(1):
            packed = k.pack_blocks(raw, name)
            wanted = k.gemm(a, packed)
        for threads in (2, 3):
            with k.threads(threads):
                oracle.assert_same_bits(k.gemm(a, packed), wanted, f"{threads} threads, {m} rows")
                oracle.assert_same_bits(k.pack_blocks(raw, name).unpack(), packed.unpack(), "packing")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["q4_0", "q5_1", "q6_k", "iq4_xs", "iq2_w"])
def test_nothing_beyond_the_ends_is_touched(table: str, name: str, side: str) -> None:
    for m, n, depth in [(1, 17, 256), (7, 33, 512), (98, 15, 256)]:
        raw, a = guard(q.blocks(name, n, depth), side), guard(s.normal(1, (m, depth)), side)
        bias, out = guard(s.normal(2, n), side), guarded((m, n), side=side)
        with k.isa(table):
            k.gemm(a, k.pack_blocks(raw, name), bias=bias, out=out)
        assert not is_poison(out).any()
