"""Where results lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64  # bytes of a line of the caches
FEW = 1 << 15  # values of a result with fewer of which the products are too short to gain


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    """As np.empty, but a large array begins on a cache line, where np.empty's begin 16 bytes behind one (glibc).

    Results whose every vector lies across two lines take a product up to 1.4 times as long.
    """
    values = math.prod(shape)
    if values < FEW:
        return np.empty(shape, dtype)
    kind = np.dtype(dtype)
    memory = np.empty(values * kind.itemsize + LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % LINE
    result: NDArray[Any] = memory[start : start + values * kind.itemsize].view(kind).reshape(shape)
    return result
