"""Progress bars on a terminal, plain lines where the output is piped. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[float, float], None]  # (done, total)


class _Bar:
    """A rich bar that appears when the work has lasted `after` seconds and is not done."""

    def __init__(self, title: str, after: float) -> None:
        self.title, self.after = title, after
        self.started = time.perf_counter()
        self.terminal = sys.stderr.isatty()
        self.total = 0.0
        self._bar: Any = None
        self._task: Any = None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def report(self, done: float, total: float) -> None:
        self.total = total
        if not self.terminal or self.seconds < self.after or (self._bar is None and done >= total):
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def bar(
    title: str, unit: str = "", *, after: float = 0.3, line_after: float = 2.0, quiet: bool = False
) -> Iterator[Report]:
    """A function (done, total) that draws a bar, if the work lasts longer than `after` seconds.

    Piped, it is one plain line at the end of work of more than `line_after` seconds. quiet=True shows nothing.
    """
    if quiet:
        yield lambda done, total: None
        return
    state = _Bar(title, after)
    try:
        yield state.report
    finally:
        state.stop()
    if not state.terminal and state.seconds > line_after:
        amount = f"{state.total:,.0f}{' ' + unit if unit else ''} in " if state.total else ""
        print(f"{title}: {amount}{state.seconds:.1f} s", file=sys.stderr)
