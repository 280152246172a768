"""Packed weights and products."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _native
from . import contexts
from .arrays import Float32, apart, apart_or_same, array, as_rows, float32, require_shape, rows, target, vector
from .rows import activate

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2")

# Quantised types of GGUF that products take as they are: values in a block, and its bytes.
QUANTISED = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q2_k": (256, 84),
    "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210), "iq4_nl": (32, 18),
    "iq4_xs": (256, 136), "mxfp4": (32, 17),
}  # fmt: skip


class PackedMatrix:
    """A matrix [n, k] of weights in the order in which the kernels read it; made by `pack`."""

    __slots__ = ("_weight", "dtype", "shape")

    def __init__(self, weight: _native.Weight) -> None:
        self.shape = (weight.n, weight.k)
        self.dtype = weight.format
        self._weight = weight

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes

    def unpack(self) -> Float32:
        """The weights as float32 [n, k], exactly as they were packed."""
        out = np.empty(self.shape, np.float32)
        self._weight.unpack(0, out)
        return out

    def __repr__(self) -> str:
        return f"PackedMatrix({self.shape[0]} x {self.shape[1]} {self.dtype}, {self.nbytes} bytes)"


def pack(
    w: Any, dtype: Literal["float32", "bfloat16"] | None = None, *, source: Literal["bfloat16"] | None = None
) -> PackedMatrix:
    """Packs w [n, k] (rows are outputs) for `gemm`.

    dtype is what is kept: by default bfloat16 for bfloat16 arrays, else float32. float32 keeps every value exactly;
    bfloat16 rounds to nearest even. source="bfloat16" says that a uint16 array holds the bits of bfloat16 values.
    """
    if source not in (None, "bfloat16"):
        raise ValueError(f"source: None or 'bfloat16' expected, got {source!r}")
    if source is None:
        w = array("w", w)
        type_ = w.dtype.name
        bits: NDArray[Any] = w.view(np.uint16) if type_ == "bfloat16" else w
    else:
        bits, type_ = np.asarray(w), source
        if bits.dtype != np.uint16:
            raise TypeError(f"w: uint16 expected where source is 'bfloat16', got {bits.dtype.name}")
    if bits.ndim != 2:
        raise ValueError(f"w: a matrix [outputs, inputs] expected, got {bits.ndim} dimensions")
    dtype = dtype or ("bfloat16" if type_ == "bfloat16" else "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype: 'float32' or 'bfloat16' expected, got {dtype!r}")
    weight = _native.Weight(dtype, *bits.shape)
    with contexts.borrowed() as ctx:
        weight.pack(ctx, bits if bits.flags.aligned else bits.copy(), type_)
    return PackedMatrix(weight)


def pack_blocks(rows: Any, dtype: str) -> PackedMatrix:
    """Packs quantised rows of a GGUF file for `gemm`, losslessly.

    rows is uint8 [n, bytes of a row], dtype the type of their blocks in lower case: one of QUANTISED. In products the
    activations are rounded to 8 bits (docs/numerics.md).
    """
    if dtype not in QUANTISED:
        raise ValueError(f"dtype: one of {', '.join(QUANTISED)} expected, got {dtype!r}")
    rows = np.asarray(rows)
    if rows.dtype != np.uint8:
        raise TypeError(f"rows: uint8 expected, got {rows.dtype.name}")
    if rows.ndim != 2:
        raise ValueError(f"rows: a matrix [outputs, bytes] expected, got {rows.ndim} dimensions")
    block, size = QUANTISED[dtype]
    if rows.shape[1] % size:
        raise ValueError(f"rows: whole blocks of {size} bytes expected, got rows of {rows.shape[1]}")
    weight = _native.Weight(dtype, rows.shape[0], rows.shape[1] // size * block)
    with contexts.borrowed() as ctx:
        weight.pack(ctx, np.ascontiguousarray(rows), "blocks")
    return PackedMatrix(weight)


def gemm(
    a: Any,
    b: Any,
    *,
    trans_b: bool = False,
    bias: Any = None,
    residual: Any = None,
    activation: Activation | None = None,
    exact: bool = True,
    out: Float32 | None = None,
) -> Float32:
    """activation(a @ b + bias) + residual, in float32.

    a is [..., k]. b is [k, n], or [n, k] with trans_b=True, or a PackedMatrix [n, k]: packing takes longer than a small
    product, so pack what is used again. bias is [n], residual [..., n]. Every element is one chain of fused
    multiply-adds in ascending k, whatever the other rows, the threads and the instruction set. exact=False lets
    bfloat16 weights use the CPU's bfloat16 dot product, which rounds a to bfloat16; bits then depend on the table.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation: one of {', '.join(ACTIVATIONS)} expected, got {activation!r}")
    a = float32("a", a)
    if a.ndim < 1:
        raise ValueError("a: at least one dimension expected, got a scalar")
    packed = b if isinstance(b, PackedMatrix) else None
    n, k = _sizes(b, trans_b)
    if a.shape[-1] != k:
        raise ValueError(f"a: {k} values in its last dimension expected, as b has them, got shape {list(a.shape)}")
    shape = (*a.shape[:-1], n)
    bias = vector("bias", bias, n)
    if residual is not None:
        residual = float32("residual", residual)
        require_shape("residual", residual, shape)
    c = target("out", out, shape)
    if not c.size:
        return c
    if packed is None:
        b = array("b", b)
        packed = pack(b if trans_b else b.T)
    late = residual if activation is not None else None  # added after the activation
    late = apart(late, c) if late is not None else None
    early = None if residual is None or late is not None else rows(apart_or_same(residual, c))
    bias = apart(bias, c) if bias is not None else None
    a = rows(apart(a, c))
    with contexts.borrowed() as ctx:
        _native.gemm(ctx, a, packed._weight, as_rows(c), bias, early, exact)
    if activation is not None:
        activate(activation, c)
        if late is not None:
            c += late
    return c


def _sizes(b: Any, trans_b: bool) -> tuple[int, int]:
    """(n, k) of b."""
    if isinstance(b, PackedMatrix):
        return b.shape
    shape = np.shape(b)
    if len(shape) != 2:
        raise ValueError(f"b: a matrix or a PackedMatrix expected, got {len(shape)} dimensions")
    return (shape[0], shape[1]) if trans_b else (shape[1], shape[0])
