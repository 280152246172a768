"""Buffers between two pages that nobody may touch: a kernel that goes past an end stops the process at once."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
POISON = np.uint32(0x7FC0DEAD)  # a NaN that no kernel makes
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _forbid(address: int, size: int) -> None:
    if _libc.mprotect(address, size, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(shape: tuple[int, ...] | int, dtype: Any = np.float32, side: str = "end") -> np.ndarray:
    """A poisoned array whose last (side="start": first) byte touches a forbidden page; the other side has one too."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = int(np.prod(shape, dtype=np.int64))
    body = -(-max(count * dtype.itemsize, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, body + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _forbid(address, PAGE)
    _forbid(address + PAGE + body, PAGE)
    offset = PAGE + (body - count * dtype.itemsize if side == "end" else 0)
    out = np.frombuffer(memory, dtype, count, offset).reshape(shape)  # keeps the mapping alive
    poison(out)
    return out


def guard(x: Any, side: str = "end") -> np.ndarray:
    """A copy of x in such a buffer."""
    x = np.asarray(x)
    out = guarded(x.shape, x.dtype, side)
    out[...] = x
    return out


def poison(x: np.ndarray) -> np.ndarray:
    """Fills x with a pattern that a kernel does not write by accident."""
    if x.dtype == np.float32 and x.size:
        x.view(np.uint32)[...] = POISON
    elif x.size:
        x.view(np.uint8)[...] = 0xA5
    return x


def is_poison(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32) == POISON


SIDES = ("end", "start")
