"""Products, and what happens to their sums on the way out."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..memory import empty
from . import contexts
from .arrays import (
    apart,
    apart_or_same,
    array,
    as_rows,
    float32,
    is_bfloat16,
    is_byte,
    require_shape,
    rows,
    target,
    vector,
)
from .packed import PackedMatrix

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2")


def gemm(
    a: Any,
    b: Any,
    *,
    trans_b: bool = False,
    bias: Any = None,
    residual: Any = None,
    activation: Activation | None = None,
    exact: bool = True,
    a_scale: Any = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """activation(a @ b + bias) + residual.

    a is [..., k]; a bfloat16 one (ml_dtypes) is read as it is. b is [k, n], or [n, k] with trans_b=True, or a
    PackedMatrix [n, k]: pack what is used again. bias is [n], residual [..., n]. Where b was made by `pack_gated`:
    activation(a @ gate + ...) * (a @ up + ...) + residual.

    Floating point: every element is one chain of fused multiply-adds in ascending k, whatever the other rows, the
    threads and the instruction set. exact=False lets bfloat16 weights use the CPU's bfloat16 dot product, which rounds
    a to bfloat16; bits then depend on the table. Integers: an int8 or uint8 a times int8 gives exact int32 sums
    (modulo 2^32); with a_scale (one per row of a), or a b that has scales, float32: sum * b.scales * a_scale. A
    floating point a times int8 is rounded to int8 first, with one scale per row (its largest magnitude / 127).

    The result is float32 or int32; out may also be bfloat16 (ml_dtypes; or uint16 for the bits). A large out is written
    fastest where it begins at a multiple of 64 bytes, as new results do.
    """
    packed = type(b) is PackedMatrix
    if bias is residual is activation is a_scale is None and not (packed and b.gated):
        w, scales = (b._weight, b.scales) if packed else (b, None)
        shared = contexts.current()
        with shared.lock:  # all at once: a small product takes no longer than its checks
            c = _native.multiply(shared.context, a, w, out, trans_b, exact, scales, empty)
        if c is not None:
            return c
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation: one of {', '.join(ACTIVATIONS)} expected, got {activation!r}")
    plain = None if isinstance(b, PackedMatrix) else _plain(b, trans_b)
    n, k = b.shape if plain is None else plain.shape
    gated = b.gated if plain is None else 0
    integers = (b.dtype == "int8") if plain is None else plain.dtype == np.int8
    a = _operand("a", a, narrow=(b.dtype in ("float32", "bfloat16")) if plain is None else not integers)
    if a.ndim < 1:
        raise ValueError("a: at least one dimension expected, got a scalar")
    if a.shape[-1] != k:
        raise ValueError(f"a: {k} values in its last dimension expected, as b has them, got shape {list(a.shape)}")
    if is_byte(a) and not integers:
        raise TypeError(f"a: float32, float16 or bfloat16 expected for such a b, got {a.dtype.name}; use astype")
    shape = (*a.shape[:-1], gated or n)
    column_scale = b.scales if plain is None else None
    row_scale = _row_scale(a_scale, a)
    scaled = not is_byte(a) or row_scale is not None or column_scale is not None
    bias = _bias(b, bias, gated or n)
    if residual is not None:
        residual = float32("residual", residual)
        require_shape("residual", residual, shape)
    if not scaled and (bias is not None or residual is not None or activation is not None):
        raise ValueError("a_scale: scales expected where integer sums get a bias, a residual or an activation")
    c = _result(out, shape, scaled)
    if not c.size:
        return c
    w = b._weight if plain is None else (plain if out is None else apart(plain, c))
    kind = None if plain is None else "bfloat16" if plain.dtype == np.uint16 else plain.dtype.name
    with contexts.borrowed() as ctx:
        _native.gemm(
            ctx, rows(apart(a, c)), w, as_rows(c.view(np.uint16) if is_bfloat16(c) else c),
            None if bias is None else apart(bias, c), None if residual is None else rows(apart_or_same(residual, c)),
            exact, activation or "none", gated, row_scale, column_scale, kind,
        )  # fmt: skip
    return c


def _operand(name: str, x: Any, narrow: bool) -> NDArray[Any]:
    """int8 and uint8 as they are, bfloat16 as its bits if `narrow`, the rest as float32."""
    x = np.asarray(x)
    if narrow and is_bfloat16(x) and x.dtype.isnative and x.flags.aligned:
        bits: NDArray[np.uint16] = x.view(np.uint16)
        return bits
    return x if is_byte(x) else float32(name, x)


def _plain(b: Any, trans_b: bool) -> NDArray[Any]:
    """An unpacked b as [n, k], bfloat16 as its bits."""
    if np.ndim(b) != 2:
        raise ValueError(f"b: a matrix or a PackedMatrix expected, got {np.ndim(b)} dimensions")
    b = np.asarray(b)
    if b.dtype != np.int8:
        b = array("b", b)
        b = b.view(np.uint16) if is_bfloat16(b) else b
    if not b.flags.aligned:
        b = b.copy()
    checked: NDArray[Any] = b if trans_b else b.T
    return checked


def _row_scale(a_scale: Any, a: NDArray[Any]) -> NDArray[np.float32] | None:
    if a_scale is None:
        return None
    if not is_byte(a):
        raise ValueError("a_scale: only an int8 or uint8 a has scales; a floating point a gets its own")
    scale = float32("a_scale", a_scale)
    require_shape("a_scale", scale, a.shape[:-1])
    return np.ascontiguousarray(scale).reshape(-1)


def _bias(b: Any, bias: Any, n: int) -> NDArray[np.float32] | None:
    """bias in the order of b's rows: a gated one is [2, n], for gate and up."""
    if isinstance(b, PackedMatrix) and b.gated and bias is not None:
        bias = float32("bias", bias)
        require_shape("bias", bias, (2, n))
        return b.alternated(bias)
    return vector("bias", bias, n)


def _result(out: Any, shape: tuple[int, ...], scaled: bool) -> NDArray[Any]:
    """A new array, or the caller's after all checks."""
    if out is None:
        return empty(shape, np.float32 if scaled else np.int32)
    kinds = (np.dtype(np.float32), np.dtype(np.uint16)) if scaled else (np.dtype(np.int32),)
    if isinstance(out, np.ndarray) and scaled and (is_bfloat16(out) or out.dtype == np.uint16):
        target("out", out, shape, dtype=out.dtype)
        return out
    return target("out", out, shape, dtype=kinds[0])
