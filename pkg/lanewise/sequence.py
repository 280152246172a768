"""Sequence: the two phases by name. prefill gives one; decode adds a token and gives the logits after it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .engine.pages import PageTable
from .engine.scheduler import Engine
from .errors import ContextError, LanewiseError


class Sequence:
    """Tokens whose keys and values are in the cache. Made by LLM.prefill; use it from one thread at a time.

        s = llm.prefill("Once upon")
        logits = s.decode(int(s.logits.argmax()))

    Close it (or use it as a context manager) to give its pages back; a dropped one gives them back too.
    """

    def __init__(self, engine: Engine, context: int, table: PageTable, ids: list[int]) -> None:
        self._engine = engine
        self._context = context
        self._table: PageTable | None = table
        self._ids = ids
        self._logits: NDArray[np.float32] | None = None

    @property
    def position(self) -> int:
        """How many tokens it holds: the position of the next one."""
        return len(self._ids)

    @property
    def token_ids(self) -> list[int]:
        """A copy of its token ids."""
        return list(self._ids)

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32[vocabulary]: logits of the token after the last one. ValueError if it is empty."""
        table = self._open()
        if self._logits is None:
            if not self._ids:
                raise ValueError("an empty sequence has no logits: decode or extend it first")
            # After truncate: the last token runs once more, which writes the same keys and values again.
            self._engine.truncate(table, len(self._ids) - 1)
            self._logits = self._engine.prefill(table, np.array(self._ids[-1:], np.int32))
        assert self._logits is not None
        return self._logits

    def decode(self, token: int) -> NDArray[np.float32]:
        """Adds one token. -> float32[vocabulary], the same array as .logits until the next token.

        ContextError when the context is full, ValueError for an id outside the vocabulary.
        """
        return self.extend([token])

    def extend(self, tokens: Iterable[int]) -> NDArray[np.float32]:
        """Adds tokens, at least one, in one prefill. -> float32[vocabulary] after the last of them."""
        table = self._open()
        new = check_ids(tokens, self._engine.model.vocabulary)
        if new.size == 0:
            raise ValueError("no token to add")
        start = len(self._ids)
        if start + new.size > self._context:
            raise ContextError(start + int(new.size), self._context)
        if table.length < start:  # an interrupt before left less in the cache than there are ids
            new = np.concatenate([np.array(self._ids[table.length :], np.int32), new])
        try:
            logits = self._engine.prefill(table, new)
        except BaseException:
            if table.length > start:
                self._engine.truncate(table, start)
            raise
        assert logits is not None
        self._ids += new[new.size - (table.length - start) :].tolist()
        self._logits = logits
        return logits

    def fork(self) -> Sequence:
        """A second sequence with the same tokens; both go on alone and share the pages of what they have in common."""
        other = Sequence(self._engine, self._context, self._engine.fork(self._open()), list(self._ids))
        other._logits = self._logits
        return other

    def truncate(self, length: int) -> None:
        """Keeps the first `length` tokens. ValueError if there are fewer."""
        table = self._open()
        if not 0 <= length <= len(self._ids):
            raise ValueError(f"cannot truncate {len(self._ids)} tokens to {length}")
        if length < len(self._ids):
            self._engine.truncate(table, min(length, table.length))
            del self._ids[length:]
            self._logits = None

    def close(self) -> None:
        """Gives its pages back; every later use is an error."""
        table, self._table = self._table, None
        self._logits = None
        if table is not None:
            self._engine.free(table)

    def __enter__(self) -> Sequence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"<Sequence of {len(self._ids)} tokens{'' if self._table is not None else ', closed'}>"

    def _open(self) -> PageTable:
        if self._table is None:
            raise LanewiseError("this Sequence is closed")
        return self._table


def check_ids(ids: Iterable[int], vocabulary: int) -> NDArray[np.int32]:
    """int32[n] of token ids. TypeError for what is no whole number, ValueError outside 0 .. vocabulary - 1."""
    array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"token ids must be one-dimensional whole numbers, not {array.dtype} of shape {array.shape}")
    bad = np.flatnonzero((array < 0) | (array >= vocabulary))
    if bad.size:
        raise ValueError(f"token id {array[bad[0]]} at {bad[0]} is outside the vocabulary of {vocabulary}")
    return array.astype(np.int32)
