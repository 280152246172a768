"""The hot loop of every tile as the compiler made it: instructions, multiply-adds, loads, and that nothing spills.

    python tools/asm.py [--isa avx2 ...] [--cc clang] [--show avx2:f32_6x1] [--objects BUILD_FOLDER]

Compiles csrc/isa/*.c with the flags of csrc/CMakeLists.txt, or reads what a build left. Exit code 1 if a tile spills.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SYMBOL = re.compile(r"^[0-9a-f]+ <((?:f32|lace|bf16|dot|amxDOT|amxINT8)_(\d+)x(\d+))(?:\.\w+)*>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)(?:\s+[#<].*)?$")
FMA = re.compile(r"vfn?m(add|sub)\w*|vdpbf16ps|vpdpbusds?|vpdpwssds?|tdpbf16ps|tdpbsud|fmla|fmls|bfdot|bfmlal[bt]|[su]dot|[su]mmla|usdot")
MOVE = re.compile(r"(vmovap[sd]|vmovdq\w+|mov[qls]?)$")
STACK = re.compile(r"%rsp|%esp|\[sp\b")
JUMP = re.compile(r"(j[a-z]+|b\.\w+|cbn?z|tbn?z|b)$")


@dataclass(frozen=True)
class Instruction:
    at: int
    word: str
    operands: str

    @property
    def memory(self) -> bool:
        return "(" in self.operands or "[" in self.operands

    @property
    def stack(self) -> bool:
        return bool(STACK.search(self.operands)) or self.word in ("push", "pop")

    @property
    def target(self) -> int | None:
        found = re.search(r"(?:^|[\s,])(?:0x)?([0-9a-f]+)$", self.operands)
        return int(found.group(1), 16) if JUMP.fullmatch(self.word) and found else None


@dataclass(frozen=True)
class Tile:
    isa: str
    name: str
    code: list[Instruction]

    def loops(self) -> list[list[Instruction]]:
        """The bodies of innermost loops that multiply, the one with most multiply-adds first."""
        spans = [(i.target, i.at) for i in self.code if i.target is not None and i.target <= i.at]
        inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        bodies = [[i for i in self.code if begin <= i.at <= end] for begin, end in inner]
        return sorted((b for b in bodies if fmas(b)), key=fmas, reverse=True)


def fmas(body: list[Instruction]) -> int:
    return sum(bool(FMA.fullmatch(i.word)) for i in body)


# ---- where the code comes from ----


def isa_flags() -> dict[str, list[str]]:
    """isa -> compiler flags, as CMakeLists.txt has them."""
    text = (CSRC / "CMakeLists.txt").read_text()
    sets = dict(re.findall(r"set\((\w+) ([^)$]*)\)", text))
    text = re.sub(r"\$\{(\w+)\}", lambda m: sets.get(m.group(1), ""), text)
    found = {name: flags.split() for name, flags in re.findall(r"\blw_isa\((\w+) [A-Z]\w* ([^)]*)\)", text)}
    return {name: flags for name, flags in found.items() if (CSRC / "isa" / f"{name}.c").exists()}


def common_flags() -> list[str]:
    """The flags of every file."""
    text = (CSRC / "CMakeLists.txt").read_text()
    found = re.search(r"target_compile_options\(lw_flags INTERFACE (-O[^)]*)\)", text)
    return [
        *(found.group(1).split() if found else ["-O3"]),
        "-std=gnu11",
        "-fPIC",
        "-DNDEBUG",
        "-D_GNU_SOURCE",
        f"-I{CSRC}",
    ]


def compiled(wanted: list[str], cc: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """(isa, object file) of each wanted table, compiled now."""
    for isa, flags in isa_flags().items():
        if wanted and isa not in wanted:
            continue
        out = folder / f"{isa}.o"
        command = [*shlex.split(cc), *common_flags(), *flags, "-c", str(CSRC / "isa" / f"{isa}.c"), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        yield isa, out


def built(wanted: list[str], build: Path) -> Iterator[tuple[str, Path]]:
    """(isa, object file) of what a build folder holds."""
    found = {path.name.split(".")[0]: path for path in sorted(build.rglob("isa/*.o"))}
    for isa in isa_flags():
        if isa in found and (not wanted or isa in wanted):
            yield isa, found[isa]


def tiles(isa: str, file: Path) -> list[Tile]:
    """The tile functions of an object file, disassembled."""
    command = [os.environ.get("OBJDUMP", "objdump"), "-d", "--no-show-raw-insn", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: list[Tile] = []
    current: Tile | None = None
    for line in text.splitlines():
        if line.endswith(">:"):
            symbol = SYMBOL.match(line)
            current = Tile(isa, symbol.group(1), []) if symbol else None
            if current:
                found.append(current)
        elif current and (match := LINE.match(line)):
            current.code.append(Instruction(int(match.group(1), 16), match.group(2), match.group(3)))
    return sorted(found, key=lambda t: (t.name.split("_")[0], *map(int, re.findall(r"(\d+)x(\d+)", t.name)[0])))


# ---- what it says ----


def row(tile: Tile) -> tuple[list[str], bool]:
    """Cells of the table, and whether the tile is good: a loop that multiplies, nothing of it on the stack."""
    loops = tile.loops()
    if not loops:
        return [tile.isa, tile.name, *["-"] * 5, "NO LOOP FOUND"], False
    body = loops[0]
    count, total = fmas(body), len(body)
    stack = sum(i.stack for loop in loops for i in loop)
    moves = sum(bool(MOVE.match(i.word)) and not i.memory for i in body)
    cells = [count, total, f"{count / total:.0%}", sum(i.memory for i in body), moves, stack or "none"]
    return [tile.isa, tile.name, *map(str, cells)], stack == 0


def report(found: list[Tile]) -> int:
    """Prints the table; returns the exit code."""
    head = ["table", "tile", "fma", "instructions", "share", "memory", "moves", "spills"]
    rows = [row(tile) for tile in found]
    widths = [max(len(cells[i]) for cells in (head, *(r[0] for r in rows))) for i in range(len(head))]
    for cells in (head, *(r[0] for r in rows)):
        print(
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        )
    bad = [f"{tile.isa}:{tile.name}" for tile, (_, good) in zip(found, rows, strict=True) if not good]
    print(
        f"{len(found)} tiles, "
        + (f"{len(bad)} spill or were not understood: {', '.join(bad)}" if bad else "none spills")
    )
    return 1 if bad or not found else 0


def show(found: list[Tile], wanted: str) -> int:
    """Prints the inner loops of one tile."""
    for tile in found:
        if wanted in (tile.name, f"{tile.isa}:{tile.name}"):
            for loop in tile.loops():
                print(f"{tile.isa}:{tile.name}, {fmas(loop)} of {len(loop)} instructions multiply and add")
                print(
                    "\n".join(
                        f"  {i.at:6x}  {i.word:<16} {i.operands}" + ("   <- stack" if i.stack else "") for i in loop
                    )
                )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="*", default=[], help="only these tables")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="the compiler")
    parser.add_argument("--show", metavar="[ISA:]TILE", help="print the loops of one tile")
    parser.add_argument("--objects", type=Path, metavar="BUILD", help="read the object files of a build folder instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = built(args.isa, args.objects) if args.objects else compiled(args.isa, args.cc, Path(folder))
        found = [tile for isa, file in files for tile in tiles(isa, file)]
    return show(found, args.show) if args.show else report(found)


if __name__ == "__main__":
    sys.exit(main())
