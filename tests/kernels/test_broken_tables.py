"""A test build carries deliberately broken tables; the checks of this suite must catch every one.

Without such tables (an ordinary build) only the other half is shown: the same probes pass on the healthy tables.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_attention as attention
import test_elementwise as elementwise
import test_gemm as gemm
import test_gemm_int8 as int8
import test_independence as independence
import test_norm as norm
import test_rotary as rope

from lanewise import kernels as k

BROKEN = [name for name in k.tables() if name.startswith("broken_")]
Probe = Callable[[str], None]


def probes() -> dict[str, Probe]:
    """Every check of the suite, at small shapes of many remainders."""
    found: dict[str, Probe] = {}
    for shape in gemm.SHAPES:
        for dtype in ("float32", "bfloat16"):
            found[f"gemm exact {shape} {dtype}"] = lambda t, a=shape, d=dtype: gemm.check_exact(t, *a, d)
        found[f"gemm bound {shape}"] = lambda t, a=shape: gemm.check_bound(t, *a)
        found[f"gemm bfloat16 {shape}"] = lambda t, a=shape: gemm.check_bfloat16(t, *a)
        found[f"gemm padding {shape}"] = lambda t, a=shape: gemm.check_padding(t, *a)
        found[f"gemm rows {shape}"] = lambda t, a=shape: independence.check_gemm_rows(t, *a)
    for shape in int8.SHAPES:
        found[f"int8 {shape}"] = lambda t, a=shape: int8.check_int8(t, *a, unsigned=False)
        found[f"int8 scaled {shape}"] = lambda t, a=shape: int8.check_scaled(t, *a)
    for shape in attention.SHAPES:
        for causal in (False, True):
            for low in (False, True):
                for window in ((-1, -1), (9, 3)):
                    options = {"causal": causal, "low": low, "window": window}
                    for check in (attention.check_values_exact, attention.check_keys_exact, attention.check_bound):
                        found[f"{check.__name__} {shape} {options}"] = lambda t, c=check, a=shape, o=options: c(
                            t, a, **o
                        )
    found["attention softcap"] = lambda t: attention.check_bound(t, (1, 5, 70, 2, 1, 16), softcap=2.0)
    found["attention masked"] = lambda t: attention.check_masked_nan(t, (1, 5, 70, 2, 1, 16), True, (9, -1))
    found["attention extremes"] = attention.check_extremes
    found["attention -inf"] = attention.check_minus_infinity
    found["attention phases"] = lambda t: independence.check_attention_phases(t, [0, 3, 40, 41, 65, 70], 2, 1, 16)
    for name in elementwise.NAMES:
        found[f"{name} ulps"] = lambda t, n=name: elementwise.check_ulps(t, n, elementwise.sweep(1_000_003))
        found[f"{name} special"] = lambda t, n=name: elementwise.check_special(t, n)
        for size in (1, 16, 33):
            found[f"{name} size {size}"] = lambda t, n=name, m=size: elementwise.check_size(t, n, m)
    for rows, n in norm.SIZES:
        found[f"rms_norm {rows} {n}"] = lambda t, r=rows, m=n: norm.check_rms_norm(t, r, m)
        found[f"layer_norm {rows} {n}"] = lambda t, r=rows, m=n: norm.check_layer_norm(t, r, m)
        found[f"softmax {rows} {n}"] = lambda t, r=rows, m=n: elementwise.check_softmax(t, r, m)
    found["softmax special"] = elementwise.check_softmax_special
    for size in rope.SIZES:
        for pairing in ("half", "interleaved"):
            found[f"rope {size} {pairing}"] = lambda t, a=size, p=pairing: rope.check_rope(t, *a, p)
    found["tables agree"] = lambda t: independence.check_tables(t, "scalar")
    return found


def failures(table: str) -> list[str]:
    """The probes that fail on this table."""
    failed = []
    for name, probe in probes().items():
        try:
            probe(table)
        except AssertionError:
            failed.append(name)
    return failed


@pytest.mark.skipif(not BROKEN, reason="this build has no broken tables (configure with -DLW_TEST_TABLES=ON)")
@pytest.mark.parametrize("broken", BROKEN or ["none"])
def test_every_broken_table_is_caught(broken: str) -> None:
    failed = [name for name in failures(broken) if name != "tables agree"]  # caught by values, not only by comparison
    assert failed, f"{broken} passes all {len(probes())} probes"


def test_healthy_tables_pass(table: str) -> None:
    assert failures(table) == []
