"""What hypothesis draws: sizes at the edges of tiles, panels, pages and segments; values and strides that hurt."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

PANEL = 16  # outputs in a panel
TILE_ROWS = (4, 6, 8, 12)  # rows of a tile, whatever the table
PAGE, SEGMENT = 64, 256  # tokens of a cache page, positions of an attention segment


def around(*lengths: int) -> list[int]:
    return sorted({n for length in lengths for n in (length - 1, length, length + 1) if n >= 0})


def edges(*lengths: int, most: int | None = None) -> st.SearchStrategy[int]:
    """Mostly the edges (0, 1, 2 and the neighbours of `lengths`), now and then anything up to the largest."""
    listed = [n for n in sorted({0, 1, 2, *around(*lengths)}) if most is None or n <= most]
    return st.one_of(st.sampled_from(listed), st.sampled_from(listed), st.integers(0, listed[-1]))


def rows(most: int = 26) -> st.SearchStrategy[int]:
    return edges(*TILE_ROWS, 16, 24, most=most)


def columns(most: int = 97) -> st.SearchStrategy[int]:
    return edges(*(PANEL * j for j in (1, 2, 3, 4, 5, 6)), most=most)


def depths(most: int = 260) -> st.SearchStrategy[int]:
    return edges(3, 4, 8, 16, 32, 64, 128, 256, most=most)


def lengths(most: int = SEGMENT + 2) -> st.SearchStrategy[int]:
    """Numbers of keys."""
    return edges(PANEL, 2 * PANEL, PAGE, 2 * PAGE, SEGMENT, SEGMENT + PAGE, 2 * SEGMENT, most=most)


def head_dims(most: int = 65) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 80, 128) if n <= most])


def windows() -> st.SearchStrategy[tuple[int, int]]:
    side = st.sampled_from([-1, -1, 0, 1, 2, 15, 16, 17, 63, 64, 65, 300])
    return st.tuples(side, side)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1e-30, -1e-30, 3e38, -3e38, 1e18, 255.0,
     np.inf, -np.inf, np.nan], np.float32,
)  # fmt: skip
KINDS = ("normal", "wide", "tiny", "equal", "zero")


def normal(seed: int, shape: Any) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def values(seed: int, shape: Any, kind: str = "normal") -> np.ndarray:
    """Finite float32 of a kind whose products stay finite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, np.float32)
    if kind == "wide":  # 40 binades
        x = x * np.exp2(rng.integers(-20, 20, shape)).astype(np.float32)
    elif kind == "tiny":  # subnormal
        x = x * np.float32(2.0**-130)
    elif kind == "equal":
        x = np.full(shape, rng.standard_normal(), np.float32)
    elif kind == "zero":
        x = np.zeros(shape, np.float32)
    return x.astype(np.float32)


def kinds() -> st.SearchStrategy[str]:
    return st.sampled_from(KINDS)


def special(seed: int, shape: Any, share: float = 0.2) -> np.ndarray:
    """Normal values with NaN, infinities, zeros, subnormals and the largest floats among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, np.float32)
    return np.where(rng.random(shape) < share, rng.choice(SPECIAL, shape), x).astype(np.float32)


def whole(seed: int, shape: Any, most: int = 8) -> np.ndarray:
    """Small whole numbers: sums of products of such are exact in float32."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


LAYOUTS = ("packed", "gap", "columns", "reversed", "shifted", "every second")


def layouts() -> st.SearchStrategy[str]:
    return st.sampled_from(LAYOUTS)


def laid_out(x: np.ndarray, layout: str, fill: float = np.nan) -> np.ndarray:
    """The values of x [.., m, n] in another memory layout; what lies between holds `fill`."""
    if layout == "packed" or x.ndim < 2:
        return np.ascontiguousarray(x)
    lead, m, n = x.shape[:-2], *x.shape[-2:]
    if layout == "columns":
        return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)
    if layout == "reversed":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    room = {"gap": (m, n + 5), "shifted": (m + 1, n + 1), "every second": (2 * m, 2 * n)}[layout]
    memory = np.full((*lead, *room), fill, x.dtype)
    view = {"gap": memory[..., :n], "shifted": memory[..., 1:, 1:], "every second": memory[..., ::2, ::2]}[layout]
    view[...] = x
    return view


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    """Where [0, length) is cut into pieces: ascending, from 0 to length."""
    inner = draw(st.lists(st.integers(0, length), max_size=4))
    return sorted({0, length, *inner})
