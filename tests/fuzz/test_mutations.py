"""The fuzz targets without a fuzzer: inputs to start from, and some mutations of each, end well or in a LoadError."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from fuzz.targets import SMALL, TARGETS
from lanewise.errors import LoadError


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str, tmp_path: Path) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds = list(target.seeds())
    assert len(seeds) >= 5
    passed = changed = 0
    for data in seeds:
        assert len(data) <= SMALL
        with contextlib.suppress(LoadError):
            target.one(data, tmp_path)
            passed += 1
    assert passed >= 5
    for _ in range(400):
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 3))):
            data = target.mutator(data, rng) or data
        changed += data not in seeds
        with contextlib.suppress(LoadError):
            target.one(data, tmp_path)
    assert changed >= 200
