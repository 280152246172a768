"""Importing the package is cheap: numpy and the extension at most, nothing that a user did not ask for."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import numpy
before = set(sys.modules)
import lanewise
{then}
new = set(sys.modules) - before
print(json.dumps(sorted(new)))
"""


def modules_after(then: str = "") -> set[str]:
    """The modules that `import lanewise` (and more) adds to a fresh interpreter with numpy."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(then=then)], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def roots(names: set[str]) -> set[str]:
    """Top-level packages that are not of the standard library."""
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"cython_runtime"}


def test_import_loads_nothing_else() -> None:
    found = modules_after()
    assert {root for root in roots(found) if not root.startswith("_cython")} == {"lanewise"}
    heavy = {"asyncio", "multiprocessing", "sqlite3", "unittest", "http.client", "xml", "ctypes.util", "email"}
    assert not heavy & found


def test_core_loads_nothing_else() -> None:
    """The kernels need numpy and the extension only: no tokenizers, jinja2 or rich."""
    found = modules_after("from lanewise import _native, kernels")
    assert {root for root in roots(found) if not root.startswith("_cython")} <= {"lanewise", "numpy", "ml_dtypes"}
