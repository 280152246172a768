"""What is right: every operation in float64, and how far float32 may be from it (docs/numerics.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

U = 2.0**-24  # the unit roundoff of float32
Array = np.ndarray


def bits(x: Any) -> Array:
    """The float32 values as integers: equal bits, not equal values (NaN, -0)."""
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def assert_same_bits(got: Any, wanted: Any, what: str = "") -> None:
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"{what}: shapes {got.shape} and {wanted.shape}"
    differ = bits(got) != bits(wanted)
    if differ.any():
        at = tuple(int(i) for i in np.argwhere(differ)[0])
        raise AssertionError(
            f"{what}: {int(differ.sum())} of {differ.size} differ, first at {at}: {got[at]!r} and {wanted[at]!r}"
        )


def assert_within(got: Any, ref: Array, bound: Array, what: str = "") -> None:
    """abs(got - ref) <= bound for each element; NaN and infinities must be where ref has them."""
    got = np.asarray(got, np.float64)
    assert got.shape == ref.shape, f"{what}: shapes {got.shape} and {ref.shape}"
    finite = np.isfinite(ref)
    with np.errstate(invalid="ignore"):
        bad = np.where(finite, ~(np.abs(got - ref) <= bound), ~((got == ref) | (np.isnan(got) & np.isnan(ref))))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.size} out of bounds, first at {at}: "
            f"{got[at]!r}, reference {ref[at]!r}, bound {np.broadcast_to(bound, ref.shape)[at]!r}"
        )


def ulp(x: Any) -> Array:
    """The spacing of float32 at the float64 value x, subnormals included."""
    x = np.abs(np.asarray(x, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log2(np.where(x > 0, x, 1.0)))
    exponent = np.where(x > 0, exponent, -149)
    return np.exp2(np.clip(exponent, -126, 127) - 23)


def in_ulps(got: Any, ref: Array) -> Array:
    """Distance of got from ref in float32 units; beyond the largest float32, inf counts as right."""
    got = np.asarray(got, np.float64)
    largest = float(np.finfo(np.float32).max)
    with np.errstate(invalid="ignore"):
        distance = np.abs(got - ref) / ulp(ref)
    distance = np.where((np.abs(ref) > largest) & np.isinf(got) & (np.sign(got) == np.sign(ref)), 0.0, distance)
    return np.where((got == ref) | (np.isnan(got) & np.isnan(ref)), 0.0, distance)


def bfloat16(x: Any) -> Array:
    """x rounded to bfloat16, nearest even, as float32 (finite values)."""
    b = bits(x).astype(np.uint64)
    return (((b + 0x7FFF + ((b >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32).reshape(np.shape(x))


def gemm(a: Array, w: Array, bias: Array | None = None, residual: Array | None = None) -> tuple[Array, Array]:
    """a[m, k] . w[n, k]^T + bias + residual, and the bound of its error."""
    a, w = a.astype(np.float64), w.astype(np.float64)
    k = a.shape[-1]
    ref, size = a @ w.T, np.abs(a) @ np.abs(w).T
    bound = min(32, k + 2) * U * size
    for term in (bias, residual):
        if term is not None:
            ref = ref + term
            bound = bound + U * (np.abs(ref) + bound)
    return ref, bound + (k + 2) * 2.0**-149  # subnormal sums


def visible(lq: int, lk: int, causal: bool, window: tuple[int, int]) -> Array:
    """[lq, lk]: may query i see key j? The last query stands at the last key."""
    position = np.arange(lq)[:, None] + (lk - lq)
    key = np.arange(lk)[None, :]
    left, right = window
    seen = np.ones((lq, lk), bool)
    if causal:
        seen &= key <= position
    if left >= 0:
        seen &= key >= position - left
    if right >= 0:
        seen &= key <= position + right
    return seen


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> tuple[Array, Array, Array]:
    """(out, log-sum-exp [batch, heads, lq], bound of the error of out), all float64; 4-d arrays."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, 2), np.repeat(v, group, 2)
    d, lk = q.shape[3], k.shape[1]
    scale = np.float64(np.float32(1 / math.sqrt(d) if scale is None else scale))
    seen = visible(q.shape[1], lk, causal, window)
    with np.errstate(invalid="ignore", over="ignore"):
        raw = np.einsum("bqhd,bkhd->bhqk", q, k)
        t = raw * scale
        if softcap:
            t = softcap * np.tanh(t / softcap)
    t = np.where(seen, t, -np.inf)
    top = t.max(-1, keepdims=True, initial=-np.inf)
    p = np.exp(t - np.where(np.isfinite(top), top, 0))
    total = p.sum(-1, keepdims=True)
    p = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
    clean = np.where(seen.any(0)[:, None, None], v, 0)
    out = np.einsum("bhqk,bkhd->bqhd", p, clean)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + np.where(np.isfinite(top), top, 0))[..., 0]
    reach = np.abs(np.einsum("bqhd,bkhd->bhqk", np.abs(q), np.abs(k)) * scale)
    slack = np.where(seen, (min(32, d + 2) + 4) * U * reach + 4 * U * np.abs(np.where(seen, t, 0)), 0)
    worst = slack.max(-1, initial=0).transpose(0, 2, 1)[..., None]
    factor = 2 * worst + (min(32, lk + 2) + 24) * U
    tiny = 2.0**-145 * (1 + lk * np.abs(clean).max(initial=0))  # probabilities and products that underflow
    return out, lse, factor * np.einsum("bhqk,bkhd->bqhd", p, np.abs(clean)) + tiny


def attention_float32(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
    """The straightforward float32 implementation: each sum in order, each step rounded."""
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, 2), np.repeat(v, group, 2)
    batch, lq, heads, d = q.shape
    lk = k.shape[1]
    f = np.float32
    t = np.zeros((batch, heads, lq, lk), f)
    for i in range(d):
        t += (q[..., i].transpose(0, 2, 1)[..., None] * k[..., i].transpose(0, 2, 1)[:, :, None, :]).astype(f)
    t = np.where(visible(lq, lk, causal, (-1, -1)), t * f(1 / math.sqrt(d)), f(-np.inf))
    p = np.exp(t - t.max(-1, keepdims=True))
    total = np.zeros((batch, heads, lq), f)
    for j in range(lk):
        total += p[..., j]
    p = p / total[..., None]
    out = np.zeros((batch, lq, heads, d), f)
    for j in range(lk):
        out += p[..., j].transpose(0, 2, 1)[..., None] * v[:, j][:, None]
    return out


def rms_norm(x: Array, weight: Array | None, eps: float) -> Array:
    x = x.astype(np.float64)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float64(np.float32(eps)))
    return y if weight is None else y * weight


def layer_norm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> tuple[Array, Array]:
    """The value, and the sum of the sizes of its terms: what 4 ulp are measured against."""
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float64(np.float32(eps)))
    y = y if weight is None else y * weight
    size = np.abs(y)
    return (y, size) if bias is None else (y + bias, size + np.abs(bias))


def softmax(x: Array) -> tuple[Array, Array]:
    """The value, and the relative error that rounding x - max must cause."""
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        t = x - x.max(-1, keepdims=True, initial=-np.inf)
        e = np.exp(t)
        y = e / e.sum(-1, keepdims=True)
    worst = np.where(y > 0, np.abs(t), 0)
    return y, U * (worst + (worst * y).sum(-1, keepdims=True))


def rope(
    x: Array, positions: Array, inv_freq: Array, pairing: str = "half", factor: float = 1.0
) -> tuple[Array, Array]:
    """x [tokens, heads, d] rotated, and the sizes of the terms of each value."""
    x = x.astype(np.float64)
    pairs = len(inv_freq)
    angle = np.asarray(positions, np.float64)[:, None] * np.asarray(inv_freq, np.float32).astype(np.float64)
    cos, sin = np.cos(angle)[:, None] * factor, np.sin(angle)[:, None] * factor
    first, second = (
        (slice(0, pairs), slice(pairs, 2 * pairs))
        if pairing == "half"
        else (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
    )
    y, size = x.copy(), np.zeros_like(x)
    a, b = x[..., first], x[..., second]
    y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
    size[..., first] = np.abs(a * cos) + np.abs(b * sin)
    size[..., second] = np.abs(b * cos) + np.abs(a * sin)
    return y, size


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid_times(x: Array, t: Array) -> Array:
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-t))


ACTIVATIONS = {
    "exp": np.exp,
    "tanh": np.tanh,
    "silu": lambda x: _sigmoid_times(x, x),
    "gelu": lambda x: x * 0.5 * _erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: _sigmoid_times(x, 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def activation(name: str, x: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return ACTIVATIONS[name](x.astype(np.float64))
