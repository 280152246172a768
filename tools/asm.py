"""The hot loop of every tile as the compiler made it: instructions, what binds it, and that nothing spills.

    python tools/asm.py [--isa avx2 ...] [--cc clang] [--show avx2:f32_6x1] [--objects BUILD_FOLDER]

Compiles csrc/isa/*.c with the flags of csrc/CMakeLists.txt, or reads what a build left. Exit code 1 if a tile spills.

"of peak" is a model of the loop, not a measurement: the cycles that its multiply-adds take over those of whatever takes
longest, on a core that in one cycle
  - issues 6 instructions (a compare and its jump count once, a register move counts here and nowhere else),
  - multiplies and adds 2 x 256 or 1 x 512 bits,
  - does 4 x 256 or 2 x 512 bits of vector work of any kind, multiply-adds among it,
  - loads twice, 64 bytes together (a broadcast is 4 bytes),
and whose multiply-adds take 4 cycles (bfloat16 dots 6) until their sum can be added to, other vector work 1. That is
Zen 4; everything lies in the first cache. A core with two 512-bit multipliers also loads 128 bytes a cycle: "issue" and
"latency" bind it twice as early.
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
from itertools import pairwise
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
# A tile is a function named KIND_RxP: rows x panels. Whatever kind a table has is found by its name alone. On tile
# registers what multiplies may also be KIND_WORD, or KIND_WORD_RxP.
SYMBOL = re.compile(r"^[0-9a-f]+ <([a-z][a-z0-9]*_\d+x\d+|amx[a-z0-9]+_\w+)(?:\.\w+)*>:$")
SHAPE = re.compile(r"_(\d+)x(\d+)")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:\{\w+\}\s+)?(\S+)\s*(.*?)(?:\s+[#<].*)?$")
FMA = re.compile(
    r"vfn?m(add|sub)\w*|vdpbf16ps|vpdp[bw][su]{2}ds?|vpmaddwd|vpmaddubsw|tdp\w+"
    r"|fmla|fmls|bfdot|bfmlal[bt]|[su]dot|[su]mmla|usdot"
)
MATRIX = re.compile(r"tdp\w+")
MOVE = re.compile(r"(vmovap[sd]|vmovup[sd]|vmovdq\w+|mov[qls]?)$")
STACK = re.compile(r"%rsp|%esp|\[sp\b")
JUMP = re.compile(r"(j[a-z]+|b\.\w+|cbn?z|tbn?z|b)$")

# The model. Cycles a 256-bit operation takes its kind of pipe; 512 bits take two.
ISSUE, MULTIPLIERS, VECTORS, LOADS, LOAD_BYTES = 6, 2, 4, 2, 64
LATENCY, LATENCY_DOT, LATENCY_OTHER = 4, 6, 1
FUSED = ("cmp", "test", "add", "sub", "inc", "dec", "and")


@dataclass(frozen=True)
class Instruction:
    at: int
    word: str
    operands: str

    @property
    def memory(self) -> bool:
        return ("(" in self.operands or "[" in self.operands) and not self.word.startswith(("lea", "nop"))

    @property
    def move(self) -> bool:
        return bool(MOVE.match(self.word)) and not self.memory

    @property
    def stores(self) -> bool:
        return self.memory and self.operands.endswith(")") and not self.word.startswith(("prefetch", "cmp", "test"))

    @property
    def width(self) -> int:
        """Of its vectors, in 256 bits; 0 for the scalar."""
        return 2 if "%zmm" in self.operands else int("%ymm" in self.operands or "%xmm" in self.operands)

    @property
    def loaded(self) -> int:
        """Bytes that it reads from memory."""
        if not self.memory or self.stores or self.word.startswith("prefetch"):
            return 0
        if "{1to" in self.operands or "broadcasts" in self.word or "broadcastd" in self.word:
            return 4
        if "x4" in self.word and "broadcast" in self.word:
            return 16
        whole = 32 * self.width or 8
        extended = re.match(r"vpmov[sz]x(\w)(\w)|vcvtph2ps", self.word)
        if extended:
            size = {"b": 1, "w": 2, "d": 4, "q": 8}
            return whole * size[extended[1]] // size[extended[2]] if extended[1] else whole // 2
        return whole

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

    @property
    def matrix(self) -> bool:
        return on_matrix(self.code)

    @property
    def rows(self) -> int:
        """Of activations; 0 where the name does not say."""
        found = SHAPE.search(self.name)
        return int(found[1]) if found else 0

    def loops(self) -> list[list[Instruction]]:
        """The bodies of the innermost loops that multiply (a loop of prefetches may lie within), the one with most
        multiply-adds first. Where tile registers multiply, only those that do it with them."""
        spans = {(i.target, i.at) for i in self.code if i.target is not None and i.target <= i.at}
        found = {s: [i for i in self.code if s[0] <= i.at <= s[1]] for s in spans}
        found = {s: body for s, body in found.items() if (on_matrix(body) if self.matrix else fmas(body))}
        inner = [s for s in found if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in found)]
        return sorted((found[s] for s in sorted(inner)), key=fmas, reverse=True)


def on_matrix(body: list[Instruction]) -> bool:
    return any(MATRIX.fullmatch(i.word) for i in body)


def fmas(body: list[Instruction]) -> int:
    """Multiply-adds: of tile registers, where there are any; else of vectors."""
    counted = MATRIX if on_matrix(body) else FMA
    return sum(bool(counted.fullmatch(i.word)) for i in body)


def model(body: list[Instruction]) -> dict[str, float]:
    """Cycles of one turn of a loop by each limit of the model above."""
    real = [i for i in body if not i.word.startswith("nop")]
    fused = sum(bool(JUMP.fullmatch(b.word)) and a.word.rstrip("bwlq") in FUSED for a, b in pairwise(real))
    multiply = [i for i in real if FMA.fullmatch(i.word)]
    pure = ("vmov", "vbroadcast", "vpbroadcast")  # from memory they need a load and nothing else
    work = [i for i in real if i.width and not i.move and not (i.memory and i.word.startswith(pure))]
    return {
        "multiply": sum(i.width for i in multiply) / MULTIPLIERS,
        "vector": sum(i.width for i in work) / VECTORS,
        "loads": max(sum(i.memory and not i.stores for i in real) / LOADS, sum(i.loaded for i in real) / LOAD_BYTES),
        "issue": (len(real) - fused) / ISSUE,
        "latency": carried(real),
    }


def carried(body: list[Instruction]) -> int:
    """Cycles of the longest chain through vector registers from one turn of a loop to the next."""
    ready: dict[str, int] = {}
    ends = [0]
    for _ in range(4):
        for i in body:
            registers = re.findall(r"%[xyz]mm(\d+)", i.operands)
            if not registers or i.stores or not re.search(r"%[xyz]mm\d+(\{[^}]*\})*$", i.operands):
                continue
            multiplies = bool(FMA.fullmatch(i.word))
            sources = registers if multiplies and not i.word.startswith("vpmadd") else registers[:-1]
            dot = LATENCY_DOT if i.word == "vdpbf16ps" else LATENCY
            latency = 0 if i.move else dot if multiplies else LATENCY_OTHER
            ready[registers[-1]] = latency + max((ready.get(r, 0) for r in sources), default=0)
        ends.append(max(ready.values(), default=0))
    return ends[-1] - ends[-2]


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
    """(isa, object file) of what a build folder holds; not of tables over SIMDe."""
    found = {path.name.split(".")[0]: path for path in sorted(build.rglob("lw_isa_*.dir/isa/*.o"))}
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
            current = Tile(isa, symbol[1], []) if symbol else None
            if current:
                found.append(current)
        elif current and (match := LINE.match(line)):
            current.code.append(Instruction(int(match.group(1), 16), match.group(2), match.group(3)))
    found = [t for t in found if t.matrix or not t.name.startswith("amx")]  # others finish what those multiply

    def order(tile: Tile) -> tuple[str, list[int], str]:
        shape = SHAPE.search(tile.name)
        return tile.name.split("_")[0], [int(n) for n in shape.groups()] if shape else [], tile.name

    return sorted(found, key=order)


# ---- what it says ----


def spills(tile: Tile) -> int:
    """Instructions of its multiplying loops that touch the stack."""
    return sum(i.stack for loop in tile.loops() for i in loop)


def vector_spills(tile: Tile) -> int:
    """The most of its hot loops' instructions that move vectors to or from the stack. Hot: at least half as many
    multiply-adds as in the hottest; with fewer, a loop reads scales."""
    loops = tile.loops()
    hot = [loop for loop in loops if 2 * fmas(loop) >= fmas(loops[0])]
    return max((sum(i.stack and "mm" in i.operands for i in loop) for loop in hot), default=0)


def by_blocks(tile: Tile) -> bool:
    """Tiles of quantised weights work block by block: between blocks, pointers and scales may wait on the stack. So
    they may between the products of tile registers, which take 16 cycles each; a buffer of sums lies there, too."""
    return tile.matrix or tile.name.startswith("quant")


def row(tile: Tile) -> tuple[list[str], bool]:
    """Cells of the table, and whether the tile is good: a loop that multiplies, and nothing of it on the stack but
    between the blocks of quantised weights, or the products of tile registers.
    """
    loops = tile.loops()
    if not loops:
        return [tile.isa, tile.name, *["-"] * 6, "NO LOOP FOUND"], False
    body, stack = loops[0], spills(tile)
    cycles = model(body)
    bound = max(cycles, key=lambda name: (cycles[name], name == "multiply"))
    known = cycles["multiply"] > 0 and not tile.matrix  # vectors of x86; others are not modelled
    share = f"{cycles['multiply'] / cycles[bound]:.0%}" if known else "-"
    cells = [fmas(body), len(body), sum(i.memory for i in body), sum(i.move for i in body)]
    return [
        tile.isa,
        tile.name,
        *map(str, cells),
        share,
        bound if known else "-",
        str(stack or "none"),
    ], stack == 0 or by_blocks(tile)


def report(found: list[Tile]) -> int:
    """Prints the table; returns the exit code."""
    head = ["table", "tile", "multiply", "instructions", "memory", "moves", "of peak", "bound by", "spills"]
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
