"""Engine: one model, its pages, one step at a time. Scheduler: who takes part in each step of one call.

Several threads may each run a Scheduler on one Engine: their steps take turns, their pages are their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import LanewiseError
from ..memory import empty
from ..model.spec import STEP_ROWS
from ..results import Chunk
from .batch import Work, build
from .pages import PagePool, PageTable
from .request import Request, clock

Floats = NDArray[np.float32]

MAX_SEQUENCES = 64  # sequences that run at once; others of the call wait


class Engine:
    """A model with its page pool. `lock` is held for each step and for every change of pages."""

    def __init__(self, model: Any, max_pages: int | None = None) -> None:
        self.model = model
        self.lock = threading.RLock()
        self.pool = PagePool(model, max_pages)
        self.closed = False

    def softmax(self, x: Floats) -> Floats:
        """float32[n] -> float32[n], the same bits on every machine; needs no lock."""
        result: Floats = self.model.softmax(x)
        return result

    def play(self, works: Sequence[Work], out: Floats | None = None) -> Floats:
        """One step; afterwards the tables hold the new positions. -> float32[sum of wanted, vocabulary].

        out: where the logits go, if it has that shape. If anything fails no table has changed its length.
        """
        with self.lock:
            self.check_open()
            try:
                for work in works:
                    work.table.ensure(work.table.length + work.tokens.size)
                batch = build(works)
                logits: Floats = self.model.run(
                    batch.tokens, batch.row_starts, batch.first_position, batch.page_table, batch.logit_rows, out
                )
                for work in works:
                    work.table.length += work.tokens.size
            except Exception:
                raise
            except BaseException:  # an interrupt may have struck anywhere
                self.pool.rebuild()
                raise
        return logits

    def prefill(self, table: PageTable, tokens: NDArray[np.int32], wanted: bool = True) -> Floats | None:
        """Runs int32[n] tokens of one sequence in chunks. -> float32[vocabulary] of the last row, if wanted."""
        logits = None
        for start in range(0, tokens.size, STEP_ROWS):
            chunk = tokens[start : start + STEP_ROWS]
            last = wanted and start + chunk.size == tokens.size
            logits = self.play([Work(table, chunk, int(last))])
        return logits[0] if wanted and logits is not None else None

    def fork(self, table: PageTable) -> PageTable:
        """Another table that shares the pages of `table`."""
        with self.lock:
            self.check_open()
            return table.fork()

    def truncate(self, table: PageTable, length: int) -> None:
        """Keeps the first `length` positions of `table`."""
        with self.lock:
            table.truncate(length)

    def free(self, table: PageTable) -> None:
        """Gives back the pages of `table`."""
        with self.lock:
            table.free()

    def check_open(self) -> None:
        """LanewiseError if the engine was closed."""
        if self.closed:
            raise LanewiseError("this LLM is closed: load it again to use it")

    def close(self) -> None:
        """Waits for a running step, then closes the model."""
        with self.lock:
            if not self.closed:
                self.closed = True
                self.model.close()


class Progress(NamedTuple):
    """How far a call is: tokens of all prompts (done, total), tokens generated, requests finished, requests."""

    prompt_done: int
    prompt_total: int
    generated: int
    finished: int
    requests: int


class Scheduler:
    """One static batch: requests that start together and leave as they finish. Close it, also after an error."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Request],
        on_step: Callable[[Progress], None] | None = None,
        max_rows: int = STEP_ROWS,
    ) -> None:
        """on_step: called after every step, before its chunks are given."""
        self.engine = engine
        self.on_step = on_step
        self.requests = list(requests)  # in order of priority
        self.unfinished = list(requests)
        self.max_rows = max_rows
        self._buffer: Floats = np.empty((0, 0), np.float32)

    def __iter__(self) -> Iterator[Chunk]:
        """Steps until all are finished; every token is a Chunk. Closes itself at the end, whatever the end is."""
        try:
            while self.unfinished:
                chunks = self.step()
                if self.on_step is not None:
                    self.on_step(self.progress())
                yield from chunks
        except KeyboardInterrupt:
            self.close()
            with self.engine.lock:
                self.engine.pool.rebuild()
            raise
        finally:
            self.close()

    def step(self) -> list[Chunk]:
        """One engine step: a chunk for every sequence that got a token or ended."""
        chunks = self._expire(clock())
        with self.engine.lock:  # pages are chosen and used in one piece
            chosen = self._choose()
            if not chosen:
                return chunks
            now = clock()
            for request, _ in chosen:
                request.first_step = request.first_step or now
            works = [Work(r.table, r.next_tokens(n), int(n == r.pending)) for r, n in chosen]
            logits = self.engine.play(works, self._out(sum(work.wanted for work in works)))
        done = [request for (request, _), work in zip(chosen, works, strict=True) if work.wanted]
        for request, row in zip(done, logits, strict=True):
            for follower in request.followers:
                follower.table, follower.leader = self.engine.fork(request.table), None
                follower.first_step = request.first_step
            together = [request, *request.followers]
            request.followers = []
            chunks += [self._note(each, each.accept(row)) for each in together]
        return chunks

    def progress(self) -> Progress:
        """How far it is."""
        leaders = [r for r in self.requests if r.index == 0]
        prompts = [(r.prompt_length if r.finish_reason else min(r.table.length, r.prompt_length)) for r in leaders]
        return Progress(
            prompt_done=sum(prompts),
            prompt_total=sum(r.prompt_length for r in leaders),
            generated=sum(r.generated for r in self.requests),
            finished=len(self.requests) - len(self.unfinished),
            requests=len(self.requests),
        )

    def close(self) -> None:
        """Gives back the pages of requests that are not finished."""
        for request in self.unfinished:
            self._release(request)
        self.unfinished = []

    def _choose(self) -> list[tuple[Request, int]]:
        """Who runs, and how many rows: first those that decode, then prompts, each in order of priority."""
        ready = [r for r in self.unfinished if r.ready][:MAX_SEQUENCES]
        chosen: list[tuple[Request, int]] = []
        budget = self.max_rows
        for request in sorted(ready, key=lambda r: r.pending > 1):
            rows = min(request.pending, budget)
            if rows and self._get_pages(request, rows, chosen):
                chosen.append((request, rows))
                budget -= rows
        return [(r, rows) for r, rows in chosen if r.table.pages]  # one may have lost its pages to an earlier one

    def _get_pages(self, request: Request, rows: int, chosen: list[tuple[Request, int]]) -> bool:
        """Pages for `rows` more; where memory is short, from requests of lower priority, which start over later.

        Starting over gives the same bits, because prefill and decode do.
        """
        while True:
            try:
                request.table.ensure(request.table.length + rows)
                return True
            except MemoryError:
                others = [r for r in self.unfinished if r is not request and r.table.pages]
                at = self.unfinished.index(request)
                lower = [r for r in self.unfinished[at + 1 :] if r.table.pages]
                if not others:
                    raise
                if not lower:
                    return False
                lower[-1].table.free()

    def _expire(self, now: float) -> list[Chunk]:
        """Ends what was cancelled or ran out of time, and samples that waited for a prompt that ended so."""
        chunks = []
        for r in self.unfinished[:]:
            if r.expired(now) or (r.leader is not None and r.leader.finish_reason is not None):
                chunks.append(self._note(r, r.finish("cancelled")))
        return chunks

    def _note(self, request: Request, chunk: Chunk) -> Chunk:
        if request.finish_reason is not None:
            self.unfinished.remove(request)
            self._release(request)
        return chunk

    def _release(self, request: Request) -> None:
        if not request.keep:
            self.engine.free(request.table)

    def _out(self, rows: int) -> Floats:
        if rows > self._buffer.shape[0]:
            self._buffer = empty((rows, self.engine.model.vocabulary))
        return self._buffer[:rows]
