"""Where the shared test data lies: $LANEWISE_SHARED, or `../shared` beside the repository. Tests skip without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("LANEWISE_SHARED") or Path(__file__).resolve().parents[1].parent / "shared")

needs_shared = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"no shared test data at {ROOT}; set LANEWISE_SHARED to its folder"
)


def shared(*parts: str) -> Path:
    """The path of something in the shared data; skips the test where it is absent."""
    path = ROOT.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared test data at {path}; set LANEWISE_SHARED to its folder")
    return path
