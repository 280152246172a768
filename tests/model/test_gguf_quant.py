"""GGUF models in their own packed classes: near the float32 evaluation of their weights, the same bits everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_pairs import pair
from tiny import Player, same_bits, some_ids, usable_isas

from lanewise import LLM, SamplingParams
from lanewise.model.gguf_wide import WIDER
from lanewise.model.model import Model, describe
from shared import needs_shared, shared

WIDE = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 100}
# name -> types of the matrices by role; "" is for the others
FILES: dict[str, dict[str, str]] = {
    "Q4_0": {"": "Q4_0", "head": "Q6_K"},
    "Q8_0": {"": "Q8_0"},
    "Q5_1": {"": "Q5_1", "embed": "Q5_0", "v": "Q4_1"},
    "Q4_K_M": {"": "Q4_K", "v": "Q6_K", "down": "Q6_K", "head": "Q6_K"},
    "Q5_K_M": {"": "Q5_K", "v": "Q6_K"},
    "Q3_K_S": {"": "Q3_K", "o": "Q5_K"},
    "Q2_K": {"": "Q2_K", "v": "Q3_K", "down": "Q3_K"},
    "IQ4": {"": "IQ4_XS", "embed": "IQ4_NL", "v": "MXFP4"},
    "IQ2": {
        "": "IQ2_XS",
        "embed": "IQ2_S",
        "q": "IQ2_XXS",
        "v": "IQ3_S",
        "o": "IQ1_M",
        "down": "IQ3_XXS",
        "head": "Q5_K",
    },
    "IQ1": {"": "IQ1_S", "v": "IQ3_XXS", "down": "IQ2_XS"},
    "IQ3": {"": "IQ3_S", "gate": "IQ3_XXS", "up": "IQ3_XXS"},
    "TQ": {"": "TQ2_0", "down": "TQ1_0", "head": "Q6_K"},
    "F16 and gate unlike up": {"": "Q4_0", "gate": "Q8_0", "k": "F16"},
}
SHARED_FILES = [("stories260K", kind) for kind in ("q8_0", "q4_0")] + [
    ("babyllama-105", kind) for kind in ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
]


def packed(kind: str) -> str:
    return WIDER.get(kind, kind.lower())


def logits(path: Path, ids: Any, **given: Any) -> Any:
    model = Model.load(path, **given)
    try:
        return Player(model).feed(ids)
    finally:
        model.close()


def nmse(got: Any, wanted: Any) -> float:
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize("name", FILES)
def test_near_the_dequantised_model(name: str, tmp_path: Path) -> None:
    """8 bits of activations in every product of two layers: about 5e-5 each, so at most 2e-3 in all."""
    _, file = pair(tmp_path, "llama", FILES[name], **WIDE)
    ids = some_ids(40, 100)
    exact, own = logits(file, ids, dtype="float32"), logits(file, ids)
    assert 0 < nmse(own, exact) < 2e-3
    assert set(describe(file)["formats"]) & {packed(kind) for kind in FILES[name].values()}


@pytest.mark.parametrize("name", FILES)
def test_formats_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    _, file = pair(tmp_path, "llama", FILES[name], **WIDE)
    wanted = {packed(kind) for kind in FILES[name].values()}
    if name.startswith("F16"):
        wanted = {"q4_0", "q8_0", "float32"}  # gate and up lie in one class, that of the wider; F16 is float32
    found = describe(file)
    assert set(found["formats"]) == wanted
    model = Model.load(file)
    assert model.weight_bytes == sum(found["formats"].values())
    model.close()


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q4_K_M", "Q2_K", "IQ1", "IQ2", "IQ3", "TQ"])
def test_the_same_bits_everywhere(name: str, tmp_path: Path) -> None:
    """Whole, in pieces, token by token; any number of threads; every table."""
    _, file = pair(tmp_path, "qwen2", FILES[name] | {"head": FILES[name][""]}, **WIDE)
    ids = some_ids(130, 100)
    whole = logits(file, ids)
    for isa in usable_isas():
        assert same_bits(logits(file, ids[:40], isa=isa), whole[:40])
    model = Model.load(file, threads=2)
    for pieces in ([1] * 130, [100, 1, 1, 28], [64, 66]):
        assert same_bits(Player(model).feed(ids, pieces), whole)
    model.close()


@needs_shared
@pytest.mark.parametrize(("name", "kind"), SHARED_FILES)
def test_shared_models(name: str, kind: str) -> None:
    """Real weights: five to eight layers stay within 1e-3 of float32, and the text goes on."""
    file = shared("models", name, f"{name}-{kind}.gguf")
    ids = some_ids(120, 105)
    exact, own = logits(file, ids, dtype="float32"), logits(file, ids)
    assert 0 < nmse(own, exact) < 1e-3
    assert np.mean(own.argmax(1) == exact.argmax(1)) > 0.85
    with LLM(file) as llm:
        params = SamplingParams(max_tokens=20, temperature=0.0)
        texts = [llm.generate("Once upon a time", params).text for _ in range(2)]
    assert texts[0] == texts[1] != ""
