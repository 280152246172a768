"""What one engine step computes, as the flat int32 arrays that cross into C once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .pages import PageTable

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Work:
    """Rows of one sequence: `tokens` int32[rows] at positions table.length on; logits of the last `wanted` rows."""

    table: PageTable
    tokens: Ints
    wanted: int = 0


@dataclass(frozen=True)
class Batch:
    """The arguments of Model.run. Rows of sequence s are row_starts[s] .. row_starts[s + 1] - 1."""

    tokens: Ints  # [rows]
    row_starts: Ints  # [sequences + 1]
    first_position: Ints  # [sequences]
    page_table: Ints  # [sequences, width]
    logit_rows: Ints  # [n], ascending


def build(works: Sequence[Work]) -> Batch:
    """The batch of these works; every table must have the pages already (PageTable.ensure)."""
    starts, end = [0], 0  # plain lists: with few sequences faster than NumPy
    wanted: list[int] = []
    for work in works:
        end += work.tokens.size
        starts.append(end)
        wanted.extend(range(end - work.wanted, end))
    width = max([len(work.table.pages) for work in works])
    page_table = np.empty((len(works), width), np.int32)
    for row, work in zip(page_table, works, strict=True):
        work.table.fill(row)
    return Batch(
        tokens=np.concatenate([work.tokens for work in works]).astype(np.int32, copy=False),
        row_starts=np.array(starts, np.int32),
        first_position=np.array([work.table.length for work in works], np.int32),
        page_table=page_table,
        logit_rows=np.array(wanted, np.int32),
    )
