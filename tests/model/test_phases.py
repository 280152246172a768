"""The same bits whatever the phase, the batch, the threads and the instruction set: whole models, exact equality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import POSITIONS, Player, Seq, folder, same_bits, some_ids, usable_isas

from lanewise.model.compile import Score
from lanewise.model.model import Model

NAMES = ["llama-bias", "mistral", "qwen2-window", "qwen3"]
KINDS = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]
ISAS = usable_isas()


def player(path: Path, kv: str = "auto", numerics: str = "exact", threads: int = 1, isa: str | None = None) -> Player:
    return Player(Model.load(path, kv_dtype=kv, numerics=numerics, threads=threads, isa=isa))


def pieces(total: int, seed: int) -> list[int]:
    """Random lengths that sum to total, short and long ones."""
    random = np.random.default_rng(seed)
    out: list[int] = []
    while sum(out) < total:
        out.append(min(int(random.choice([1, 2, 3, 7, 16, 17, 63, 64, 65, 130])), total - sum(out)))
    return out


@pytest.mark.parametrize(
    ("dtype", "kv", "numerics"), [(*kind, mode) for kind in KINDS for mode in ("fast", "exact")[kind[0] == "float32" :]]
)
@pytest.mark.parametrize("name", NAMES)
def test_phases(name: str, dtype: str, kv: str, numerics: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prefill whole, in chunks of any length, and token by token; whichever rows' logits are asked for."""
    path, ids = folder(tmp_path_factory, name, dtype), some_ids(POSITIONS, 300)
    p = player(path, kv, numerics)
    whole = p.feed(ids)
    p = Player(p.model)
    assert same_bits(p.feed(ids, [1] * POSITIONS), whole)
    for seed in range(4):
        p = Player(p.model)
        assert same_bits(p.feed(ids, pieces(POSITIONS, seed)), whole)
    p, seq = Player(p.model), Seq()
    assert same_bits(p.step([(seq, ids[:-1])], last_only=True)[0], whole[-2:-1])
    assert same_bits(p.step([(seq, ids[-1:])], last_only=True)[0], whole[-1:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_alone(name: str, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sequences that start, prefill and decode in the same steps give what each gives alone."""
    path = folder(tmp_path_factory, name, dtype)
    p = player(path, numerics="fast")
    lengths = [1, 19, 64, 130, 200]
    ids = [some_ids(n, 300, seed=n) for n in lengths]
    alone = [Player(p.model).feed(each) for each in ids]
    for seed in range(3):
        random = np.random.default_rng(seed)
        p, seqs = Player(p.model), [Seq() for _ in ids]
        parts: list[list[Any]] = [[] for _ in ids]
        while left := [i for i, seq in enumerate(seqs) if seq.length < lengths[i]]:
            chosen = [i for i in random.permutation(left) if random.random() < 0.7] or left
            takes = [int(random.choice([1, 5, 40, 100])) for _ in chosen]
            works = [(seqs[i], ids[i][seqs[i].length : seqs[i].length + n]) for i, n in zip(chosen, takes, strict=True)]
            for i, logits in zip(chosen, p.step(works), strict=True):
                parts[i].append(logits)
        for part, wanted in zip(parts, alone, strict=True):
            assert same_bits(np.concatenate(part), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads(dtype: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    ids = some_ids(POSITIONS, 300)
    for name in ("llama-bias", "qwen2-window"):
        path = folder(tmp_path_factory, name, dtype)
        wanted = player(path, numerics="fast").feed(ids)
        for threads in (2, 3, 4):
            p = player(path, numerics="fast", threads=threads)
            assert p.model.threads == threads
            assert same_bits(p.feed(ids, [200, 1, 99]), wanted)


@pytest.mark.parametrize(("dtype", "kv"), KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_isas(name: str, dtype: str, kv: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """float32, and bf16 widened (numerics="exact"): every table gives the bits of the scalar one."""
    path, ids = folder(tmp_path_factory, name, dtype), some_ids(POSITIONS, 300)
    assert "scalar" in ISAS
    wanted = player(path, kv, isa="scalar").feed(ids)
    for isa in ISAS:
        p = player(path, kv, isa=isa)
        assert p.model.isa == isa
        assert same_bits(p.feed(ids, [260, 1, 39]), wanted), isa


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["llama-bias", "llama-wide", "qwen3"])
def test_inner_activations_in_bfloat16(
    name: str, isa: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded where they are made or where the bfloat16 dot product reads them: the same."""
    path, ids = folder(tmp_path_factory, name, "bfloat16"), some_ids(POSITIONS, 300)
    p, add, narrow = player(path, numerics="fast", isa=isa), Score.add, []

    def plainly(score: Score, kind: str, *, in_dot: bool = False, out_dot: bool = False, **fields: Any) -> None:
        narrow.append(in_dot or out_dot)
        add(score, kind, **fields)

    monkeypatch.setattr(Score, "add", plainly)
    wanted = player(path, numerics="fast", isa=isa).feed(ids)
    assert sum(narrow) == 2 * 3  # two products of each layer
    assert same_bits(p.feed(ids, [203, 1, 96]), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prefix", [1, 63, 64, 65, 128, 200])
def test_forked_prefix(prefix: int, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two continuations of a cached prefix equal what is computed from the start, and do not touch each other."""
    path = folder(tmp_path_factory, "qwen2-window", dtype)
    p = player(path, numerics="fast")
    common, ends = some_ids(prefix, 300), [some_ids(90, 300, seed=s) for s in (3, 4)]
    first = Seq()
    p.step([(first, common)])
    second = p.fork(first)
    found = [np.concatenate(x) for x in zip(*(p.step([(first, ends[0][i : i + 9]), (second, ends[1][i : i + 9])])
                                              for i in range(0, 90, 9)), strict=True)]  # fmt: skip
    for end, logits in zip(ends, found, strict=True):
        assert same_bits(logits, Player(p.model).feed(np.concatenate([common, end]))[prefix:])


@pytest.mark.parametrize("keep", [0, 1, 50, 64, 100])
def test_truncate(keep: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Going back and on with other tokens leaves nothing of what was there."""
    path = folder(tmp_path_factory, "mistral")
    p, seq = player(path), Seq()
    ids, other = some_ids(150, 300), some_ids(80, 300, seed=9)
    p.step([(seq, ids)])
    seq.length = keep
    assert same_bits(p.feed(other, [33, 1, 46], seq), Player(p.model).feed(np.concatenate([ids[:keep], other]))[keep:])


def test_other_sequences_leave_no_trace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pages that other sequences filled with anything are as good as new."""
    path = folder(tmp_path_factory, "llama")
    p, ids = player(path), some_ids(70, 300)
    wanted = p.feed(ids)
    p = Player(p.model)
    p.feed(some_ids(3000, 300, seed=5), [500] * 6)
    p = Player(p.model)
    assert same_bits(p.feed(ids), wanted)
