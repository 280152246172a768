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


def test_weights_in_one_memory() -> None:
    """Packed side by side they are what they are alone; the memory lives as long as one of them."""
    ctx = make_context(None, 2)
    shapes = [("float32", 40, 7), ("bfloat16", 17, 33), ("q4_0", 48, 64)]
    sizes = [_native.packed_size(*shape) for shape in shapes]
    memory = _native.Memory(sum(sizes))
    assert memory.nbytes == sum(sizes)
    assert not any(memoryview(memory))
    rest, placed, alone = memoryview(memory), [], []
    for (format, n, k), size in zip(shapes, sizes, strict=True):
        placed.append(_native.Weight(format, n, k, rest[:size], empty=True))
        alone.append(_native.Weight(format, n, k))
        rest = rest[size:]
    for lot in (placed, alone):
        for weight in lot:
            if weight.format == "q4_0":
                weight.pack(ctx, np.arange(48 * 36, dtype=np.uint8).reshape(48, 36), "blocks")
            else:
                values = np.arange(weight.n * weight.k, dtype=np.float32).reshape(weight.n, weight.k)
                weight.pack(ctx, values, "float32")
    del memory, rest
    for ours, theirs in zip(placed, alone, strict=True):
        assert bytes(memoryview(ours)) == bytes(memoryview(theirs))
    with pytest.raises(BufferError):
        _native.Weight("float32", 16, 1, bytes(64), empty=True)  # read only
    with pytest.raises(ValueError, match="out of range"):
        _native.Weight("int8", 16, 4, memoryview(_native.Memory(64)), empty=True)
    with pytest.raises(MemoryError):
        _native.Memory(1 << 62)


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
