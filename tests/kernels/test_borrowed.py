"""Weights over lines that lie elsewhere, and their checksum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lanewise import _native
from lanewise.model.model import make_context


def aligned(data: bytes, offset: int = 0) -> memoryview:
    room = np.empty(len(data) + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    room[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return memoryview(room)[start : start + len(data)]


def test_borrowed_lines() -> None:
    ctx = make_context(None, 2)
    own = _native.Weight("float32", 40, 7)
    values = np.arange(280, dtype=np.float32).reshape(40, 7)
    own.pack(ctx, values, "float32")
    data = bytes(memoryview(own))
    assert len(data) == own.nbytes
    assert memoryview(own).readonly
    lent = _native.Weight("float32", 40, 7, aligned(data))
    assert lent.checksum(ctx) == own.checksum(ctx) == own.checksum(make_context(None, 1))
    out = np.empty((40, 7), np.float32)
    lent.unpack(0, out)
    assert (out == values).all()
    with pytest.raises(ValueError, match="out of range"):
        lent.pack(ctx, values, "float32")
    for wrong in (data[:-64], data + bytes(64), b""):
        with pytest.raises(ValueError, match="bytes of lines expected"):
            _native.Weight("float32", 40, 7, aligned(wrong))
    with pytest.raises(ValueError, match="out of range"):
        _native.Weight("float32", 40, 7, aligned(data, 4))
    with pytest.raises(ValueError, match="out of range"):
        _native.Weight("int8", 16, 4, aligned(bytes(64)))


@given(n=st.integers(1, 70), k=st.integers(1, 40), data=st.data())
@example(n=4096, k=80, data=None)  # over a chunk
def test_checksum(n: int, k: int, data: Any) -> None:
    """Any word that differs shows, and threads do not matter."""
    size = _native.packed_size("float32", n, k)
    held = np.random.default_rng(n * k).integers(0, 256, size, np.uint8).tobytes()
    whole = _native.Weight("float32", n, k, aligned(held)).checksum(make_context(None, 1))
    word = data.draw(st.integers(0, size // 8 - 1)) if data else size // 8 - 3
    change = data.draw(st.integers(1, 2**64 - 1)) if data else 1 << 63
    other = np.frombuffer(held, np.uint64).copy()
    other[word] ^= np.uint64(change)
    weight = _native.Weight("float32", n, k, aligned(other.tobytes()))
    assert weight.checksum(make_context(None, 1)) != whole
    assert weight.checksum(make_context(None, 3)) == weight.checksum(make_context(None, 1))
