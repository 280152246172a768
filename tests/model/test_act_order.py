"""Act-order in the integer kernels: inputs sorted by group, matrices that share an order and matrices that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_writers as writers
from hypothesis import given
from hypothesis import strategies as st
from quantised_writers import Array, draw
from test_quantised import GPTQ, R, opened
from tiny import Player, folder, same_bits, some_ids, usable_isas

from lanewise.errors import LoadError
from lanewise.model import packed_cache
from lanewise.model.model import Model, describe
from lanewise.model.pack import plan_of
from lanewise.model.packed_cache import Planned, open_entry
from lanewise.model.quantised.classes import BLOCK, layout
from lanewise.model.source import open_source

SECTION = GPTQ | {"group_size": 32, "desc_act": True}
IDS = some_ids(60, 300)
PLAINLY: dict[str, Any] = {"numerics": "exact", "kv_dtype": "float32"}


# ---- the layout ----


@given(groups=st.lists(st.integers(0, 4), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1), whole=st.booleans())
def test_layout(groups: list[int], seed: int, whole: bool) -> None:
    """Blocks of one group each, by a stable permutation, if each group has whole blocks, and only then."""
    rng = R(seed)
    counts = np.array(groups) * BLOCK
    if not whole:
        counts += rng.integers(0, BLOCK, len(counts))
    g_idx = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    found = layout(len(g_idx), BLOCK, g_idx)
    if (counts % BLOCK).any():
        in_place = len(g_idx) % BLOCK == 0 and (g_idx.reshape(-1, BLOCK) == g_idx.reshape(-1, BLOCK)[:, :1]).all()
        assert (found is None) == (not in_place)
        return
    assert found is not None
    order = np.arange(len(g_idx)) if found.order is None else found.order
    assert (np.sort(order) == np.arange(len(g_idx))).all()
    assert (g_idx[order] == np.repeat(found.where, BLOCK)).all()
    for group in range(len(counts)):
        assert (np.diff(order[g_idx[order] == group]) > 0).all()


def test_no_order_where_none_is_needed() -> None:
    for g_idx in (None, np.arange(96) // 32, np.repeat([2, 0, 1], 32)):
        found = layout(96, 32, g_idx)
        assert found is not None
        assert found.order is None


# ---- models ----

Order = Callable[[str, int], int]  # module, layer -> what its order is drawn from


def together(module: str, layer: int) -> int:
    """Modules with a common input have a common order, as GPTQ gives them."""
    family = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 3}
    return 10 * layer + family[module]


def qkv_apart(module: str, layer: int) -> int:
    return 100 + layer if module == "k_proj" else together(module, layer)


def gate_apart(module: str, layer: int) -> int:
    return 100 + layer if module == "gate_proj" else together(module, layer)


def made(source: Path, path: Path, order: Order, section: dict[str, Any] = SECTION) -> tuple[Path, Path]:
    rng = R(5)

    def writer(module: str, n: int, k: int) -> tuple[writers.Parts, Array] | None:
        if module == "lm_head":
            return None
        seed = order(module.split(".")[-1], int(module.split(".")[2]))
        drawn = replace(draw(rng, n, k, 4, 32), zeros=np.full((n, k // 32), 8))
        return writers.gptq(drawn, g_idx=R(seed).permutation(np.arange(k) // 32))

    return writers.pair(source, path, section, writer)


def nmse(got: Any, wanted: Any) -> float:
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize(("order", "matrices"), [(together, 4), (qkv_apart, 6), (gate_apart, 4)])
def test_models(order: Order, matrices: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Near the float32 evaluation, the same bits on every table, by any threads, in any pieces."""
    held, plain = made(folder(tmp_path_factory, "llama-wide"), tmp_path, order)
    wanted = Player(Model.load(plain, threads=1)).feed(IDS)
    formats = describe(held)["formats"]
    assert set(formats) == {"q4_0", "float32"}
    model = Model.load(held, threads=2, **PLAINLY)
    assert model.weight_bytes == sum(formats.values()) == model.memory_plan()["weights"]
    assert sum(op.kind == "linear" for op in model.ops) == 3 * matrices + 1
    gated = [op.weight.format for op in model.ops if op.kind == "linear" and op.width]
    assert gated == ["float32" if order is gate_apart else "q4_0"] * 3
    own = Player(model).feed(IDS)
    assert 0 < nmse(own, wanted) < 2e-3
    assert same_bits(Player(model).feed(IDS, [1, 40, 1, 18]), own)
    for isa in usable_isas():
        for threads in (1, 3):
            assert same_bits(Player(Model.load(held, isa=isa, threads=threads, **PLAINLY)).feed(IDS), own)


def test_values_in_one_matrix(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """q, k and v share one packed matrix if they share an order; each value stays at its input."""
    held, _ = made(folder(tmp_path_factory, "llama-wide"), tmp_path, together)
    model = Model.load(held)
    fused = [op.weight for op in model.ops if op.kind == "linear" and op.weight.n == 64 + 2 * 32]
    assert len(fused) == 3
    with open_source(held) as opened:
        for i, weight in enumerate(fused):
            wanted = [opened.weights.array(f"model.layers.{i}.self_attn.{role}_proj.weight") for role in "qkv"]
            out = np.empty((128, 64), np.float32)
            weight.unpack(0, out)
            assert same_bits(out, np.concatenate(wanted))


def test_down_in_order(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """down with its inputs in an order of its own has the bits of a model whose inner channels are in that order."""
    source, rng = folder(tmp_path_factory, "llama-wide"), R(3)
    config = json.loads((source / "config.json").read_text())
    hidden, width = config["hidden_size"], config["intermediate_size"]
    g_idx = rng.permutation(np.arange(width) // 32)
    order = np.argsort(g_idx, kind="stable")
    gates = {name: draw(rng, width, hidden, 4, 32) for name in ("gate", "up")}
    down = draw(rng, hidden, width, 4, 32)

    def writer(straight: bool) -> Callable[[str, int, int], Any]:
        def write(module: str, n: int, k: int) -> Any:
            role = module.split(".")[-1].removesuffix("_proj")
            if role in gates:
                d = gates[role]
                turned = replace(d, codes=d.codes[order], scales=d.scales[order], zeros=d.zeros[order])
                return writers.gptq(turned if straight else d)
            if role != "down":
                return None
            return (
                writers.gptq(replace(down, codes=down.codes[:, order])) if straight else writers.gptq(down, g_idx=g_idx)
            )

        return write

    paths = [writers.pair(source, tmp_path / str(i), SECTION, writer(bool(i)))[0] for i in range(2)]
    ordered, straight = (Player(Model.load(path, **PLAINLY)).feed(IDS) for path in paths)
    assert same_bits(ordered, straight)


# ---- the packed cache ----


def test_cache(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "SETTLED", 0.0)
    held, _ = made(folder(tmp_path_factory, "llama-wide"), tmp_path, qkv_apart)
    cache = tmp_path / "cache"
    wanted = Player(Model.load(held)).feed(IDS)
    for state in ("written", "mapped", "mapped"):
        model = Model.load(held, cache=cache)
        assert model.packed_cache == state
        assert model.weight_bytes == sum(model.formats.values())
        assert same_bits(Player(model).feed(IDS), wanted)
        model.close()
    with open_source(held) as opened:
        plan = plan_of(opened.spec, opened.weights, "auto")
        options = {"dtype": "auto", "quantize": None}
        entry = open_entry(cache, opened.files, options, plan)
        assert entry is not None
        ctx = model._ctx
        assert entry.read(ctx) is not None
        at = next(i for i, matrix in enumerate(plan) if matrix.order is not None)
        order = plan[at].order
        assert order is not None
        swapped = order.copy()
        swapped[[0, 1]] = swapped[[1, 0]]
        for other in (swapped, None, order[::-1]):
            wrong = [*plan[:at], plan[at]._replace(order=other), *plan[at + 1 :]]
            entry = open_entry(cache, opened.files, options, wrong)
            assert entry is not None
            assert entry.read(ctx) is None
            assert "another source" in entry.state


def test_what_the_header_says() -> None:
    order = np.arange(32, dtype=np.int32)
    assert Planned("q4_0", 1, 32).said() == ["q4_0", 1, 32]
    with_order = Planned("q4_0", 1, 32, order)
    assert with_order.said() != Planned("q4_0", 1, 32, order[::-1].copy()).said()
    assert with_order.nbytes == with_order.line_bytes + 128


# ---- hostile files ----

WRONG: dict[str, Callable[[Array], Array]] = {
    "-1": lambda g: np.r_[-1, g[1:]],
    "one too high": lambda g: np.r_[g[:-1], 2],
    "2^31-1": lambda g: np.r_[g[:5], 2**31 - 1, g[6:]],
    "-2^31": lambda g: np.r_[g[:5], -(2**31), g[6:]],
    "short": lambda g: g[:-1],
    "long": lambda g: np.r_[g, 0],
    "flat": lambda g: g.reshape(2, -1),
    "none": lambda g: g[:0],
}


@pytest.mark.parametrize("name", WRONG)
def test_groups_that_cannot_be(name: str, tmp_path: Path) -> None:
    parts, values = writers.gptq(draw(R(1), 32, 64, 4, 32), g_idx=R(1).permutation(np.arange(64) // 32))
    with opened(tmp_path, SECTION, (parts, values)) as weights:
        assert weights.blocks_order("m.weight") is not None
    parts["g_idx"] = WRONG[name](parts["g_idx"][0]).astype(np.int32), "I32"
    with pytest.raises(LoadError) as caught:
        opened(tmp_path, SECTION, (parts, values)).blocks_format("m.weight")
    assert caught.value.field == "m.g_idx"


@pytest.mark.parametrize("counts", [(33, 31), (64, 0), (1, 63), (16, 48)])
def test_groups_of_unequal_sizes(counts: tuple[int, int], tmp_path: Path) -> None:
    """Whole blocks of 32 or expanded; the values are the same either way."""
    g_idx = R(1).permutation(np.repeat([0, 1], counts))
    made = writers.gptq(draw(R(1), 32, 64, 4, 32), g_idx=g_idx)
    with opened(tmp_path, SECTION, made) as weights:
        assert weights.blocks_format("m.weight") == ("q5_0" if 64 in counts else None)
        assert weights.blocks_order("m.weight") is None
        assert same_bits(weights.array("m.weight"), made[1])
