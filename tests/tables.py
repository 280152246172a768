"""Which kernel tables the tests walk."""

from __future__ import annotations

import functools


@functools.cache
def usable_tables() -> tuple[str, ...]:
    """The tables that this machine runs, without the deliberately broken ones of a test build."""
    from lanewise import kernels

    return tuple(name for name in kernels.tables() if not name.startswith("broken_"))
