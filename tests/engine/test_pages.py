"""The page pool: every page exactly once, whatever happens, against a plain dictionary of what each table holds."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from lanewise.engine.pages import PagePool

TOKENS = 4
LIMIT = 12


class Store:
    """Pages as lists of cells."""

    page_tokens = TOKENS

    def __init__(self, limit):
        self.limit, self.pages = limit, []

    def reserve_pages(self, n):
        if n > self.limit:
            raise MemoryError
        self.pages += [[None] * TOKENS for _ in range(n - len(self.pages))]

    def copy_page(self, src, dst):
        self.pages[dst] = list(self.pages[src])


class Pages(RuleBasedStateMachine):
    tables = Bundle("tables")

    def __init__(self):
        super().__init__()
        self.store = Store(LIMIT)
        self.pool = PagePool(self.store)
        self.live = {}  # table -> the values that it must hold
        self.next = 0

    @rule(target=tables)
    def new(self):
        table = self.pool.table()
        self.live[table] = []
        return table

    @rule(table=tables, count=st.integers(1, 2 * TOKENS + 1))
    def write(self, table, count):
        try:
            table.ensure(table.length + count)
        except MemoryError:
            assert self.pool.used == LIMIT
            return
        for position in range(table.length, table.length + count):
            self.store.pages[table.pages[position // TOKENS]][position % TOKENS] = self.next
            self.live[table].append(self.next)
            self.next += 1
        table.length += count

    @rule(target=tables, table=tables)
    def fork(self, table):
        other = table.fork()
        self.live[other] = list(self.live[table])
        return other

    @rule(table=tables, part=st.floats(0, 1))
    def truncate(self, table, part):
        length = round(part * table.length)
        table.truncate(length)
        del self.live[table][length:]

    @rule(table=consumes(tables))
    def free(self, table):
        table.free()
        del self.live[table]

    @rule(table=tables)
    def interrupted(self, table):
        """Ctrl-C between two lines of the pool: a page taken and lost, a count wrong."""
        if self.pool.free:
            self.pool.free.pop()
        if self.pool.refs:
            self.pool.refs[-1] += 1
        self.pool.rebuild()

    @invariant()
    def each_page_once(self):
        held = Counter(page for table in self.live for page in table.pages)
        assert self.pool.used == len(held)
        assert sorted([*held, *self.pool.free]) == list(range(len(self.pool)))
        assert all(self.pool.refs[page] == count for page, count in held.items())
        assert len(self.pool) <= LIMIT

    @invariant()
    def each_table_reads_its_own(self):
        for table, values in self.live.items():
            cells = [cell for page in table.pages for cell in self.store.pages[page]]
            assert cells[: table.length] == values


Pages.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPages = Pages.TestCase


def test_growth_doubles_and_then_takes_what_is_left():
    pool = PagePool(Store(40))
    tables = [pool.table() for _ in range(40)]
    for table in tables:
        table.ensure(1)
    assert len(pool) == 40
    with pytest.raises(MemoryError):
        pool.table().ensure(1)
    tables[7].free()
    pool.table().ensure(TOKENS)


def test_own_limit():
    pool = PagePool(Store(100), max_pages=3)
    table = pool.table()
    table.ensure(3 * TOKENS)
    with pytest.raises(MemoryError, match="3 pages"):
        table.ensure(3 * TOKENS + 1)
    assert pool.used == 3


def test_fork_copies_only_the_page_that_is_written():
    store = Store(100)
    pool = PagePool(store)
    table = pool.table()
    table.ensure(10)
    table.length = 10
    other = table.fork()
    other.ensure(11)
    assert other.pages[:2] == table.pages[:2]
    assert other.pages[2] != table.pages[2]
    before = list(table.pages)
    table.ensure(11)  # the only owner of its last page now
    assert table.pages == before


def test_dropped_tables_give_their_pages_back():
    pool = PagePool(Store(100))
    table = pool.table()
    table.ensure(20)
    assert pool.used == 5
    del table
    gc.collect()
    assert pool.used == 0


def test_truncate_checks_its_length():
    table = PagePool(Store(10)).table()
    with pytest.raises(ValueError, match="truncate"):
        table.truncate(1)
