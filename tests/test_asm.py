"""The hot loops as the compiler made them: no tile keeps anything on the stack. `make asm` prints what is checked."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CC = os.environ.get("CC", "cc")
NEEDED = [CC.split()[0], os.environ.get("OBJDUMP", "objdump")]
pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the tables with tiles are x86-64's"),
    pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"needs {' and '.join(NEEDED)}"),
]


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lanewise_asm", ROOT / "tools" / "asm.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


asm = tool()


@functools.cache
def tiles(isa: str) -> list[Any]:
    """The tiles of a table; none where the compiler lacks its flags, as CMake then leaves the table out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not supported(isa, folder):
            return []
        return list(asm.tiles(isa, objects(isa, folder)))


def objects(isa: str, folder: Path) -> Path:
    """What the last build left, if it is newer than every source and the compiler is its own; else compiled now."""
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".c", ".h", ".txt")]
    newest = max(path.stat().st_mtime for path in sources)
    for build in sorted((ROOT / "build").glob("cp*")):  # the extension's; beside it lie builds under sanitizers
        for _, file in asm.built([isa], build):
            if "CC" not in os.environ and file.stat().st_mtime > newest:
                return Path(file)
    ((_, file),) = asm.compiled([isa], CC, folder)
    return Path(file)


def supported(isa: str, folder: Path) -> bool:
    """Does the compiler know the table's flags?"""
    empty = folder / "empty.c"
    empty.write_text("int lw_empty;\n")
    command = [*CC.split(), *asm.isa_flags()[isa], "-Werror", "-c", str(empty), "-o", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("isa", sorted(asm.isa_flags()))
def test_no_tile_spills(isa: str) -> None:
    found = tiles(isa)
    if not found:
        pytest.skip(f"{CC} has no flags for {isa}")
    kinds = {tile.name.split("_")[0] for tile in found}
    assert {"f32", "bf16", "int8"} <= kinds
    assert [tile.name for tile in found if not tile.loops()] == []
    assert {tile.name: asm.spills(tile) for tile in found if asm.spills(tile) and not asm.by_blocks(tile)} == {}


# Vectors that tiles of quantised weights move to and from the stack between blocks, at most (GCC 12).
# One row of q2_k has a loop of whole superblocks on AVX-VNNI. Tiles of more than six rows, beside 192 multiply-adds:
# q3_k, whose codes take two constants and two planes; the others 20. Without a byte dot product codes are widened, and
# their sums take registers that are not there: AVX2 and AVX-512 go through memory within blocks, too. On tile registers
# it is vectors that put sums together between products.
BETWEEN_BLOCKS = {"avx512_vnni": 10, "avx_vnni": 20, "avx2": 214, "avx512": 261, "amx": 10}
TALL, IN_TALL = 7, 48
# Of all tiles together.
TOGETHER = {"avx512_vnni": 633, "avx_vnni": 85, "avx2": 3251, "avx512": 3771, "amx": 29}


@pytest.mark.parametrize("isa", sorted(BETWEEN_BLOCKS))
def test_quantised_tiles_park_little(isa: str) -> None:
    found = [tile for tile in tiles(isa) if asm.by_blocks(tile)]
    if not found:
        pytest.skip(f"{CC} has no flags for {isa}")
    if "clang" in CC:
        pytest.skip("counted for GCC")
    parked = {tile.name: asm.vector_spills(tile) for tile in found}
    most = {tile.name: BETWEEN_BLOCKS[isa] if tile.rows < TALL else IN_TALL for tile in found}
    assert {name: count for name, count in parked.items() if count > most[name]} == {}
    assert sum(parked.values()) <= TOGETHER[isa]


def test_tile_registers_are_listed() -> None:
    """Whatever of a table has products on tile registers, and each kind of product."""
    found = [tile for tile in tiles("amx") if tile.matrix]
    if not found:
        pytest.skip(f"{CC} has no flags for amx")
    assert {tile.name.split("_")[0] for tile in found} == {"amxdot", "amxint8", "amxq", "amxw"}
    words = {i.word for tile in found for loop in tile.loops() for i in loop if i.word.startswith("tdp")}
    assert words == {"tdpbf16ps", "tdpbsud", "tdpbssd"}


@pytest.mark.parametrize("isa", sorted(asm.isa_flags()))
def test_the_largest_tiles_reach_the_peak(isa: str) -> None:
    """In the model of tools/asm.py: with as many rows as there are, nothing but the multipliers binds float32."""
    found: dict[str, dict[str, float]] = {tile.name: asm.model(tile.loops()[0]) for tile in tiles(isa)}
    if not found:
        pytest.skip(f"{CC} has no flags for {isa}")
    rows = max(tile.rows for tile in tiles(isa) if tile.name.startswith("f32_"))
    mine = [cycles for name, cycles in found.items() if name.startswith(f"f32_{rows}x")]
    assert any(max(cycles.values()) == cycles["multiply"] for cycles in mine)


LOOP = """
    .globl {name}
    .type {name}, @function
{name}:
1:  vmovups (%rsi), %ymm2
    vbroadcastss (%rdi), %ymm3
    {line}
    vfmadd231ps %ymm2, %ymm3, %ymm0
    vfmadd231ps (%rdx){{1to8}}, %ymm2, %ymm1
    addq $4, %rdi
    addq $32, %rsi
    decq %rcx
    jne 1b
    ret
"""


DRIVERS = [path for path in sorted((ROOT / "csrc").glob("*.c")) if "__builtin_prefetch" in path.read_text()]


@pytest.mark.parametrize("path", DRIVERS, ids=lambda path: path.name)
def test_what_is_asked_for_is_asked_for(path: Path, tmp_path: Path) -> None:
    """A function that only asks for lines has no effect that GCC knows: its calls vanish unless it is inlined."""
    out = tmp_path / "x.o"
    command = [*CC.split(), *asm.common_flags(), "-O3", "-c", str(path), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    shown = subprocess.run([NEEDED[1], "-d", str(out)], check=True, capture_output=True, text=True).stdout
    assert shown.count("prefetch") >= path.read_text().count("__builtin_prefetch")


def assembled(text: str, folder: Path) -> list[Any]:
    source, out = folder / "x.s", folder / "x.o"
    source.write_text(text)
    subprocess.run([*CC.split(), "-c", str(source), "-o", str(out)], check=True, capture_output=True)
    return list(asm.tiles("test", out))


def test_finds_what_is_there(tmp_path: Path) -> None:
    """Names of any kind, a spill where there is one, and the cycles of each limit."""
    clean = LOOP.format(name="q4k8_2x1", line="vmovaps %ymm4, %ymm5")
    dirty = LOOP.format(name="f32_3x2", line="vmovups %ymm0, -64(%rsp)")
    other = LOOP.format(name="helper", line="nop")
    dirty_tile, clean_tile = assembled(clean + dirty + other, tmp_path)
    assert (dirty_tile.name, clean_tile.name) == ("f32_3x2", "q4k8_2x1")
    assert (asm.spills(dirty_tile), asm.spills(clean_tile)) == (1, 0)
    (body,) = clean_tile.loops()
    assert asm.fmas(body) == 2
    cycles = asm.model(body)
    assert cycles == {"multiply": 1.0, "vector": 0.5, "loads": 1.5, "issue": 8 / 6, "latency": 4}
    cells, good = asm.row(clean_tile)
    assert good
    assert cells[-3:] == ["25%", "latency", "none"]
    assert not asm.row(dirty_tile)[1]
    assert asm.report([dirty_tile]) == 1
    assert asm.report([clean_tile]) == 0


def test_a_tile_without_a_loop_is_an_error(tmp_path: Path) -> None:
    (tile,) = assembled(".type f32_1x1, @function\nf32_1x1: vfmadd231ps %ymm2, %ymm3, %ymm0\n ret\n", tmp_path)
    assert not asm.row(tile)[1]
    assert asm.report([tile]) == 1
