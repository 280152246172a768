"""The rules of the house, checked from the files themselves: who may know whom, and how large anything may grow."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC, PKG = ROOT / "csrc", ROOT / "pkg" / "lanewise"
FILE_LINES = 420  # "about 400"
FUNCTION_LINES = 80
LONGER: dict[str, int] = {}  # path -> lines: named exceptions; there are none

C_FILES = sorted([*CSRC.rglob("*.c"), *CSRC.rglob("*.h")])
PY_FILES = sorted(p for d in ("pkg", "tests", "bench", "tools") for p in (ROOT / d).rglob("*.py"))
BINDING = [PKG / f"_native{rest}" for rest in (".pyx", ".pxi", "_kernels.pxi", "_weight.pxi", ".pyi")]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def stripped(path: Path) -> str:
    """C without comments, strings and preprocessor lines; line numbers stay."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    text = re.sub(r"/\*.*?\*/|//[^\n]*", blank, path.read_text(), flags=re.S)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)


# ---- sizes ----


@pytest.mark.parametrize("path", [*C_FILES, *PY_FILES, *BINDING], ids=name)
def test_no_file_outgrows(path: Path) -> None:
    assert lines(path) <= LONGER.get(name(path), FILE_LINES)


def test_the_faces_are_small() -> None:
    assert lines(CSRC / "lanewise.h") < 250
    assert lines(PKG / "_native.pyx") < 350


def test_exceptions_exist() -> None:
    assert all((ROOT / path).is_file() for path in LONGER)


def c_functions(path: Path) -> Iterator[tuple[int, int, str]]:
    """(first line, lines, signature) of each function definition."""
    text, depth, begin, head = stripped(path), 0, 0, 0
    for at, char in enumerate(text):
        if char == "{":
            if depth == 0:
                begin = at
            depth += 1
        elif char == "}":
            depth -= 1
            signature = text[head:begin].strip()
            if depth == 0 and signature.endswith(")"):
                start = head + len(text[head:begin]) - len(text[head:begin].lstrip())
                yield text.count("\n", 0, start) + 1, text.count("\n", start, at) + 1, signature.split("(")[0]
            head = at + 1 if depth == 0 else head
        elif char == ";" and depth == 0:
            head = at + 1


@pytest.mark.parametrize("path", C_FILES, ids=name)
def test_no_c_function_outgrows(path: Path) -> None:
    assert [f for f in c_functions(path) if f[1] > FUNCTION_LINES] == []


@pytest.mark.parametrize("path", PY_FILES, ids=name)
def test_no_python_function_outgrows(path: Path) -> None:
    functions = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [(n.name, n.lineno) for n in functions if (n.end_lineno or n.lineno) - n.lineno + 1 > FUNCTION_LINES]
    assert long == []


# ---- C: who includes whom ----

LAYERS = {
    0: "lanewise common",
    1: "kernels cpu format lace quant status",
    2: "weight weight_quant weight_finite pool arena context",
    3: "stage",
    4: "product gemm gemm_tasks gemm_matrix gemm_quant attention attention_segment cache rowwise angles measure",
    5: "ops program",
}
RANK = {stem: rank for rank, stems in LAYERS.items() for stem in stems.split()}
INTRINSICS = re.compile(r"\w*intrin\.h|arm_\w+\.h|simde/.*")


def includes(path: Path) -> list[tuple[bool, str]]:
    """(is a system header, its name) of each include of a file; names of our own relative to csrc/."""
    found = []
    for bracket, header in re.findall(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', path.read_text(), flags=re.M):
        ours = (path.parent / header).resolve() if (path.parent / header).exists() else (CSRC / header).resolve()
        found.append((bracket == "<", header if bracket == "<" else ours.relative_to(CSRC).as_posix()))
    return found


@pytest.mark.parametrize("path", [p for p in C_FILES if p.parent == CSRC], ids=name)
def test_c_knows_only_downward(path: Path) -> None:
    assert path.stem in RANK, f"give {path.name} a place in LAYERS"
    for system, header in includes(path):
        if not system:
            assert "/" not in header, f"includes {header}"
            assert RANK[Path(header).stem] <= RANK[path.stem], f"includes {header}"


@pytest.mark.parametrize("path", C_FILES, ids=name)
def test_only_tables_include_words_and_kernels(path: Path) -> None:
    room = path.parent.name
    for system, header in includes(path):
        if system and INTRINSICS.fullmatch(header):
            assert room == "vec", f"includes <{header}>"
        elif not system and header.split("/")[0] in ("vec", "kernels"):
            assert (room == "isa" and path.suffix == ".c") or room in ("vec", "kernels"), f"includes {header}"
        elif not system and room in ("vec", "kernels"):
            assert header in ("common.h", "kernels.h", "lace.h", "lanewise.h", "quant.h"), f"includes {header}"
        elif not system and room == "isa":
            known = ("kernels.h", "lanewise.h", "common.h", "cpu.h", "quant.h")
            assert header.startswith("isa/") or header in known, header


@pytest.mark.parametrize("path", [p for p in C_FILES if "tests" not in p.parts[-2:]], ids=name)
def test_the_library_never_prints_or_exits(path: Path) -> None:
    forbidden = r"\b(v?f?printf|f?puts|putchar|perror|abort|_?exit|_Exit|quick_exit|__builtin_trap)\s*\("
    assert re.findall(forbidden, stripped(path)) == []
    if path.name != "common.h":
        assert not re.search(r"\bassert\s*\(", stripped(path)), "use LW_ASSERT"


@pytest.mark.parametrize("path", [p for p in C_FILES if p.parent.name in ("kernels", "vec", "isa")], ids=name)
def test_kernels_are_pure(path: Path) -> None:
    assert re.findall(r"\b(malloc|calloc|realloc|free|mmap|pthread_\w+)\s*\(", stripped(path)) == []


# ---- the binding ----


def test_binding_sees_the_public_header_alone() -> None:
    assert {p.name for p in PKG.rglob("*.p[yx][xi]")} == {p.name for p in BINDING}
    text = "".join(path.read_text() for path in BINDING[:2])
    assert set(re.findall(r'cdef extern from ["<]([^">]+)', text)) == {"lanewise.h"}
    seen = {p.name for p in [*PY_FILES, *BINDING] if p.is_relative_to(PKG) and 'from "lanewise.h"' in p.read_text()}
    assert seen <= {"_native.pyx", "_native.pxi"}


# ---- Python: who imports whom ----

ORDER = {  # room -> rank: a file imports its own rank or lower
    0: "errors memory results progress template_limits",
    1: "model kernels tokenizer chat_template",
    2: "engine doctor",
    3: "llm sequence session",
    4: "cli __main__",
}
PLACE = {room: rank for rank, rooms in ORDER.items() for room in rooms.split()}
NATIVE = {"model/pack", "model/packed_cache", "model/compile", "model/model", "kernels", "doctor"}
SOURCES = [p for p in PY_FILES if p.is_relative_to(PKG) and p != PKG / "__init__.py" and "builtin" not in p.parts]


def room(path: Path) -> str:
    return path.relative_to(PKG).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(absolute name, at the top of the module) of what a file imports, but for type checkers only."""
    package = ["lanewise", *path.relative_to(PKG).parts[:-1]]

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                whole = ".".join([*base, *([child.module] if child.module else [])])
                yield from ((f"{whole}.{alias.name}", top) for alias in child.names)
            yield from walk(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return walk(ast.parse(path.read_text()), True)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_python_knows_only_downward(path: Path) -> None:
    assert room(path) in PLACE, f"give {room(path)} a place in ORDER"
    where = path.relative_to(PKG).with_suffix("").as_posix()
    for imported, _ in imports(path):
        parts = imported.split(".")
        if parts[0] != "lanewise":
            continue
        if parts[1] == "_native":
            assert where in NATIVE or room(path) in NATIVE, "may not import _native"
        elif parts[1] in PLACE:
            assert PLACE[parts[1]] <= PLACE[room(path)], f"imports {imported}"
        else:
            assert parts[1:] == ["__version__"], f"imports {imported}, which has no place in ORDER"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent == PKG / "model" / "arch"], ids=name)
def test_architectures_are_data(path: Path) -> None:
    """An architecture knows configs and specs, and others of its kind."""
    for imported, _ in imports(path):
        parts = imported.split(".")
        if parts[:2] == ["lanewise", "model"]:
            assert parts[2] in ("config", "spec", "rope", "arch"), f"imports {imported}"
    assert path.name == "__init__.py" or lines(path) <= 80


def test_required_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[^A-Za-z0-9_-]", text)[0] for text in project["dependencies"]}
    assert required == {"numpy", "tokenizers", "jinja2", "rich"}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_extras_are_imported_where_used(path: Path) -> None:
    extras = {"ml_dtypes", "matplotlib", "starlette", "uvicorn", "llguidance", "ray", "huggingface_hub"}
    for imported, top in imports(path):
        root = imported.split(".")[0]
        if root not in sys.stdlib_module_names and root not in ("lanewise", "numpy", "tokenizers", "jinja2", "rich"):
            assert root in extras, f"imports {imported}, which nothing installs"
            assert not top, f"imports {imported} at the top"
