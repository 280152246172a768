"""Every tensor type of GGUF, expanded, against ggml's own `to_float`: bit for bit, random and extreme scales."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quants
from lanewise.model.gguf_types import TYPES, TensorType, expand

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.peer
EXPANDED = {number: kind for number, kind in TYPES.items() if kind.values is not None or kind.name == "F16"}
HALVES = [half for half in quants.HALVES if half & 0x7FFF <= 0x7C00]  # no NaN: its payload is nobody's promise


class Traits(ctypes.Structure):
    """struct ggml_type_traits (ggml.h); `theirs` checks that it is still this one."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("quantised", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def theirs(rows: Any, number: int) -> Any:
    """What ggml's reference decoder of a type makes of the blocks."""
    found = sorted((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))
    if not found:
        pytest.skip("this build of llama.cpp has no library of its own for its types")
    ask = ctypes.CDLL(str(found[0])).ggml_get_type_traits
    ask.restype, ask.argtypes = ctypes.POINTER(Traits), [ctypes.c_int]
    traits, kind = ask(number).contents, TYPES[number]
    assert (traits.name.decode().upper(), traits.block, traits.size) == (kind.name, kind.block, kind.size)
    rows = np.ascontiguousarray(rows)
    out = np.full((len(rows), rows.shape[1] // kind.size * kind.block), np.nan, np.float32)
    traits.to_float(rows.ctypes.data, out.ctypes.data, out.size)
    return out


def assert_equal(rows: Any, number: int) -> None:
    """The same bits; an infinite scale times 0 is a NaN, which only has to be at the same places."""
    got, wanted = expand(rows, TYPES[number]), theirs(rows, number)
    nan = np.isnan(wanted)
    assert (np.isnan(got) == nan).all()
    assert (got.view(np.uint32) == wanted.view(np.uint32))[~nan].all()


def raw(kind: TensorType, n: int, seed: int, scales: list[int] | None = None) -> Any:
    """n rows of two blocks, every byte drawn; float16 scales normal numbers, or drawn from `scales`."""
    if kind.name.lower() in quants.STORED:
        return quants.blocks(kind.name.lower(), n, 2 * kind.block, seed, scales)
    bits = np.random.default_rng(seed).integers(0, 1 << 16, (n, 64), np.uint16)  # F16, BF16
    return bits.view(np.uint8)


@pytest.mark.parametrize("number", EXPANDED, ids=lambda number: TYPES[number].name)
def test_random_blocks(number: int) -> None:
    for scales in (None, HALVES):
        assert_equal(raw(EXPANDED[number], 500, 3, scales), number)


@pytest.mark.parametrize("number", EXPANDED, ids=lambda number: TYPES[number].name)
def test_every_code_beside_every_extreme_scale(number: int) -> None:
    """Each byte of a block takes all 256 values."""
    kind = EXPANDED[number]
    name = kind.name.lower()
    for seed, half in enumerate(HALVES):
        start = np.random.default_rng(seed).integers(0, 256, kind.size)
        rows = ((start + np.arange(256)[:, None]) % 256).astype(np.uint8)
        for at in quants.SCALES.get(name, []):
            rows[:, at : at + 2] = np.array([half], "<u2").view(np.uint8)
        assert_equal(rows, number)


@pytest.mark.parametrize("number", EXPANDED, ids=lambda number: TYPES[number].name)
def test_every_finite_scale(number: int) -> None:
    """All float16 that are numbers (MXFP4: all bytes), beside random codes."""
    kind = EXPANDED[number]
    finite = [half for half in range(1 << 16) if half & 0x7FFF < 0x7C00]
    rows = raw(kind, len(finite), 5)
    cells = rows.reshape(-1, kind.size)
    for at in quants.SCALES.get(kind.name.lower(), []):
        cells[:, at : at + 2] = np.array(2 * finite, "<u2").view(np.uint8).reshape(-1, 2)
    if kind.name == "MXFP4":
        cells[:, 0] = np.arange(len(cells)) % 256
    if kind.name == "IQ1_M":
        for word in range(4):  # a nibble of the scale at the top of each
            nibble = np.array(2 * finite) >> 4 * word & 15
            cells[:, 49 + 2 * word] = cells[:, 49 + 2 * word] & 15 | nibble << 4
    assert_equal(rows, number)


def test_a_wrong_scale_is_seen() -> None:
    rows = raw(TYPES[2], 4, 1)
    other = rows.copy()
    other[2, 0] ^= 1
    assert not np.array_equal(expand(rows, TYPES[2]), theirs(other, 2))
