"""The packed cache: the same bits with and without it, and whatever is wrong with it is found, and mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gguf_pairs import pair
from hypothesis import given
from hypothesis import strategies as st
from tiny import Player, same_bits, some_ids, usable_isas

import lanewise
from lanewise.model import packed_cache
from lanewise.model.model import Model, make_context
from lanewise.model.pack import plan_of
from lanewise.model.packed_cache import Entry, open_entry
from lanewise.model.source import open_source

WIDE = {"hidden_size": 256, "intermediate_size": 256, "vocab_size": 60}
TYPES = {"": "Q4_0", "embed": "Q6_K", "head": "Q8_0", "v": "Q4_K"}
IDS = some_ids(40, 60)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file, old enough for its stamp to be kept."""
    path = pair(tmp_path_factory.mktemp("source"), "llama", TYPES, **WIDE)[1]
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a stamp to grow old (nobody can set the time of change), but for those about that."""
    monkeypatch.setattr(packed_cache, "SETTLED", 0.0)
    monkeypatch.delenv("LANEWISE_CACHE", raising=False)


def run(path: Path, cache: Any, **options: Any) -> tuple[str, Any]:
    """(what became of the cache, logits)."""
    model = Model.load(path, cache=cache, **options)
    try:
        return model.packed_cache, Player(model, 4).feed(IDS)
    finally:
        model.close()


def state(path: Path, cache: Any, **options: Any) -> str:
    return run(path, cache, **options)[0]


def entry_of(path: Path, folder: Path) -> Entry:
    with open_source(path) as opened:
        plan = plan_of(opened.spec, opened.weights, "auto")
        found = open_entry(folder, opened.files, {"dtype": "auto", "quantize": None}, plan)
    assert found is not None
    return found


# ---- what it is for ----


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"numerics": "exact", "kv_dtype": "bfloat16"}], ids=str)
def test_the_same_bits(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    wanted = run(source, False, **options)
    assert wanted[0] == "off"
    for became in ("written", "mapped", "mapped"):
        got = run(source, tmp_path, **options)
        assert got[0] == became
        assert same_bits(got[1], wanted[1])
    for isa in usable_isas():
        for threads in (1, 2, 3):
            got = run(source, tmp_path, isa=isa, threads=threads, **options)
            assert got[0] == "mapped"
            assert same_bits(got[1], run(source, None, isa=isa, threads=threads, **options)[1])


@pytest.mark.parametrize("quantize", [None, "q4", "q8", "Q4_0"])
def test_a_folder(tmp_path: Path, quantize: str | None) -> None:
    """Each way to quantise has an entry of its own, also where formats and sizes are the same."""
    folder = pair(tmp_path, "qwen2", "F32", **WIDE)[0]
    for other in ("q4", "IQ4_NL", "Q4_0", None):
        assert state(folder, tmp_path / "cache", quantize=other) == "written"
    wanted = run(folder, False, quantize=quantize)[1]
    became, logits = run(folder, tmp_path / "cache", quantize=quantize)
    assert became == ("mapped" if quantize != "q8" else "written")
    assert same_bits(logits, wanted)


def test_progress_and_facts(source: Path, tmp_path: Path) -> None:
    seen: dict[str, list[Any]] = {"written": [], "mapped": []}
    for became, calls in seen.items():
        with lanewise.load(source, cache=tmp_path, on_progress=lambda *now: calls.append(now)) as llm:  # noqa: B023
            assert llm.info()["packed_cache"] == became
    assert seen["written"] == seen["mapped"]
    assert seen["mapped"][-1][0] == seen["mapped"][-1][1]


# ---- damage ----


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Entry:
    entry = entry_of(source, tmp_path_factory.mktemp("whole"))
    assert state(source, entry.folder) == "written"
    return entry


def damaged(whole: Entry, data: bytes) -> str | None:
    """Why an entry of these bytes is not taken; None: it is."""
    entry = Entry(whole.folder / "damaged", whole.sources, whole.options, whole.plan)
    entry.folder.mkdir(exist_ok=True)
    entry.path.write_bytes(data)
    return None if entry.read(make_context(None, 1)) is not None else entry.state


def test_undamaged(whole: Entry) -> None:
    assert damaged(whole, whole.path.read_bytes()) is None


@given(data=st.data())
def test_cut_off_anywhere(whole: Entry, data: st.DataObject) -> None:
    held = whole.path.read_bytes()
    assert damaged(whole, held[: data.draw(st.integers(0, len(held) - 1))])


def test_cut_off_at_every_edge(whole: Entry) -> None:
    held = whole.path.read_bytes()
    sizes = [matrix.line_bytes for matrix in whole.plan]
    begin = len(held) - sum(sizes)
    ends = [begin + sum(sizes[:i]) for i in range(len(sizes))]
    for length in [*range(100), *(end + d for end in ends for d in (-64, -1, 0, 1, 64)), len(held) - 1]:
        assert damaged(whole, held[:length]), length
    for more in (b"\0", bytes(64), held):
        assert damaged(whole, held + more)


@given(data=st.data())
def test_any_altered_byte(whole: Entry, data: st.DataObject) -> None:
    held = bytearray(whole.path.read_bytes())
    held[data.draw(st.integers(0, len(held) - 1))] ^= data.draw(st.integers(1, 255))
    assert damaged(whole, bytes(held))


def test_every_byte_of_the_header(whole: Entry) -> None:
    held = whole.path.read_bytes()
    begin = len(held) - sum(matrix.line_bytes for matrix in whole.plan)
    for at in range(begin):
        assert damaged(whole, held[:at] + bytes([held[at] ^ 1 << at % 8]) + held[at + 1 :]), at


def test_blocks_of_it_altered(whole: Entry) -> None:
    """Runs of zeros, as a crash may leave them; pages that have changed places; bits that cancel in a plain sum."""
    held = whole.path.read_bytes()
    half = len(held) // 2 // 4096 * 4096
    a, b = held[half : half + 4096], held[half + 4096 : half + 8192]
    assert damaged(whole, held[:half] + bytes(4096) + held[half + 4096 :])
    assert damaged(whole, held[:half] + b + a + held[half + 8192 :])
    assert damaged(whole, held[:half] + bytes(len(held) - half))
    assert damaged(whole, bytes(len(held)))
    for distance in (8, 64, 128, 512):
        twice = bytearray(held)
        twice[half + 7] ^= 0x80
        twice[half + 7 + distance] ^= 0x80
        assert damaged(whole, bytes(twice)), distance


def test_damage_is_mended(source: Path, tmp_path: Path) -> None:
    wanted = run(source, False)[1]
    assert state(source, tmp_path) == "written"
    path = entry_of(source, tmp_path).path
    held = path.read_bytes()
    for data in (held[:-1], held[:70], b"", held[:9000] + b"?" + held[9001:], b"{}" * 5000):
        path.write_bytes(data)
        became, logits = run(source, tmp_path)
        assert became == "written"
        assert same_bits(logits, wanted)
        assert path.read_bytes() == held
        assert state(source, tmp_path) == "mapped"


def test_what_is_no_file_is_mended(source: Path, tmp_path: Path) -> None:
    path = entry_of(source, tmp_path / "cache").path
    assert state(source, tmp_path / "cache") == "written"
    elsewhere = tmp_path / "elsewhere"
    for make in (lambda: os.mkfifo(path), lambda: path.symlink_to(elsewhere)):
        path.rename(elsewhere)
        make()
        assert state(source, tmp_path / "cache") == "written"
        assert path.is_file()
        assert not path.is_symlink()
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="not written"):
        assert "not written" in state(source, tmp_path / "cache")


def test_another_version(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("__version__", "0.0.9"), ("LAYOUT", 999)):
        assert state(source, tmp_path) in ("written", "mapped")
        with monkeypatch.context() as patch:
            patch.setattr(packed_cache, name, value)
            assert state(source, tmp_path) == "written"
            assert state(source, tmp_path) == "mapped"
        assert state(source, tmp_path) == "written"


# ---- the source ----


def test_the_source_changes(source: Path, tmp_path: Path) -> None:
    """Same size, same time of modification, another weight: the time of change tells, and then the content."""
    path = tmp_path / "model.gguf"
    shutil.copy2(source, path)
    assert state(path, tmp_path / "cache") == "written"
    data, before = bytearray(path.read_bytes()), path.stat()
    data[-5] ^= 0x55
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    became, logits = run(path, tmp_path / "cache")
    assert became == "written"
    assert same_bits(logits, run(path, False)[1])
    assert not same_bits(logits, run(source, False)[1])
    assert len(list((tmp_path / "cache").glob("*.packed"))) == 1


def test_the_source_is_touched_or_copied(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(source, path)
    assert state(path, tmp_path / "cache") == "written"
    os.utime(path)
    assert state(path, tmp_path / "cache") == "mapped"
    path.unlink()
    shutil.copy(source, path)
    assert state(path, tmp_path / "cache") == "mapped"


def test_the_configuration_changes(tmp_path: Path) -> None:
    folder = pair(tmp_path, "llama", "F32", **WIDE)[0]
    assert state(folder, tmp_path / "cache") == "written"
    assert state(folder, tmp_path / "cache") == "mapped"
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "initializer_range": 0.5}))
    assert state(folder, tmp_path / "cache") == "written"


def test_young_sources_are_hashed_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, real = [], Entry._hash

    def counted(entry: Entry) -> str:
        hashed.append(entry)
        return real(entry)

    monkeypatch.setattr(Entry, "_hash", counted)
    monkeypatch.setattr(packed_cache, "SETTLED", 3600.0)
    path = tmp_path / "model.gguf"
    shutil.copy(source, path)
    cache = tmp_path / "cache"
    for became in ("written", "mapped", "mapped"):
        assert state(path, cache) == became
    assert len(hashed) == 3
    assert not list(cache.glob("*.stamp"))
    monkeypatch.setattr(packed_cache, "SETTLED", 0.0)
    for _ in range(3):
        assert state(path, cache) == "mapped"
    assert len(hashed) == 4
    (stamp,) = cache.glob("*.stamp")
    for damage in (b"", b"[", b"{}", b"[" * 100_000, stamp.read_bytes().replace(b"a", b"b")):
        stamp.write_bytes(damage)
        state(path, cache)
        assert state(path, cache) == "mapped"


def test_a_source_that_changes_meanwhile(source: Path, tmp_path: Path) -> None:
    """Packed while somebody else wrote: nothing is kept."""
    path = tmp_path / "model.gguf"
    shutil.copy(source, path)
    at = path.stat().st_mtime_ns

    def progress(*_: Any) -> None:
        nonlocal at
        at += 1_000_000_000
        os.utime(path, ns=(at, at))

    with pytest.warns(RuntimeWarning, match="changed while it was read"):
        assert "changed" in state(path, tmp_path / "cache", on_progress=progress)
    assert not list((tmp_path / "cache").glob("*.packed"))
    assert not list((tmp_path / "cache").glob(".*"))


# ---- the folder ----


def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wanted = run(source, False)[1]
    places = [tmp_path / "file", tmp_path / "file" / "inner", Path("/proc/lanewise")]
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed")
    for place in places:
        with pytest.warns(RuntimeWarning, match="not written"):
            became, logits = run(source, place)
        assert became.startswith("not written")
        assert same_bits(logits, wanted)


def test_a_folder_that_can_only_be_read(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is used."""
    assert state(source, tmp_path) == "written"

    def refuse(*_: Any) -> Any:
        raise PermissionError("read only")

    monkeypatch.setattr(packed_cache, "_Temporary", refuse)
    assert state(source, tmp_path) == "mapped"
    next(tmp_path.glob("*.stamp")).unlink()
    assert state(source, tmp_path) == "mapped"


LIMITED = """
import resource, signal, sys, warnings
from lanewise.model.model import Model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
print(Model.load(sys.argv[1], cache=sys.argv[2]).packed_cache)
"""


@pytest.mark.parametrize("limit", [0, 5000, 200_000])
def test_no_room(source: Path, tmp_path: Path, limit: int) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", LIMITED, str(source), str(tmp_path), str(limit)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("not written"), done.stdout
    assert list(tmp_path.iterdir()) == []


def test_interrupted(source: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model.load(source, cache=tmp_path, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left(source: Path, tmp_path: Path) -> None:
    name = entry_of(source, tmp_path).path.name
    old, young, foreign = (
        tmp_path / n for n in (f".{name}.{'0' * 12}.part", f".{name}.{'1' * 12}.part", ".other.part")
    )
    for path in (old, young, foreign):
        path.write_bytes(b"half")
    for path in (old, foreign):
        os.utime(path, (1e9, 1e9))
    assert state(source, tmp_path) == "written"
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


RACE = """
import sys, time
from lanewise.model import packed_cache
from lanewise.model.model import Model
sys.path.insert(0, sys.argv[4])
from tiny import Player, some_ids
packed_cache.SETTLED = 0.0
while time.time() < float(sys.argv[3]): pass
seen = set()
for i in range(12):
    model = Model.load(sys.argv[1], cache=sys.argv[2], threads=1)
    seen.add((model.packed_cache in ("written", "mapped"), Player(model, 4).feed(some_ids(40, 60)).tobytes()))
    if i % 4 == 3:
        packed_cache.Entry.read = lambda *_: None  # write it again, under the others' eyes
assert len(seen) == 1 and next(iter(seen))[0], len(seen)
"""


def test_several_processes_at_once(source: Path, tmp_path: Path) -> None:
    begin, here = str(time.time() + 2), str(Path(__file__).parent)
    arguments = [sys.executable, "-c", RACE, str(source), str(tmp_path), begin, here]
    running = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error
    assert state(source, tmp_path) == "mapped"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".packed", ".stamp"]


def test_replaced_while_it_is_mapped(source: Path, tmp_path: Path) -> None:
    """Who has mapped an entry keeps it."""
    assert state(source, tmp_path) == "written"
    model = Model.load(source, cache=tmp_path)
    wanted = Player(model, 4).feed(IDS)
    (path,) = tmp_path.glob("*.packed")
    fresh = path.with_suffix(".new")
    fresh.write_bytes(bytes(path.stat().st_size))
    os.replace(fresh, path)
    assert same_bits(Player(model, 4).feed(IDS), wanted)
    model.close()
