"""The page of bench/kernels.py --compare: its arithmetic, and that a library which fails costs nobody else a figure."""

from __future__ import annotations

import contextvars
import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lanewise import kernels

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))  # last: the folders of the tests have names that are there, too

import peers  # noqa: E402
import versus  # noqa: E402
from workers import WorkerError  # noqa: E402


def shape(ours: float, peer: float, m: int = 1) -> versus.Shape:
    rates = {"lanewise": ours, "lanewise exact": 1.0, "numpy": peer, "torch": peer / 2}
    return versus.Shape("bf16", m, 1000, 500, peak=100e9, read=10e9, rates=rates)


def test_limit_is_the_slower_of_arithmetic_and_reading() -> None:
    one, many = shape(5e9, 4e9), shape(5e9, 4e9, m=1000)
    assert one.weights == 1_000_000  # two bytes each
    assert one.limit == pytest.approx(1e6 / 1e-4)  # 10^6 bytes at 10^10 a second, 10^6 operations
    assert many.limit == pytest.approx(100e9)
    assert one.intensity == pytest.approx(1e6 / (1e6 + 2 * 500 + 4 * 1000))


def test_ratio_is_to_the_best_peer() -> None:
    assert shape(5e9, 4e9).ratio == pytest.approx(1.25)
    assert versus.Shape("bf16", 1, 2, 3, rates={"lanewise": 1.0}).ratio is None
    assert versus.Shape("bf16", 1, 2, 3, rates={"numpy": 1.0}).ratio is None
    alone = versus.Shape("bf16", 1, 2, 3, rates={"lanewise exact": 3.0, "numpy": 2.0})
    assert alone.ratio == pytest.approx(1.5)  # a table without a dot product


def test_page_counts_what_was_measured_in_peace() -> None:
    disturbed = shape(1e9, 8e9)
    disturbed.disturbed = True
    text = versus.tables([shape(8e9, 4e9), shape(2e9, 4e9), shape(4e9, 4e9), disturbed])
    assert "bf16: 1.00 times the best peer, the geometric mean of 3 shapes; more than 3 % behind at 1;" in text
    assert "1 x 1000 x 500 !" in text
    data = versus.as_json([shape(8e9, 4e9), disturbed])["bf16"]
    assert data["disturbed"] == [1]
    assert dict(zip(data["columns"], data["rows"][0], strict=True))["lanewise"] == 8


def test_picture(tmp_path: Path) -> None:
    roofline = pytest.importorskip("roofline", reason="needs matplotlib", exc_type=ImportError)
    disturbed = shape(8e9, 4e9)
    data = {"machine": {"caches": {"l2": 1, "l3": 2}, "cpu": "Some CPU", "threads": 2}}
    data["formats"] = versus.as_json([shape(8e9, 4e9), shape(9e9, 4e9, m=64), versus.Shape("bf16", 2, 3, 4, 1e9, 1e9)])
    assert roofline.draw(data, tmp_path / "some.svg")
    text = (tmp_path / "some.svg").read_text()
    assert "Some CPU, 2 threads" in text
    assert "best peer: numpy" in text
    assert "torch" not in text
    disturbed.disturbed = True
    data["formats"] = versus.as_json([disturbed])
    assert not roofline.draw(data, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_our_threads_and_table_are_those_asked_for() -> None:
    """They were not once: nobody held the context managers, which left when they were collected."""

    def inside() -> tuple[int, str]:
        peers.lanewise(3, "scalar")
        gc.collect()
        with peers._held:
            return kernels.context().threads, kernels.context().isa

    assert contextvars.copy_context().run(inside) == (3, "scalar")


def test_a_library_that_dies_is_a_note() -> None:
    field = versus.Field(1, None, ["numpy"])
    try:
        field.weights("f32", 48, 32)
        first, second = (versus.Shape("f32", 3, 48, 32) for _ in range(2))
        field.measure(first, repeat=1, seconds=1.0)
        assert {"lanewise", "numpy"} <= set(first.rates)
        field.workers["numpy"].process.kill()
        field.workers["numpy"].process.join()
        with pytest.raises(WorkerError):
            field.workers["numpy"].ask("rows", "numpy", 3)
        field.measure(second, repeat=1, seconds=1.0)
        field.weights("f32", 16, 32)
    finally:
        field.close()
    assert set(second.rates) == {"lanewise"}
    assert any("numpy is no longer there" in note for note in field.notes)


def test_the_command_writes_a_result(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "result.json"
    options = ["--compare", "--threads", "1", "--squares", "24", "--nk", "40x16", "--rows", "1,5", "--peers", "numpy"]
    options += ["--repeat", "1"]
    command = [sys.executable, str(BENCH / "kernels.py"), *options, "--formats", "f32,bf16", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    assert [row[:3] for row in data["formats"]["f32"]["rows"]] == [[24, 24, 24], [1, 40, 16], [5, 40, 16]]
    assert data["machine"]["threads"] == 1
    assert {"lanewise", "numpy"} <= set(data["peers"])
    calm = any(len(table["disturbed"]) < len(table["rows"]) for table in data["formats"].values())
    assert file.with_suffix(".svg").exists() == calm
    assert "5 x 40 x 16" in done.stdout
