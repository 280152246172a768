"""Norms, softmax, rotary embedding and activations."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np

from .. import _native
from . import contexts
from .arrays import Float32, apart, apart_or_same, as_rows, float32, require_shape, rows, target, vector


def _two(x: Any, out: Float32 | None) -> tuple[Float32, Float32, Float32]:
    """x and out as rows, and out as the caller sees it."""
    x = float32("x", x)
    if x.ndim < 1:
        raise ValueError("x: at least one dimension expected, got a scalar")
    y = target("out", out, x.shape)
    y_rows = as_rows(y)
    assert y_rows is not None
    return rows(apart_or_same(x, y)), y_rows, y


def rms_norm(x: Any, weight: Any = None, eps: float = 1e-6, *, out: Float32 | None = None) -> Float32:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    x, y_rows, y = _two(x, out)
    weight = vector("weight", weight, x.shape[-1])
    if y.size:
        with contexts.borrowed() as ctx:
            _native.rms_norm(ctx, x, None if weight is None else apart(weight, y), eps, y_rows)
    return y


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, out: Float32 | None = None
) -> Float32:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    x, y_rows, y = _two(x, out)
    weight, bias = vector("weight", weight, x.shape[-1]), vector("bias", bias, x.shape[-1])
    if y.size:
        with contexts.borrowed() as ctx:
            _native.layer_norm(
                ctx,
                x,
                None if weight is None else apart(weight, y),
                None if bias is None else apart(bias, y),
                eps,
                y_rows,
            )
    return y


def softmax(x: Any, axis: int = -1, *, out: Float32 | None = None) -> Float32:
    """exp(x - max) / sum along an axis. Elements of -inf give 0; a row of nothing else, or with a NaN, gives NaN."""
    x = float32("x", x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: one of the {x.ndim} of x expected, got {axis}")
    if axis % x.ndim != x.ndim - 1:
        y = target("out", out, x.shape)
        y[...] = np.moveaxis(softmax(np.moveaxis(x, axis, -1)), -1, axis)
        return y
    x, y_rows, y = _two(x, out)
    if y.size:
        with contexts.borrowed() as ctx:
            _native.softmax(ctx, x, y_rows)
    return y


def activate(name: str, x: Float32) -> None:
    """In place, for arrays that `target` let through."""
    y = as_rows(x)
    assert y is not None
    flat = y.reshape(-1)  # a copy where rows are apart
    with contexts.borrowed() as ctx:
        _native.activation(ctx, name, flat, flat)
    if not np.may_share_memory(flat, y):
        y[...] = flat.reshape(y.shape)


def _elementwise(name: str, x: Any, out: Float32 | None) -> Float32:
    x = float32("x", x)
    y = target("out", out, x.shape, inner=x.ndim)
    x = np.ascontiguousarray(apart_or_same(x, y))
    if y.size:
        with contexts.borrowed() as ctx:
            _native.activation(ctx, name, x.reshape(-1), y.reshape(-1))
    return y


def _gated(name: str, gate: Any, up: Any, out: Float32 | None) -> Float32:
    gate, up = float32("gate", gate), float32("up", up)
    require_shape("up", up, gate.shape)
    y = target("out", out, gate.shape, inner=gate.ndim)
    gate, up = (np.ascontiguousarray(apart_or_same(x, y)).reshape(-1) for x in (gate, up))
    if y.size:
        with contexts.borrowed() as ctx:
            _native.mul_activation(ctx, name, gate, up, y.reshape(-1))
    return y


def silu(x: Any, *, out: Float32 | None = None) -> Float32:
    """x / (1 + exp(-x))."""
    return _elementwise("silu", x, out)


def gelu(x: Any, *, out: Float32 | None = None) -> Float32:
    """x times the normal distribution function of x."""
    return _elementwise("gelu", x, out)


def gelu_tanh(x: Any, *, out: Float32 | None = None) -> Float32:
    """gelu's approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as many models were trained with."""
    return _elementwise("gelu_tanh", x, out)


def relu2(x: Any, *, out: Float32 | None = None) -> Float32:
    """max(x, 0)^2."""
    return _elementwise("relu2", x, out)


def tanh(x: Any, *, out: Float32 | None = None) -> Float32:
    """The hyperbolic tangent, the same bits on every table."""
    return _elementwise("tanh", x, out)


def exp(x: Any, *, out: Float32 | None = None) -> Float32:
    """The exponential, the same bits on every table, within 2 units in the last place."""
    return _elementwise("exp", x, out)


def silu_mul(gate: Any, up: Any, *, out: Float32 | None = None) -> Float32:
    """silu(gate) * up (SwiGLU)."""
    return _gated("silu", gate, up, out)


def gelu_mul(gate: Any, up: Any, *, out: Float32 | None = None) -> Float32:
    """gelu(gate) * up (GEGLU)."""
    return _gated("gelu", gate, up, out)


@functools.lru_cache(64)
def _frequencies(theta: float, dim: int) -> Float32:
    from ..model.rope import Scaling, frequencies  # here: only this function needs it

    return np.ascontiguousarray(frequencies(theta, dim, Scaling())[0])


def _positions(positions: Any, shape: tuple[int, ...]) -> Any:
    positions = np.asarray(positions)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions: integers expected, got {positions.dtype.name}")
    limits = np.iinfo(np.int32)
    if positions.size and (positions.min() < limits.min or positions.max() > limits.max):
        raise ValueError(f"positions: numbers that fit 32 bits expected, got up to {positions.max()}")
    try:
        wide = np.broadcast_to(positions, shape)
    except ValueError:
        raise ValueError(
            f"positions: shape {list(shape[-1:])} or {list(shape)} expected, as x has tokens, "
            f"got {list(positions.shape)}"
        ) from None
    return np.ascontiguousarray(wide, np.int32).reshape(-1)


def rope(
    x: Any,
    positions: Any,
    *,
    theta: float = 10000.0,
    inv_freq: Any = None,
    pairing: Literal["half", "interleaved"] = "half",
    rotary_dim: int | None = None,
    factor: float = 1.0,
    out: Float32 | None = None,
) -> Float32:
    """Rotary embedding of x [..., tokens, heads, head_dim] at positions [tokens] or [..., tokens].

    Pair j turns by position * inv_freq[j], by default theta ** (-2j / rotary_dim); the angle is formed in float64, so
    that positions in the millions are as good as the first. "half" pairs j with j + rotary_dim/2 (Llama, Qwen),
    "interleaved" 2j with 2j + 1 (GPT-J). Values from rotary_dim on stay as they are. factor multiplies cos and sin.
    """
    x = float32("x", x)
    if x.ndim < 3:
        raise ValueError(f"x: [..., tokens, heads, head_dim] expected, got {x.ndim} dimensions")
    heads, dim = x.shape[-2:]
    if pairing not in ("half", "interleaved"):
        raise ValueError(f"pairing: 'half' or 'interleaved' expected, got {pairing!r}")
    if rotary_dim is None:
        rotary_dim = dim if inv_freq is None else 2 * np.size(inv_freq)
    if not 0 <= rotary_dim <= dim or rotary_dim % 2:
        raise ValueError(f"rotary_dim: an even number up to the head's {dim} expected, got {rotary_dim}")
    where = _positions(positions, x.shape[:-2])
    if inv_freq is None and rotary_dim:
        inv_freq = _frequencies(float(theta), rotary_dim)
    y = target("out", out, x.shape, inner=2)
    np.copyto(y, x)  # NumPy minds the overlap
    if y.size and rotary_dim:
        inv_freq = vector("inv_freq", inv_freq, rotary_dim // 2)
        assert inv_freq is not None
        y_rows = as_rows(y, 2)
        with contexts.borrowed() as ctx:
            _native.rope(ctx, y_rows, where, apart(inv_freq, y), heads, pairing == "interleaved", factor)
    return y
