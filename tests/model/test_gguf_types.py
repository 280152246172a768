"""Every tensor type of GGUF, expanded, against the gguf package: bit for bit, all codes, random and extreme scales."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanewise.model import gguf_types
from lanewise.model.gguf_books import book
from lanewise.model.gguf_types import REMOVED, TYPES, TensorType, expand

quants = pytest.importorskip("gguf.quants")
gguf = pytest.importorskip("gguf")
EXPANDED = {t.name: t for t in TYPES.values() if t.values is not None or t.name in ("F32", "F16")}
# where the float16 scales of a block begin; MXFP4 has a byte, IQ1_M nibbles in four words
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "IQ2_XXS": [0], "IQ2_XS": [0],
    "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "TQ1_0": [52], "TQ2_0": [64],
}  # fmt: skip
HALVES = [0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7D01]


def reference(rows: Any, name: str) -> Any:
    with np.errstate(all="ignore"):
        return quants.dequantize(rows.copy(), gguf.GGMLQuantizationType[name])


def assert_equal(rows: Any, kind: TensorType) -> None:
    got, want = expand(rows, kind), reference(rows, kind.name)
    assert got.dtype == np.float32 == want.dtype
    assert got.shape == want.shape
    nan = np.isnan(want)
    assert (np.isnan(got) == nan).all()
    assert (got.view(np.uint32) == want.view(np.uint32))[~nan].all()


def test_table_is_the_packages() -> None:
    for kind in gguf.GGMLQuantizationType:
        if kind.value in TYPES and kind.name != "Q8_1":  # a type of activations; the package has its old size
            ours = TYPES[kind.value]
            assert (ours.name, ours.block, ours.size) == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
    wanted = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 IQ2_XXS IQ2_XS IQ2_S"
    wanted += " IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0"
    assert set(wanted.split()) == set(EXPANDED)
    assert not TYPES.keys() & REMOVED.keys()


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"])
def test_code_books(name: str) -> None:
    theirs = getattr(quants, name)
    theirs.init_grid()
    assert np.array_equal(book(name), theirs.grid.reshape(theirs.grid_shape))


@pytest.mark.parametrize("name", EXPANDED)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), blocks=st.integers(1, 5), extreme=st.booleans())
def test_random_blocks(name: str, seed: int, rows: int, blocks: int, extreme: bool) -> None:
    kind = EXPANDED[name]
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (rows, blocks * kind.size), np.uint8)
    if extreme:
        cells = raw.reshape(-1, kind.size)
        for at in SCALES.get(name, []):
            cells[:, at : at + 2] = random.choice(np.array(HALVES, np.uint16), len(cells)).view(np.uint8).reshape(-1, 2)
    assert_equal(raw, kind)


@pytest.mark.parametrize("name", EXPANDED)
def test_every_code_with_every_extreme_scale(name: str) -> None:
    """Each byte of a block takes all 256 values, beside each of the scales."""
    kind = EXPANDED[name]
    for seed, half in enumerate(HALVES):
        start = np.random.default_rng(seed).integers(0, 256, kind.size)
        raw = ((start + np.arange(256)[:, None]) % 256).astype(np.uint8)
        for at in SCALES.get(name, []):
            raw[:, at : at + 2] = np.array([half], "<u2").view(np.uint8)
        assert_equal(raw, kind)


def test_every_scale_of_mxfp4_and_iq1_m() -> None:
    raw = np.zeros((256, 17), np.uint8)
    raw[:, 0] = np.arange(256)
    raw[:, 1:] = np.arange(16) * 17
    assert_equal(raw, EXPANDED["MXFP4"])
    raw = np.random.default_rng(0).integers(0, 256, (1 << 16, 56), np.uint8)
    halves = np.arange(1 << 16)
    for word in range(4):  # a nibble of the scale at the top of each
        raw[:, 49 + 2 * word] = raw[:, 49 + 2 * word] & 15 | (halves >> 4 * word & 15) << 4
    assert_equal(raw, EXPANDED["IQ1_M"])


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "F16", "BF16"])
def test_order_and_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EXPANDED[name]
    raw = np.random.default_rng(1).integers(0, 120, (23, 3 * kind.size), np.uint8)
    order = np.random.default_rng(2).permutation(23)
    whole = expand(raw, kind)
    monkeypatch.setattr(gguf_types, "_SLICE", 5 * kind.block)
    assert np.array_equal(expand(raw, kind), whole, equal_nan=True)
    assert np.array_equal(expand(raw, kind, order), whole[order], equal_nan=True)


def test_what_cannot_be_expanded() -> None:
    with pytest.raises(ValueError, match="Q8_K"):
        expand(np.zeros((1, 292), np.uint8), TYPES[15])
    with pytest.raises(ValueError, match="Q4_0"):
        expand(np.zeros((1, 17), np.uint8), TYPES[2])
    assert expand(np.zeros((0, 18), np.uint8), TYPES[2]).shape == (0, 32)
    assert expand(np.zeros((3, 0), np.uint8), TYPES[2]).shape == (3, 0)


def test_memory_beside_the_result_is_small() -> None:
    kind, rows = EXPANDED["Q4_K"], 4096
    raw = np.zeros((rows, 8 * kind.size), np.uint8)
    tracemalloc.start()
    try:
        out = expand(raw, kind)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < out.nbytes + (24 << 20)
