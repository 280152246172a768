"""Each library in a process of its own, stopped while another one runs.

Thread pools go on spinning after a product, and two OpenMP runtimes in one process quarrel: neither may cost a
contender its time. A library that crashes takes nothing else with it.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import common  # before numpy
import numpy as np
import peers

PATIENCE = 300.0  # seconds for one answer
WARM = 0.003  # seconds of products before the clock starts, where they are short
BOUND = {"f32": 1e-5, "bf16": 1e-2, "int8": 2e-2}  # of the largest value: who is beyond multiplies something else


class WorkerError(Exception):
    """A library is missing, or a contender cannot do what was asked."""


def filled(kind: str, rows: int, columns: int, seed: int) -> Any:
    """An operand: a million random values over and over, which takes no longer than to write it."""
    random = np.random.default_rng(seed)
    block = 1_000_003
    if kind == "uint8":
        some: Any = random.integers(0, 128, block, np.uint8)  # 7 bits: beyond them AVX2 peers may saturate
    elif kind == "int8":
        some = random.integers(-127, 128, block, np.int8)
    else:
        some = random.standard_normal(block, np.float32)
        if kind == "bfloat16":
            some = (some.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.resize(some, rows * columns).reshape(rows, columns)


KINDS = {"f32": ("float32", "float32"), "bf16": ("bfloat16", "bfloat16"), "int8": ("uint8", "int8")}


class Bench:
    """What a worker holds: one library, weights of one size, activations of some rows."""

    def __init__(self, library: str, threads: int, isa: str | None) -> None:
        self.what, self.made = peers.LIBRARIES[library](threads, isa)
        self.limits = common.Limits(threads, isa).context if library == peers.OURS else None
        self.ready: dict[str, peers.At] = {}
        self.runs: dict[str, peers.Run] = {}
        self.seconds: dict[str, float] = {}

    def hello(self) -> tuple[str, list[tuple[str, str]]]:
        return self.what, list(self.made)

    def weights(self, format: str, n: int, k: int) -> None:
        self.ready, self.runs, self.format = {}, {}, format
        self.w = filled(KINDS[format][1], n, k, 1)

    def rows(self, name: str, m: int) -> float:
        """Prepares a contender for m rows; seconds of a first product, which is also checked."""
        self.runs.pop(name, None)
        if name not in self.ready:
            self.ready[name] = self.made[self.format, name](self.w)
        a = filled(KINDS[self.format][0], m, self.w.shape[1], 2)
        run = self.ready[name](a)
        begin = time.perf_counter()
        c = run()
        self.seconds[name] = time.perf_counter() - begin
        i, j = (np.unique(np.linspace(0, size - 1, 16).astype(int)) for size in (m, len(self.w)))
        expected = a[i].astype(np.float64) @ self.w[j].astype(np.float64).T
        got = np.asarray(c.float() if hasattr(c, "float") else c)[np.ix_(i, j)].astype(np.float64)
        off = np.abs(got - expected).max() / np.abs(expected).max()
        if not off <= BOUND[self.format]:
            raise WorkerError(f"wrong by {off:.1e} of the largest value")
        self.runs[name] = run
        return self.seconds[name]

    def turn(self, name: str, least: float) -> float:
        """Seconds of a product, the mean over at least `least` seconds."""
        run = self.runs[name]
        begin, calls = time.perf_counter(), 0
        while self.seconds[name] < 10 * WARM and (calls < 2 or time.perf_counter() - begin < WARM):
            run()
            calls += 1
        if calls:
            self.seconds[name] = (time.perf_counter() - begin) / calls
        calls = max(1, round(least / self.seconds[name]))
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        self.seconds[name] = (time.perf_counter() - begin) / calls
        return self.seconds[name]

    def limit(self, what: str, nbytes: int) -> float:
        """Operations or bytes a second."""
        assert self.limits is not None
        if what == "bfloat16" and not self.limits.has_dot:
            what = "float32"
        bursts = [self.limits.measure(what, nbytes) for _ in range(1 if what == "read" else 3)]
        return max(work / seconds for work, seconds in bursts)


def serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The life of a worker: makes an object, then calls its methods by name; answers are (worked?, what)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped worker must not outlive its parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench: Any = None
    question: tuple[Any, ...] = ("hello",)
    while True:
        try:
            bench = make(*arguments) if bench is None else bench
            answer = True, getattr(bench, question[0])(*question[1:])
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            answer = False, f"{type(error).__name__}: {lines[0][:160]}"
        pipe.send(answer)
        if bench is None:
            return
        question = pipe.recv()


class Worker:
    """The parent's side of a process that holds `make(library, *arguments)`, an object with a method `hello`."""

    def __init__(self, library: str, *arguments: Any, make: Callable[..., Any] = Bench) -> None:
        self.library = library
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make, (library, *arguments)), daemon=True)
        self.process.start()
        atexit.register(self.close)  # multiprocessing would ask politely, and one that is stopped cannot hear
        theirs.close()

    def hello(self) -> Any:
        """What the object says of itself (of a library: what it is and its contenders); waits until it is made."""
        return self._answer()

    def ask(self, *question: Any) -> Any:
        if self.process.pid is None or not self.process.is_alive():
            raise WorkerError(f"{self.library} is no longer there")
        os.kill(self.process.pid, signal.SIGCONT)
        self.pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self.pipe.poll(PATIENCE):
                self.process.kill()
                raise WorkerError(f"no answer in {PATIENCE:.0f} s")
            worked, what = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(1.0)
            raise WorkerError(f"{self.library} crashed, exit code {self.process.exitcode}") from error
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGSTOP)
        if not worked:
            raise WorkerError(what)
        return what

    def close(self) -> None:
        self.process.kill()
        self.process.join(5.0)
