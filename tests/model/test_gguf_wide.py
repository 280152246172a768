"""Types of GGUF in wider packed classes: the values of the gguf package bit for bit, all codes, extreme scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quants as q
from lanewise import kernels
from lanewise.model import gguf_wide
from lanewise.model.gguf_books import PARTS, book
from lanewise.model.gguf_types import TYPES
from lanewise.model.gguf_wide import LEVELS, WIDER, widened

quants = pytest.importorskip("gguf.quants")
gguf = pytest.importorskip("gguf")
KINDS = {kind.name: kind for kind in TYPES.values() if kind.name in WIDER}


def assert_widens(name: str, rows: Any) -> None:
    found = kernels.pack_blocks(widened(rows, name, KINDS[name].size), WIDER[name]).unpack()
    with np.errstate(all="ignore"):
        wanted = quants.dequantize(rows.copy(), gguf.GGMLQuantizationType[name])
    nan = np.isnan(wanted)
    assert (np.isnan(found) == nan).all()
    assert (found.view(np.uint32) == wanted.view(np.uint32))[~nan].all()


def test_every_type_has_a_class() -> None:
    quantised = {kind.name for kind in TYPES.values() if kind.values is not None} - {"BF16"}
    assert set(WIDER) == {name for name in quantised if name.lower() not in kernels.QUANTISED}


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 20), blocks=st.integers(1, 4), extreme=st.booleans())
def test_random_blocks(name: str, seed: int, rows: int, blocks: int, extreme: bool) -> None:
    assert_widens(name, q.blocks(name.lower(), rows, 256 * blocks, seed, q.HALVES if extreme else None))


@pytest.mark.parametrize("name", KINDS)
def test_every_code_beside_every_extreme_scale(name: str) -> None:
    """Each byte of a block takes all 256 values."""
    kind = KINDS[name]
    for seed, half in enumerate(q.HALVES):
        start = np.random.default_rng(seed).integers(0, 256, kind.size)
        rows = ((start + np.arange(256)[:, None]) % 256).astype(np.uint8)
        for at in q.SCALES[name.lower()]:
            rows[:, at : at + 2] = np.array([half], "<u2").view(np.uint8)
        assert_widens(name, rows)


@pytest.mark.parametrize("name", KINDS)
def test_every_scale(name: str) -> None:
    """All float16, beside random codes."""
    rows = q.blocks(name.lower(), 1 << 16, 256, 1)
    halves = np.arange(1 << 16, dtype=np.uint16)
    for at in q.SCALES[name.lower()]:
        rows[:, at : at + 2] = halves.astype("<u2").view(np.uint8).reshape(-1, 2)
    for word in range(4 if name == "IQ1_M" else 0):
        rows[:, 49 + 2 * word] = rows[:, 49 + 2 * word] & 15 | (halves >> 4 * word & 15) << 4
    assert_widens(name, rows)


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("TQ")])
def test_all_code_words_fit(name: str) -> None:
    """Every level of every word, of both signs, and for IQ1 with either delta, is in the table of the class."""
    words = book("IQ1_S" if name == "IQ1_M" else name).astype(int)
    possible = (
        {8 * level + delta for level in set(words.flat) for delta in (-1, 1)} if "IQ1" in name else set(words.flat)
    )
    assert possible | {-level for level in possible} <= set(LEVELS[WIDER[name]])


def test_order_and_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = q.blocks("iq2_s", 23, 512, 3)
    order = np.random.default_rng(2).permutation(23)
    whole = widened(rows, "IQ2_S", 82)
    monkeypatch.setattr(gguf_wide, "_SLICE", 5 * 512)
    assert np.array_equal(widened(rows, "IQ2_S", 82), whole)
    assert np.array_equal(widened(rows, "IQ2_S", 82, order), whole[order])
    assert widened(rows[:0], "IQ2_S", 82).shape == (0, 296)
    assert set(PARTS) == set(WIDER)
