"""Gate and up as quantised types, packed side by side; what cannot be packed so is refused by its argument's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
import strategies as s
from lanewise import kernels as k

WRITTEN = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"]
F32, I8 = np.zeros((3, 256), np.float32), np.zeros((3, 256), np.int8)
NAN = np.where(np.arange(768).reshape(3, 256) == 258, np.float32(np.nan), F32)


@pytest.mark.parametrize("dtype", WRITTEN)
def test_quantised_gate_and_up_are_two_products_and_their_product(dtype: str) -> None:
    """Bit for bit, for outputs that fill no panel and for few and many rows."""
    for m, n in ((1, 5), (7, 33), (97, 48)):
        a, gate, up = s.normal(1, (m, 512)), s.normal(2, (n, 512)), s.normal(3, (n, 512))
        pair = k.pack_gated(gate, up, dtype)
        assert (pair.dtype, pair.gated, pair.scales) == (dtype, n, None)
        first, second = k.gemm(a, k.pack(gate, dtype)), k.gemm(a, k.pack(up, dtype))
        oracle.assert_same_bits(k.gemm(a, pair, activation="silu"), k.silu(first) * second, f"{dtype} {m} x {n}")


def test_bfloat16_gate_and_up_become_quantised() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    gate, up = (s.normal(i, (16, 256)).astype(ml_dtypes.bfloat16) for i in (1, 2))
    wide = k.pack_gated(gate.astype(np.float32), up.astype(np.float32), "q4_k")
    oracle.assert_same_bits(k.pack_gated(gate, up, "q4_k").unpack(), wide.unpack())


@pytest.mark.parametrize(
    ("error", "message", "gate", "up", "dtype"),
    [
        (ValueError, r"dtype: one of float32, .*q4_k.* expected, got 'q4_2'", F32, F32, "q4_2"),
        (ValueError, r"dtype: one of .* expected, got 'iq2_w'", F32, F32, "iq2_w"),
        (ValueError, r"gate: rows of 32 numbers .*Q4_K blocks of 256", F32[:, :32], F32[:, :32], "q4_k"),
        (ValueError, r"up: shape and type of gate, \[3, 256\]", F32, F32[:2], "q4_k"),
        (ValueError, r"up: the weight at \[1, 2\] is nan", F32, NAN, "q8_0"),
        (TypeError, "gate: floating point expected, got int8", I8, I8, "q8_0"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(error: type[Exception], message: str, gate: Any, up: Any, dtype: str) -> None:
    with pytest.raises(error, match=message):
        k.pack_gated(gate, up, dtype)
