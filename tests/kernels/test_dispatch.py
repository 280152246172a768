"""Which table runs: the one that was asked for, and the error that says so where it cannot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lanewise import _native
from lanewise import kernels as k
from tables import usable_tables

PROGRAM = "from lanewise import kernels as k; print(k.context().isa)"


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "LANEWISE_ISA"} | environment
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_forced_by_name(table: str) -> None:
    with k.isa(table):
        assert k.context().isa == table
    assert _native.Context(table, 1).isa == table


def test_forced_by_environment(table: str) -> None:
    got = run(PROGRAM, LANEWISE_ISA=table)
    assert got.stdout.strip() == table, got.stderr


def test_the_best_by_default() -> None:
    """The first that is usable, but not avx512_bf16 where its dot product is the slow one."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    slow = "GenuineIntel" in info and not re.search(r"^model\s*: 85$", info, flags=re.M)
    best = next(table for table in usable_tables() if not (slow and table == "avx512_bf16"))
    assert run(PROGRAM).stdout.strip() == best
    assert run(PROGRAM, LANEWISE_ISA="").stdout.strip() == best


def test_scalar_is_always_there() -> None:
    assert "scalar" in usable_tables()
    assert k.tables()[: len(usable_tables())] == list(usable_tables())


def test_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"isa: .*avx1024.*scalar"), k.isa("avx1024"):
        pass
    with pytest.raises(ValueError, match=r"."):
        _native.Context("avx1024", 1)
    with pytest.raises(ValueError, match=r"."):
        _native.Context("", 1)
    got = run(PROGRAM, LANEWISE_ISA="avx1024")
    assert got.returncode != 0
    assert "ValueError" in got.stderr


def test_unusable_is_an_error() -> None:
    unusable = [table for table in _native.isas() if table.missing]
    if not unusable:
        pytest.skip("this machine runs every table of this build")
    for table in unusable:
        with pytest.raises(ValueError, match=f"isa: .*{table.name}.*lacks"), k.isa(table.name):
            pass
        with pytest.raises(ValueError, match=r"."):
            _native.Context(table.name, 1)


def test_settings_nest_and_end() -> None:
    outside = k.context().isa, k.context().threads
    with k.isa("scalar"), k.threads(2):
        assert (k.context().isa, k.context().threads) == ("scalar", 2)
        with k.threads(1):
            assert (k.context().isa, k.context().threads) == ("scalar", 1)
        with pytest.raises(RuntimeError, match="within"), k.threads(3):
            raise RuntimeError("within")
        assert k.context() is k.context()
        assert k.context().threads == 2
    assert (k.context().isa, k.context().threads) == outside


@pytest.mark.parametrize("n", [0, -1])
def test_threads_are_a_positive_number(n: int) -> None:
    with pytest.raises(ValueError, match="threads: "), k.threads(n):
        pass
    with pytest.raises(TypeError), k.threads(1.5):  # type: ignore[arg-type]
        pass


def test_only_tables_with_the_dot_have_it() -> None:
    for name in usable_tables():
        with k.isa(name):
            assert k.context().has_dot == ("bf16" in name or "amx" in name)


def test_import_is_light() -> None:
    heavy = ["ml_dtypes", "tokenizers", "jinja2", "rich", "torch", "lanewise.model", "lanewise.llm"]
    program = f"import sys, lanewise.kernels; print(sorted(m for m in sys.modules if m in {heavy}))"
    assert run(program).stdout.strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork() -> None:
    """A child computes with contexts of its parent."""
    program = """
import os
import numpy as np
from lanewise import kernels as k
a = np.arange(64 * 300, dtype=np.float32).reshape(64, 300)
with k.threads(2):
    wanted = k.gemm(a, a, trans_b=True)
    child = os.fork()
    if not child:
        os._exit(0 if (k.gemm(a, a, trans_b=True) == wanted).all() else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(program).stdout.strip() == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_woken_worker_leaves_its_wakers_core() -> None:
    """Both on one core take turns until the system notices; where the worker may run stays as it was."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    program = """
import os, time
import numpy as np
from lanewise import kernels as k
tasks = lambda: set(os.listdir("/proc/self/task"))
core = lambda tid: int(open(f"/proc/self/task/{tid}/stat").read().rsplit(")", 1)[1].split()[36])
a = np.ones((512, 2048), np.float32)
w, everywhere, before = k.pack(a), set(sorted(os.sched_getaffinity(0))[:2]), tasks()
os.sched_setaffinity(0, everywhere)
here, busy = {min(everywhere)}, []
for other in everywhere - here:  # or the system may wake it there by itself
    busy.append(os.fork())
    if not busy[-1]:
        os.sched_setaffinity(0, {other})
        end = time.monotonic() + 20
        while time.monotonic() < end: pass
        os._exit(0)
with k.threads(2):
    k.gemm(a, w)
    worker = int((tasks() - before).pop())
    os.sched_setaffinity(0, here)
    left = 0
    for _ in range(10):
        time.sleep(0.01)
        os.sched_setaffinity(worker, here)  # it sleeps; woken, it can run only here,
        k.gemm(a, w)
        time.sleep(0.01)
        os.sched_setaffinity(worker, everywhere)  # and sleeps here
        k.gemm(a, w)
        left += core(worker) not in here
    print(left, os.sched_getaffinity(worker) == everywhere)
for child in busy: os.kill(child, 9)
"""
    left, kept = run(program).stdout.split()
    assert int(left) >= 7  # but for what else the machine does meanwhile
    assert kept == "True"


def test_floating_point_state_is_left_alone() -> None:
    """Subnormal results before and after, whatever a kernel does within."""
    tiny = np.float32(2.0**-140)
    k.exp(np.array([-1000.0, 1000.0], np.float32))
    assert tiny / np.float32(2) != 0
    with np.errstate(all="raise"):
        assert np.isinf(k.exp(np.array([1000.0], np.float32)))[0]
