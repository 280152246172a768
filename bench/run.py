"""One sequence of a loaded model, timed: prefill and decode as the engine does them, without an engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from lanewise.cli.bench import Work
from lanewise.model.model import STEP_ROWS, Model


class Run:
    """A model and one sequence in pages 0, 1, ... Prefill goes in steps of STEP_ROWS rows, as in the engine."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.model = Model.load(folder, **how)
        self.work = Work(self.model.info(), self.model.memory_plan(context=1)["cache_per_token"])
        self.ids = np.random.default_rng(0).integers(10, self.model.vocabulary, 1 << 16).astype(np.int32)
        self.position = 0
        self.op_ns = np.zeros(len(self.model.ops), np.int64)
        self._logits = np.empty((1, self.model.vocabulary), np.float32)

    def step(self, n: int) -> None:
        """n more tokens of the sequence, logits of the last."""
        pages = self.model.pages_for(self.position + n)
        self.model.reserve_pages(pages)
        self.model.run(
            self.ids[self.position : self.position + n],
            np.array([0, n], np.int32), np.array([self.position], np.int32),
            np.arange(pages, dtype=np.int32)[None], np.array([n - 1], np.int32), self._logits, self.op_ns,
        )  # fmt: skip
        self.position += n

    def prefill(self, n: int, depth: int = 0) -> float:
        """Seconds for n tokens at positions from depth on."""
        self.position, left = depth, n
        self.op_ns[:] = 0
        begin = time.perf_counter()
        while left:
            rows = min(left, STEP_ROWS)
            self.step(rows)
            left -= rows
        return time.perf_counter() - begin

    def decode(self, n: int, depth: int) -> float:
        """Seconds for n tokens, one after another, from position depth on; what is before must have been computed."""
        self.position = depth
        self.op_ns[:] = 0
        begin = time.perf_counter()
        for _ in range(n):
            self.step(1)
        return time.perf_counter() - begin

    @property
    def arithmetic(self) -> str:
        """Which limit the products of this model have."""
        return self.work.arithmetic

    def ops(self) -> dict[str, float]:
        """Seconds by kind of op (a product also by its shape) since the last prefill or decode began."""
        seconds: dict[str, float] = {}
        for op, ns in zip(self.model.ops, self.op_ns.tolist(), strict=True):
            name = op.kind if op.weight is None else f"{op.kind} {op.weight.n} x {op.weight.k}"
            seconds[name] = seconds.get(name, 0.0) + ns * 1e-9
        return dict(sorted(seconds.items(), key=lambda item: -item[1]))
