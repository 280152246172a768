"""Weights as the quantised blocks of GGUF, and back: bytes on NumPy arrays, no file needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Float32, float32


def quantize(w: Any, dtype: str, *, importance: Any = None) -> NDArray[np.uint8]:
    """w [n, k] as rows of GGUF blocks, uint8 [n, bytes of a row], each block with the least squared error.

    dtype is the type in lower case, as "q4_0" or "q6_k"; k a whole number of its blocks (32 or 256). importance, float
    [k], weighs the squared errors of each column. The blocks are those that `lanewise quantize` writes; `pack_blocks`
    packs them for `gemm`, `dequantize` says what they mean (layouts: ggml-common.h of llama.cpp). q2_k and q3_k are
    enlarged afterwards, so that they are not shorter than w.

    Raises TypeError for a w that is not floating point, ValueError for an unknown type, a k that is no whole number of
    blocks, a number that is not finite, an importance that does not fit.
    """
    return quantized("w", w, dtype, importance)


def quantized(name: str, w: Any, dtype: str, importance: Any = None) -> NDArray[np.uint8]:
    """`quantize` of an argument that messages call `name`."""
    from ..model.quantize import WRITABLE, check_importance, quantize_rows  # the readers of files need these kernels

    known = [kind.lower() for kind in WRITABLE if kind.lower() not in ("f32", "f16", "bf16")]
    if dtype not in known:
        raise ValueError(f"dtype: one of {', '.join(known)} expected, got {dtype!r}")
    rows = float32(name, w)
    if rows.ndim != 2:
        raise ValueError(f"{name}: a matrix [outputs, inputs] expected, got {rows.ndim} dimensions")
    weights = None if importance is None else check_importance(importance, rows.shape[1])
    try:
        return quantize_rows(rows, dtype, weights)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def dequantize(rows: Any, dtype: str) -> Float32:
    """float32 [n, k]: the values of rows of GGUF blocks, uint8 [n, bytes of a row], bit for bit as the type has them.

    dtype is any quantised type of GGUF in lower case, also those that `pack_blocks` does not take ("iq2_xxs", "tq1_0").
    Raises TypeError for other than bytes, ValueError for an unknown type or rows of no whole number of blocks.
    """
    from ..model.gguf_types import TYPES, expand

    known = {kind.name.lower(): kind for kind in TYPES.values() if kind.values is not None and kind.block > 1}
    if dtype not in known:
        raise ValueError(f"dtype: one of {', '.join(known)} expected, got {dtype!r}")
    raw, kind = np.asarray(rows), known[dtype]
    if raw.dtype != np.uint8:
        raise TypeError(f"rows: uint8 expected, got {raw.dtype.name}")
    if raw.ndim != 2:
        raise ValueError(f"rows: a matrix [outputs, bytes] expected, got {raw.ndim} dimensions")
    if raw.shape[1] % kind.size:
        raise ValueError(f"rows: whole blocks of {kind.size} bytes expected, got rows of {raw.shape[1]}")
    return expand(raw, kind)
