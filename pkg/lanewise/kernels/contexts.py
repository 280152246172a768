"""Which table and how many threads: one C context for each pair, made when first used and kept."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .. import _native

_isa: ContextVar[str | None] = ContextVar("lanewise_isa", default=None)
_threads: ContextVar[int] = ContextVar("lanewise_threads", default=0)
_made: dict[tuple[str | None, int], _Shared] = {}
_making = threading.Lock()


class _Shared:
    """A context serves one call at a time: whoever holds the lock."""

    def __init__(self, isa: str | None, threads: int) -> None:
        self.context = _native.Context(isa, threads)
        self.lock = threading.Lock()


def current() -> _Shared:
    """The context of this call, to be used by whoever holds its lock."""
    key = _isa.get(), _threads.get()
    shared = _made.get(key)
    if shared is not None:
        return shared
    with _making:
        if key not in _made:
            _made[key] = _Shared(*key)
        return _made[key]


def _after_fork() -> None:
    """Locks that another thread held at the fork would never be released in the child."""
    global _making
    _making = threading.Lock()
    for shared in _made.values():
        shared.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def borrowed() -> Iterator[_native.Context]:
    """The context for this call, alone."""
    shared = current()
    with shared.lock:
        yield shared.context


def context() -> _native.Context:
    """The context that a call made here would use; its `isa`, `threads` and `has_dot` say what that is."""
    return current().context


def tables() -> list[str]:
    """The kernel tables that this machine can run, best first."""
    return [table.name for table in _native.isas() if table.missing is None]


@contextmanager
def isa(name: str) -> Iterator[None]:
    """Calls inside use the table `name`."""
    missing = {table.name: table.missing for table in _native.isas()}
    if name not in missing:
        raise ValueError(f"isa: this build has no table {name!r}; it has {', '.join(missing)}")
    if missing[name] is not None:
        usable = ", ".join(tables())
        raise ValueError(f"isa: this machine cannot run {name!r}, it lacks {missing[name]}; usable: {usable}")
    token = _isa.set(name)
    try:
        yield
    finally:
        _isa.reset(token)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Calls inside use n threads (the result does not depend on it)."""
    n = operator.index(n)
    if n < 1:
        raise ValueError(f"threads: a number from 1 on expected, got {n}")
    token = _threads.set(n)
    try:
        yield
    finally:
        _threads.reset(token)
