"""Attention: exact indexing of keys and values, bounds against float64, masks, NaN that must not leak, extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paged import Paged

import oracle
import strategies as s
from guard import SIDES, guard, guarded, poison
from lanewise import kernels as k

Window = tuple[int, int]
# batch, lq, lk, heads, kv_heads, d
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 3, 3, 2, 1, 16),
    (2, 1, 65, 4, 2, 17),
    (1, 16, 64, 2, 2, 32),
    (1, 7, 130, 3, 1, 33),
    (2, 17, 257, 2, 1, 16),
    (1, 20, 9, 2, 1, 8),
    (1, 2, 600, 1, 1, 20),
]


def inputs(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch, lq, lk, heads, kv_heads, d = shape
    return (
        s.normal(seed, (batch, lq, heads, d)),
        s.normal(seed + 1, (batch, lk, kv_heads, d)),
        s.normal(seed + 2, (batch, lk, kv_heads, d)),
    )


def bf16(x: np.ndarray) -> np.ndarray:
    return x.astype(pytest.importorskip("ml_dtypes").bfloat16)


def check_values_exact(
    table: str,
    shape: tuple[int, ...],
    causal: bool = False,
    window: Window = (-1, -1),
    seed: int = 0,
    low: bool = False,
) -> None:
    """scale=0: every probability is 1/count, so the output is an exact sum over a count: which values are summed?"""
    batch, lq, lk, heads, kv_heads, d = shape
    q, key, _ = inputs(shape, seed)
    v = s.whole(seed, (batch, lk, kv_heads, d), 100)
    seen = oracle.visible(lq, lk, causal, window).astype(np.float64)
    count = seen.sum(1)
    total = np.einsum("qk,bkhd->bqhd", seen, np.repeat(v, heads // kv_heads, 2).astype(np.float64)).astype(np.float32)
    wanted = total / np.maximum(count, 1).astype(np.float32)[:, None, None]
    with k.isa(table):
        if low:
            key, v = bf16(key), bf16(v)
        for exact in (True, False):
            out = poison(np.empty((batch, lq, heads, d), np.float32))
            got, lse = k.attention(
                q, key, v, causal=causal, window=window, scale=0.0, return_lse=True, exact=exact, out=out
            )
            np.testing.assert_array_equal(got, wanted)
            with np.errstate(divide="ignore"):
                np.testing.assert_allclose(lse, np.broadcast_to(np.log(count), lse.shape), rtol=1e-6)


def check_keys_exact(
    table: str,
    shape: tuple[int, ...],
    causal: bool = False,
    window: Window = (-1, -1),
    seed: int = 0,
    low: bool = False,
) -> None:
    """One key's score lies far above all others' in a row's reach: the output is that key's value, exactly."""
    batch, lq, lk, heads, kv_heads, d = shape
    if not batch * lk:
        return
    q, key, v = inputs(shape, seed)
    rank = np.stack([np.random.default_rng([seed, i]).permutation(lk) for i in range(batch * kv_heads)])
    rank = rank.reshape(batch, kv_heads, lk).transpose(0, 2, 1)
    q[...], key[...] = 0, 0
    if d == 1:
        q[..., 0], key[..., 0] = 256, rank  # whole numbers up to 256 are bfloat16 values
    else:  # in two digits, in two places
        high, low_ = seed % d, (seed + 1) % d
        q[..., high], key[..., high], q[..., low_], key[..., low_] = 4096, rank // 16, 256, rank % 16
    seen = oracle.visible(lq, lk, causal, window)
    group = np.where(seen[None, :, :, None], np.repeat(rank, heads // kv_heads, 2)[:, None], -1)  # batch, lq, lk, heads
    best = group.argmax(2)
    v = oracle.bfloat16(v)
    wide = np.repeat(v, heads // kv_heads, 2)
    wanted = wide[np.arange(batch)[:, None, None], best, np.arange(heads)]
    wanted = np.where(seen.any(1)[None, :, None, None], wanted, 0)
    with k.isa(table):
        if low:
            key, v = bf16(key), bf16(v)
        np.testing.assert_array_equal(k.attention(q, key, v, causal=causal, window=window, scale=1.0), wanted)


def check_bound(
    table: str,
    shape: tuple[int, ...],
    causal: bool = False,
    window: Window = (-1, -1),
    softcap: float = 0.0,
    seed: int = 0,
    low: bool = False,
) -> None:
    q, key, v = inputs(shape, seed)
    if low:
        key, v = oracle.bfloat16(key), oracle.bfloat16(v)
    ref, ref_lse, bound = oracle.attention(q, key, v, causal=causal, window=window, softcap=softcap)
    with k.isa(table):
        if low:
            key, v = bf16(key), bf16(v)
        got, lse = k.attention(q, key, v, causal=causal, window=window, softcap=softcap, return_lse=True)
    oracle.assert_within(got, ref, bound)
    oracle.assert_within(lse, ref_lse, 1e-5 + 1e-6 * np.abs(ref_lse))


def check_guarded(table: str, shape: tuple[int, ...], side: str, causal: bool = True) -> None:
    q, key, v = (guard(x, side) for x in inputs(shape))
    with k.isa(table):
        out = k.attention(q, key, v, causal=causal, out=guarded(q.shape, side=side))
        oracle.assert_same_bits(out, k.attention(q, key, v, causal=causal))
        assert not np.isnan(out).any()


def check_masked_nan(
    table: str, shape: tuple[int, ...], causal: bool, window: Window, kind: str = "float32", exact: bool = True
) -> None:
    """Keys and values that no row sees may hold anything, and pages hold NaN beyond the keys."""
    batch, lq, lk, _, kv_heads, d = shape
    q, key, v = inputs(shape)
    how: dict[str, Any] = {"causal": causal, "window": window, "exact": exact}
    with k.isa(table):
        clean = key if kind == "float32" else bf16(key), v if kind == "float32" else bf16(v)
        wanted = k.attention(q, *clean, **how)
        for i in range(lq):  # row i alone, everything that it does not see spoiled
            seen = oracle.visible(lq, lk, causal, window)[i]
            for bad in (np.nan, np.inf):
                key2, v2 = key.copy(), v.copy()
                key2[:, ~seen], v2[:, ~seen] = bad, bad
                spoiled = (key2, v2) if kind == "float32" else (bf16(key2), bf16(v2))
                oracle.assert_same_bits(k.attention(q, *spoiled, **how)[:, i], wanted[:, i], f"row {i}")
        paged = Paged(batch, lk, kv_heads, d, kind)
        paged.append(key, v, [0] * batch)
        if lk >= lq:
            got, _ = paged.attend(list(q), [lk - lq] * batch, kv_length=[lk] * batch, **how)
            oracle.assert_same_bits(np.stack(got), wanted, "paged")


def check_visible_nan(table: str) -> None:
    """A NaN that a row does see makes that row NaN, and no other."""
    q, key, v = inputs((1, 70, 70, 2, 1, 16))
    with k.isa(table):
        clean = k.attention(q, key, v, causal=True)
        key[0, 40, 0, 3] = np.nan
        got = k.attention(q, key, v, causal=True)
    assert np.isnan(got[:, 40:]).all()
    oracle.assert_same_bits(got[:, :40], clean[:, :40])


def check_straightforward(table: str) -> None:
    """The mean square error is at most that of the straightforward float32 implementation."""
    for lk, spread in ((64, 1.0), (200, 2.0), (520, 1.0), (300, 4.0)):
        for causal in (False, True):
            ours = plain = 0.0
            for seed in range(3):
                q, key, v = inputs((1, 24, lk, 2, 1, 64), 100 * seed)
                q = q * np.float32(spread)
                ref, _, _ = oracle.attention(q, key, v, causal=causal)
                with k.isa(table):
                    ours += np.square(k.attention(q, key, v, causal=causal) - ref).mean()
                plain += np.square(oracle.attention_float32(q, key, v, causal=causal) - ref).mean()
            assert ours <= plain, f"{lk} keys: {ours:.3e} and {plain:.3e}"


def check_extremes(table: str) -> None:
    one = np.ones((1, 1, 1, 16), np.float32)
    v = s.normal(1, (1, 300, 1, 16))
    with k.isa(table):
        equal = k.attention(one, np.ones_like(v), v)  # all scores equal: the mean
        oracle.assert_within(
            equal, v.astype(np.float64).mean(1, keepdims=True), 20 * oracle.U * np.abs(v).mean(1, keepdims=True)
        )
        huge = np.where(np.arange(300)[None, :, None, None] == 270, 1e18, -1e18).astype(np.float32) * np.ones_like(v)
        oracle.assert_same_bits(k.attention(one * np.float32(1e18), huge, v)[0, 0], v[0, 270], "scores of 1e36")
        tiny = k.attention(one * np.float32(1e-30), np.ones_like(v) * np.float32(1e-15), v)
        oracle.assert_same_bits(tiny, equal, "subnormal scores")
        sharp = k.attention(one * 5, huge, v, softcap=30.0)
        np.testing.assert_allclose(sharp[0, 0], v[0, 270], rtol=1e-5, atol=1e-6)


def check_faint_weights(table: str) -> None:
    """Weights down to where float32 has no normal numbers, and below: those are zeros, and nothing is subnormal."""
    scores = np.concatenate([[0.0], np.linspace(-80, -160, 300)]).astype(np.float32)
    q, key = np.ones((1, 1, 1, 1), np.float32), scores.reshape(1, -1, 1, 1)
    v = np.where(np.arange(301) == 0, 0, 1e30).astype(np.float32).reshape(1, -1, 1, 1)
    with k.isa(table):
        got = k.attention(q, key, v, scale=1.0)
        alone = [k.attention(q, key[:, [0, i]], v[:, [0, i]], scale=1.0).item() for i in range(1, 301)]
    weights = np.where(scores[1:] < -86.5, 0, np.exp(scores[1:].astype(np.float64)))
    np.testing.assert_allclose(alone, weights * 1e30, rtol=1e-5)
    np.testing.assert_allclose(got.item(), np.sum(weights) * 1e30, rtol=1e-5)


def check_minus_infinity(table: str) -> None:
    """Scores of -inf weigh nothing, also where they fill a whole segment."""
    for lk, hidden in ((20, slice(3, 9)), (600, slice(0, 256)), (600, slice(256, 512)), (600, slice(100, 590))):
        q, key, v = inputs((1, 2, lk, 1, 1, 8), lk)
        q[...] = np.abs(q)
        key2, keep = key.copy(), np.ones(lk, bool)
        key2[:, hidden], keep[hidden] = -np.inf, False
        ref, _, bound = oracle.attention(q, key[:, keep], v[:, keep])
        with k.isa(table):
            oracle.assert_within(k.attention(q, key2, v), ref, bound, f"{lk} keys, {hidden}")


def shapes(most_lk: int = 258) -> st.SearchStrategy[tuple[int, ...]]:
    heads = st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 1), (4, 2), (6, 2), (7, 1)])
    return st.builds(
        lambda b, lq, lk, h, d: (b, lq, lk, *h, d),
        st.sampled_from([0, 1, 1, 2]),
        s.edges(4, 6, 12, 16, most=33),
        s.lengths(most_lk),
        heads,
        s.head_dims(),
    )


@given(shape=shapes(), causal=st.booleans(), window=s.windows(), seed=s.seeds(), low=st.booleans())
def test_values_exact(table: str, shape: tuple[int, ...], causal: bool, window: Window, seed: int, low: bool) -> None:
    check_values_exact(table, shape, causal, window, seed, low)


@given(shape=shapes(256), causal=st.booleans(), window=s.windows(), seed=s.seeds(), low=st.booleans())
def test_keys_exact(table: str, shape: tuple[int, ...], causal: bool, window: Window, seed: int, low: bool) -> None:
    check_keys_exact(table, shape, causal, window, seed, low)


@given(
    shape=shapes(),
    causal=st.booleans(),
    window=s.windows(),
    softcap=st.sampled_from([0.0, 0.0, 2.0, 50.0]),
    seed=s.seeds(),
    low=st.booleans(),
)
def test_bound(
    table: str, shape: tuple[int, ...], causal: bool, window: Window, softcap: float, seed: int, low: bool
) -> None:
    check_bound(table, shape, causal, window, softcap, seed, low)


@pytest.mark.parametrize("lk", [255, 256, 257, 511, 512, 513, 1025])
@pytest.mark.parametrize("causal", [False, True])
def test_segments(table: str, lk: int, causal: bool) -> None:
    shape = (1, 3, lk, 2, 1, 16)
    check_values_exact(table, shape, causal)
    check_values_exact(table, shape, causal, (300, 5), low=True)
    check_bound(table, shape, causal)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_guarded(table: str, shape: tuple[int, ...], side: str) -> None:
    check_guarded(table, shape, side)


@pytest.mark.parametrize(("kind", "exact"), [("float32", True), ("bfloat16", True), ("bfloat16", False)])
@pytest.mark.parametrize(
    ("shape", "causal", "window"),
    [
        ((1, 5, 5, 2, 1, 16), True, (-1, -1)),
        ((1, 11, 300, 7, 1, 80), True, (-1, -1)),
        ((1, 21, 301, 3, 1, 16), True, (33, -1)),
        ((2, 3, 70, 2, 2, 17), True, (9, -1)),
        ((1, 4, 261, 2, 1, 8), False, (3, 2)),
        ((1, 6, 64, 1, 1, 33), False, (0, 0)),
        ((1, 9, 4, 1, 1, 16), True, (-1, -1)),
    ],
)
def test_masked_nan_does_not_leak(
    table: str, shape: tuple[int, ...], causal: bool, window: Window, kind: str, exact: bool
) -> None:
    check_masked_nan(table, shape, causal, window, kind, exact)


def test_visible_nan_stays_in_its_rows(table: str) -> None:
    check_visible_nan(table)


def test_no_worse_than_straightforward_float32(table: str) -> None:
    check_straightforward(table)


def test_extremes(table: str) -> None:
    check_extremes(table)


def test_faint_weights(table: str) -> None:
    check_faint_weights(table)


def test_scores_of_minus_infinity(table: str) -> None:
    check_minus_infinity(table)


def test_fast_bfloat16_is_close(table: str) -> None:
    """exact=False rounds q and the probabilities to bfloat16 where the CPU has the dot product."""
    q, key, v = inputs((2, 5, 300, 4, 2, 64))
    q, key, v = oracle.bfloat16(q), bf16(key), bf16(v)
    ref, _, _ = oracle.attention(q, key.astype(np.float32), v.astype(np.float32), causal=True)
    with k.isa(table):
        got = k.attention(q, key, v, causal=True, exact=False)
        if not k.context().has_dot:
            oracle.assert_same_bits(got, k.attention(q, key, v, causal=True))
    assert np.sqrt(np.square(got - ref).mean() / np.square(ref).mean()) < 4e-3


@pytest.mark.parametrize(("lq", "lk"), [(0, 5), (4, 0), (0, 0), (3, 5)])
def test_empty_and_blind(table: str, lq: int, lk: int) -> None:
    q, key, v = inputs((2, lq, lk, 2, 1, 8))
    with k.isa(table):
        got, lse = k.attention(q, key, v, return_lse=True, out=poison(np.empty_like(q)))
        assert got.shape == q.shape
        assert lse.shape == (2, 2, lq)
        if not lk:
            assert (got == 0).all()
            assert np.isneginf(lse).all()
        assert k.attention(q[:0], key[:0], v[:0]).shape == (0, lq, 2, 8)
        blind, lse = k.attention(q, key, v, window=(0, -1) if lk < lq else (-1, -1), causal=True, return_lse=True)
        early = max(0, lq - lk)
        assert (blind[:, :early] == 0).all()
        assert np.isneginf(lse[:, :, :early]).all()


def test_unbatched_is_one_of_a_batch() -> None:
    q, key, v = inputs((2, 5, 9, 4, 2, 16))
    batch, batch_lse = k.attention(q, key, v, causal=True, return_lse=True)
    for i in range(2):
        got, lse = k.attention(q[i], key[i], v[i], causal=True, return_lse=True)
        oracle.assert_same_bits(got, batch[i])
        oracle.assert_same_bits(lse, batch_lse[i])


def test_layouts_and_outputs() -> None:
    """q, k, v as parts of one array, other strides, an output that overlaps the queries."""
    batch, length, heads, d = 2, 7, 2, 16
    together = s.normal(1, (batch, length, 3, heads, d))
    q, key, v = (np.ascontiguousarray(together[:, :, i]) for i in range(3))
    wanted = k.attention(q, key, v, causal=True)
    oracle.assert_same_bits(k.attention(together[:, :, 0], together[:, :, 1], together[:, :, 2], causal=True), wanted)
    for layout in s.LAYOUTS:
        oracle.assert_same_bits(k.attention(*(s.laid_out(x, layout) for x in (q, key, v)), causal=True), wanted, layout)
    memory = together.copy()
    k.attention(memory[:, :, 0], memory[:, :, 1], memory[:, :, 2], causal=True, out=memory[:, :, 0])
    oracle.assert_same_bits(memory[:, :, 0], wanted)
    oracle.assert_same_bits(memory[:, :, 1:], together[:, :, 1:])
    for mine in (q, key, v):
        x = [y.copy() if y is not mine else mine.copy() for y in (q, key, v)]
        target = x[[y is mine for y in (q, key, v)].index(True)]
        oracle.assert_same_bits(k.attention(*x, causal=True, out=target), wanted)


Q, KV = np.zeros((1, 3, 4, 8), np.float32), np.zeros((1, 5, 2, 8), np.float32)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "q: .*float64", lambda: k.attention(Q.astype(np.float64), KV, KV)),
        (TypeError, "v: .*float64", lambda: k.attention(Q, KV, KV.astype(np.float64))),
        (ValueError, "q: ", lambda: k.attention(Q[0, 0], KV[0, 0], KV[0, 0])),
        (ValueError, "k: 4 dimensions", lambda: k.attention(Q, KV[0], KV)),
        (ValueError, r"v: shape \[1, 5, 2, 8\]", lambda: k.attention(Q, KV, KV[:, :4])),
        (ValueError, "k: ", lambda: k.attention(Q, KV[..., :4], KV[..., :4])),
        (ValueError, "k: ", lambda: k.attention(Q, np.repeat(KV, 2, 0), np.repeat(KV, 2, 0))),
        (ValueError, "q: heads", lambda: k.attention(Q[:, :, :3], KV, KV)),
        (ValueError, "q: heads", lambda: k.attention(Q[..., :0], KV[..., :0], KV[..., :0])),
        (ValueError, "softcap: ", lambda: k.attention(Q, KV, KV, softcap=-1.0)),
        (
            ValueError,
            r"out: shape \[1, 3, 4, 8\]",
            lambda: k.attention(Q, KV, KV, out=np.zeros((1, 3, 32), np.float32)),
        ),
        (
            ValueError,
            "out: rows",
            lambda: k.attention(Q, KV, KV, out=np.zeros((1, 4, 3, 8), np.float32).swapaxes(1, 2)),
        ),
    ],
)
def test_errors_name_the_argument(error: type[Exception], name: str, call: Any) -> None:
    with pytest.raises(error, match=name):
        call()
