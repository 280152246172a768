"""The pages of the key/value cache: who owns which, shared prefixes, growth.

A page holds `page_tokens` positions of every layer. A PageTable is one sequence's pages in order of position. Tables
made by fork() share pages; a shared page that is about to be written is copied first. Not thread-safe: every method
here is called with the engine's lock held, except dropping a table, which may happen anywhere at any time.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PageStore(Protocol):
    """What a pool needs of a model."""

    page_tokens: int

    def reserve_pages(self, n: int) -> None: ...  # grow to n pages in all, or MemoryError
    def copy_page(self, src: int, dst: int) -> None: ...


class PagePool:
    """All pages of one model. refs[page] tables hold a page; the pages that nobody holds are in `free`.

    max_pages: never more than this, None: as many as the store gives.
    """

    def __init__(self, store: PageStore, max_pages: int | None = None) -> None:
        self.store = store
        self.page_tokens = int(store.page_tokens)
        self.max_pages = max_pages
        self.refs: list[int] = []
        self.free: list[int] = []
        self.abandoned: deque[list[int]] = deque()  # pages of tables that were dropped without free()
        self.tables: weakref.WeakSet[PageTable] = weakref.WeakSet()

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def used(self) -> int:
        """Pages that some table holds."""
        self._drain()
        return len(self.refs) - len(self.free)

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` positions take."""
        return -(-tokens // self.page_tokens)

    def table(self) -> PageTable:
        """A new, empty table."""
        return PageTable(self)

    def take(self) -> int:
        """A page that nobody holds, now held once. MemoryError if there is none and the pool cannot grow."""
        if not self.free:
            self._drain()
        if not self.free:
            self._grow(1)
        page = self.free.pop()
        self.refs[page] = 1
        return page

    def share(self, pages: list[int]) -> None:
        """One more table holds these pages."""
        for page in pages:
            self.refs[page] += 1

    def give(self, pages: list[int]) -> None:
        """One table less holds these pages."""
        for page in pages:
            self.refs[page] -= 1
            if self.refs[page] == 0:
                self.free.append(page)

    def rebuild(self) -> None:
        """Counts again who holds what: an interrupt may have struck between two lines of the methods above."""
        tables = list(self.tables)
        self.abandoned.clear()
        counts = Counter(page for table in tables for page in table.pages)
        self.refs = [counts[page] for page in range(len(self.refs))]
        self.free = [page for page, count in enumerate(self.refs) if count == 0]

    def _drain(self) -> None:
        while self.abandoned:
            self.give(self.abandoned.popleft())

    def _grow(self, need: int) -> None:
        have = len(self.refs)
        limit = self.max_pages if self.max_pages is not None else 2 * have + 16
        want = min(max(have + need, 2 * have, 16), limit)
        if want < have + need:
            raise MemoryError(f"the key/value cache is full: {have} pages of {self.page_tokens} tokens are in use")
        try:
            self.store.reserve_pages(want)
        except MemoryError:
            want = have + need
            self.store.reserve_pages(want)
        self.refs.extend([0] * (want - have))
        self.free.extend(range(want - 1, have - 1, -1))


class PageTable:
    """One sequence's pages. `length` positions hold valid keys and values; pages may reach further."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.pages: list[int] = []
        self.length = 0
        pool.tables.add(self)

    def ensure(self, end: int) -> None:
        """Makes positions length .. end-1 writable: pages for all of them, none shared with another table.

        MemoryError if there are not enough; what was got until then stays and is used by the next try.
        """
        pool = self.pool
        first = self.length // pool.page_tokens
        for index in range(first, min(len(self.pages), pool.pages_for(end))):
            page = self.pages[index]
            if pool.refs[page] > 1:
                fresh = pool.take()
                if index * pool.page_tokens < self.length:  # the part before `length` is still wanted
                    pool.store.copy_page(page, fresh)
                self.pages[index] = fresh
                pool.give([page])
        while len(self.pages) < pool.pages_for(end):
            self.pages.append(pool.take())

    def fork(self) -> PageTable:
        """Another table with the same positions, sharing every page that holds one of them."""
        other = PageTable(self.pool)
        pages = self.pages[: self.pool.pages_for(self.length)]
        self.pool.share(pages)
        other.pages, other.length = pages, self.length
        return other

    def truncate(self, length: int) -> None:
        """Keeps the first `length` positions and gives back the pages beyond them."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} positions to {length}")
        keep = self.pool.pages_for(length)
        rest, self.pages, self.length = self.pages[keep:], self.pages[:keep], length
        self.pool.give(rest)

    def free(self) -> None:
        """Gives back every page; the table is then empty and may be used again."""
        rest, self.pages, self.length = self.pages, [], 0
        self.pool.give(rest)

    def fill(self, row: NDArray[np.int32]) -> None:
        """Writes the page numbers into int32[width]; columns beyond them are 0."""
        n = len(self.pages)
        row[:n] = self.pages
        row[n:] = 0

    def __del__(self) -> None:
        pages, self.pages = self.pages, []
        if pages:
            self.pool.abandoned.append(pages)
