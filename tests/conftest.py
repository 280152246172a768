"""Settings of hypothesis, and one test run for each kernel table.

`--hypothesis-profile=deep` draws many more examples. A test with an argument `table` runs once for every table that
this machine can run; LANEWISE_REQUIRE_ISA=avx2,avx512 makes it an error if one of those is not among them.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tables import usable_tables

settings.register_profile(
    "short", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("deep", parent=settings.get_profile("short"), max_examples=1000)
settings.load_profile("short")


def pytest_configure(config: pytest.Config) -> None:
    required = {name.strip() for name in os.environ.get("LANEWISE_REQUIRE_ISA", "").split(",") if name.strip()}
    if required:
        absent = sorted(required - set(usable_tables()))
        if absent:
            names = ", ".join(absent)
            raise pytest.UsageError(f"LANEWISE_REQUIRE_ISA: {names} cannot run here; usable: {usable_tables()}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "table" in metafunc.fixturenames:
        metafunc.parametrize("table", usable_tables())
