"""bench/scaling.py: what a row says, and that every kind of weights is measured on every number of threads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))  # last: the folders of the tests have names that are there, too

import common  # noqa: E402
import scaling  # noqa: E402


def test_a_row_is_a_figure_then_speed_ups() -> None:
    by_count = {1: {"rate": 4e9, "fraction": 0.5}, 2: {"rate": 6e9, "fraction": 0.375}}
    assert scaling.cells(by_count, "rate", 1e-9) == ["4 50%", "1.50x 38%"]


def test_blocks_of_256_need_whole_ones() -> None:
    assert scaling.whole("q4_0", 896)
    assert scaling.whole("float32", 7)
    assert not scaling.whole("q4_k", 896)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "q4_0"])
def test_products_by_number_of_threads(kind: str) -> None:
    contexts = {count: common.make_context(None, count) for count in (1, 2)}
    found = scaling.product(kind, (3, 1024, 512), contexts, argparse.Namespace(repeat=1, seconds=0.0))
    assert found["shape"] == [3, 1024, 512]
    assert sorted(found["threads"]) == [1, 2]
    assert all(f["operations_per_second"] > 0 and f["fraction"] > 0 for f in found["threads"].values())
