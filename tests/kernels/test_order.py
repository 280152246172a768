"""Quantised weights with their inputs in another order: the product of the gathered activations, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import quants as q
import strategies as s
from guard import SIDES, guard
from lanewise import _native
from lanewise import kernels as k
from tables import usable_tables

ROWS = (1, 2, 5, 6, 7, 24, 97)
DEPTHS = {True: (32, 96, 384, 416, 512), False: (256, 768)}  # of types with blocks of 32, and of 256


def context(table: str | None = None, threads: int = 1) -> _native.Context:
    return _native.Context(table, threads)


def packed(ctx: _native.Context, name: str, raw: q.Array, order: Any = None) -> _native.Weight:
    """raw: blocks whose column i is the weight of input order[i]."""
    depth = raw.shape[1] // q.KINDS[name].size * q.KINDS[name].block
    weight = _native.Weight(name, len(raw), depth, order=order)
    weight.pack(ctx, raw, "blocks")
    return weight


def gemm(ctx: _native.Context, a: q.Array, w: _native.Weight, **given: Any) -> q.Array:
    out = np.full((len(a), given.get("gated") or w.n), np.nan, np.float32)
    _native.gemm(ctx, a, w, out, **given)
    return out


def shuffled(depth: int, seed: int = 0) -> q.Array:
    return np.random.default_rng(seed).permutation(depth).astype(np.int32)


@pytest.mark.parametrize("name", q.NAMES)
def test_gathered_then_multiplied(table: str, name: str) -> None:
    """The bits of the product of gathered activations, on every table; near float64 over the same operands."""
    for depth in DEPTHS[name in q.SMALL]:
        raw, order = q.blocks(name, 37, depth), shuffled(depth)
        ctx, plain = context(table), context("scalar")
        weight, straight = packed(ctx, name, raw, order), packed(plain, name, raw)
        a = s.normal(depth, (max(ROWS), depth))
        gathered = np.ascontiguousarray(a[:, order])
        wanted = gemm(plain, gathered, straight)
        assert q.nmse(wanted, q.product(gathered, q.values(name, raw), name)) <= 1e-11
        for m in ROWS:
            oracle.assert_same_bits(gemm(ctx, a[:m], weight), wanted[:m], f"{m} x {depth}")


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0", "q4_k"])
@settings(max_examples=20)
@given(m=s.rows(), n=st.integers(1, 50), blocks=st.integers(1, 5), seed=s.seeds(), threads=st.integers(1, 3))
def test_drawn(name: str, m: int, n: int, blocks: int, seed: int, threads: int) -> None:
    depth = blocks * q.KINDS[name].block
    raw, order, a = q.blocks(name, n, depth, seed), shuffled(depth, seed), s.normal(seed + 1, (m, depth))
    wanted = gemm(context("scalar"), np.ascontiguousarray(a[:, order]), packed(context(), name, raw))
    for table in usable_tables():
        ctx = context(table, threads)
        oracle.assert_same_bits(gemm(ctx, a, packed(ctx, name, raw, order)), wanted, table)


def test_threads_do_not_matter() -> None:
    raw, order = q.blocks("q4_0", 300, 2048), shuffled(2048)
    for m in (1, 5, 40, 100):
        a = s.normal(m, (m, 2048))
        wanted = gemm(context(), a, packed(context(), "q4_0", raw, order))
        for threads in (2, 3):
            ctx = context(None, threads)
            oracle.assert_same_bits(
                gemm(ctx, a, packed(ctx, "q4_0", raw, order)), wanted, f"{threads} threads, {m} rows"
            )


def test_what_else_a_product_does(table: str) -> None:
    """Bias, residual, gate; a row that is not finite spoils no other."""
    ctx, order = context(table), shuffled(288)
    raw, a = q.blocks("q5_0", 64, 288), s.normal(1, (9, 288))
    weight, straight, gathered = packed(ctx, "q5_0", raw, order), packed(ctx, "q5_0", raw), a[:, order].copy()
    extra: list[dict[str, Any]] = [
        {"bias": s.normal(2, 64), "residual": s.normal(3, (9, 64)), "act": "silu"}, {"gated": 32, "act": "silu"},
    ]  # fmt: skip
    for given_ in extra:
        wanted = gemm(ctx, gathered, straight, **given_)
        oracle.assert_same_bits(gemm(ctx, a, weight, **given_), wanted, str(given_.keys()))
    spoiled = a.copy()
    spoiled[4, 100] = np.inf
    got, others = gemm(ctx, spoiled, weight), np.arange(9) != 4
    assert np.isnan(got[4]).all()
    oracle.assert_same_bits(got[others], gemm(ctx, a, weight)[others], "the other rows")


@pytest.mark.parametrize("side", SIDES)
def test_nothing_beyond_the_ends_is_read(table: str, side: str) -> None:
    for name, depth in (("q4_0", 96), ("q8_0", 256), ("q6_k", 256)):
        ctx, order = context(table, 2), guard(shuffled(depth), side)
        weight = packed(ctx, name, q.blocks(name, 17, depth), order)
        for m in (1, 7, 98):
            a = s.normal(1, (m, depth))
            oracle.assert_same_bits(gemm(ctx, guard(a, side), weight), gemm(ctx, a, weight), f"{m} rows")


@pytest.mark.parametrize("name", q.NAMES)
def test_unpacked_in_the_order_of_the_inputs(name: str) -> None:
    raw, order = q.blocks(name, 33, 512), shuffled(512)
    weight, out = packed(context(), name, raw, order), np.empty((33, 512), np.float32)
    weight.unpack(0, out)
    oracle.assert_same_bits(np.ascontiguousarray(out[:, order]), k.pack_blocks(raw, name).unpack(), name)


def test_a_weight_of_one_input_in_each_place() -> None:
    """Column i of the matrix is input order[i], seen from the product."""
    order = shuffled(64)
    one = k.quantize(np.eye(64, dtype=np.float32), "q8_0")
    got = gemm(context(), np.eye(64, dtype=np.float32), packed(context(), "q8_0", one, order))
    assert (np.argmax(got, axis=0) == order).all()


def test_bytes_and_borrowed_lines() -> None:
    order, ctx = shuffled(512), context()
    own = packed(ctx, "q4_0", q.blocks("q4_0", 20, 512), order)
    lines = memoryview(own)
    assert len(lines) == _native.packed_size("q4_0", 20, 512) == own.nbytes - order.nbytes
    room = np.empty(len(lines) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(lines)] = lines
    lent = _native.Weight("q4_0", 20, 512, room[start : start + len(lines)], order)
    a = s.normal(1, (3, 512))
    oracle.assert_same_bits(gemm(ctx, a, lent), gemm(ctx, a, own), "borrowed")
    assert (lent.checksum(ctx), lent.nbytes) == (own.checksum(ctx), own.nbytes)


def test_the_order_is_copied() -> None:
    order, ctx = shuffled(32), context()
    weight, a = packed(ctx, "q4_0", q.blocks("q4_0", 16, 32), order), s.normal(1, (1, 32))
    before = gemm(ctx, a, weight)
    order[:] = 1 << 30
    oracle.assert_same_bits(gemm(ctx, a, weight), before, "altered afterwards")


@given(data=st.data(), blocks=st.integers(1, 4))
def test_what_is_no_permutation(data: st.DataObject, blocks: int) -> None:
    order = shuffled(32 * blocks)
    at = data.draw(st.integers(0, len(order) - 1))
    wrong = data.draw(st.integers(-(2**31), 2**31 - 1).filter(lambda x: x != order[at]))
    order[at] = wrong
    with pytest.raises(ValueError, match="out of range"):
        _native.Weight("q4_0", 16, len(order), order=order)


def test_other_orders_that_are_refused() -> None:
    for length in (0, 31, 33, 64):
        with pytest.raises(ValueError, match="order of 32 inputs"):
            _native.Weight("q4_0", 16, 32, order=shuffled(length))
    for format in ("float32", "bfloat16", "int8"):
        with pytest.raises(ValueError, match="out of range"):
            _native.Weight(format, 16, 32, order=shuffled(32))
    with pytest.raises(TypeError):
        _native.Weight("q4_0", 16, 32, order=shuffled(32).astype(np.int64))
