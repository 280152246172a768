"""ChatSession: a conversation that keeps its prefix in the cache, so that a turn runs only what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from .engine.pages import PageTable
from .engine.params import SamplingParams, check_names
from .engine.scheduler import Progress, Scheduler
from .errors import LanewiseError
from .results import Chunk, Result

if TYPE_CHECKING:
    from .llm import LLM


class ChatSession:
    """A conversation of one user with one model. Made by LLM.session; use it from one thread at a time.

    history: the messages so far, {"role", "content"} each; it may be edited between turns: what the cache holds of it
    is found by comparing token ids, and only the rest runs.
    """

    def __init__(self, llm: LLM, system: str | None, *, plain: bool, params: SamplingParams) -> None:
        self._llm = llm
        self._plain = plain
        self._params = params
        self._system = system
        self._table: PageTable | None = llm._table()
        self._cached = np.empty(0, np.int32)  # the ids whose keys and values the table holds
        self.history: list[dict[str, Any]] = []
        self.reset()

    def send(self, text: str, **keywords: Any) -> Result:
        """The model's answer to `text`. Keywords are those of SamplingParams, over the session's.

        usage.cached_tokens says how much of the prompt was in the cache. After an error the history is as before.
        """
        result = None
        for chunk in self.stream(text, **keywords):
            result = chunk.result
        assert result is not None
        return result

    def stream(
        self, text: str, *, progress: Callable[[Progress], None] | None = None, **keywords: Any
    ) -> Iterator[Chunk]:
        """Like send, as an iterator of Chunk. Closed early, the answer so far stays in the history."""
        check_names(keywords)
        params = self._params.with_changes(keywords)
        if params.n != 1:
            raise ValueError("a session has one answer per turn: n must be 1")
        messages = [*self.history, {"role": "user", "content": text}]
        ids = self._encode(messages)
        table = self._reuse(ids)
        (request,) = self._llm._requests(ids, params, None, table)
        return self._steps(Scheduler(self._llm._engine, [request], progress), messages)

    def _steps(self, scheduler: Scheduler, messages: list[dict[str, Any]]) -> Iterator[Chunk]:
        request = scheduler.requests[0]
        failed = True
        try:
            yield from scheduler
            failed = False
        except GeneratorExit:
            failed = False
            raise
        finally:
            # Interrupted or not, the cache holds exactly the first table.length ids.
            self._cached = request.ids[: request.table.length].copy()
            if not failed:
                self.history = [*messages, {"role": "assistant", "content": request.stream.text}]

    def reset(self) -> None:
        """Forgets the conversation, not the system message."""
        self.history = [] if self._system is None else [{"role": "system", "content": self._system}]

    @property
    def cached_tokens(self) -> int:
        """Tokens in the cache now."""
        return int(self._cached.size)

    def close(self) -> None:
        """Gives the pages back."""
        table, self._table = self._table, None
        if table is not None:
            self._llm._engine.free(table)

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _encode(self, messages: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.int32]]:
        llm = self._llm
        if not self._plain:
            return llm._encode_chat(messages, None)
        return llm._encode("".join(str(message["content"]) for message in messages))

    def _reuse(self, ids: np.ndarray[Any, np.dtype[np.int32]]) -> PageTable:
        """The table, cut to what it shares with `ids`; at least the last id runs, for its logits."""
        if self._table is None:
            raise LanewiseError("this ChatSession is closed")
        n = min(self._cached.size, ids.size - 1, self._table.length)
        different = np.flatnonzero(self._cached[:n] != ids[:n])
        common = int(different[0]) if different.size else n
        self._llm._engine.truncate(self._table, common)
        self._cached = self._cached[:common]
        return self._table
