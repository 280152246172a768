"""Blocks carried in a wider class: every value to the bit; models whose gate and up differ stay as small as that."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_pairs import pair
from tiny import Player, same_bits, some_ids

import oracle
import quants as q
from lanewise import kernels as k
from lanewise.model.carry import carried, common, holders
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_writer import Declared, GgufWriter, value_of
from lanewise.model.model import Model, describe

CARRIED = [(name, wider) for name in q.NAMES for wider in holders(name)[1:]]
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}


@pytest.mark.parametrize(("name", "wider"), CARRIED)
@pytest.mark.parametrize("scales", [None, [half for half in q.HALVES if half & 0x7C00 != 0x7C00]])
def test_every_value_to_the_bit(name: str, wider: str, scales: Any) -> None:
    """Random codes and sub-scales, all of each byte; float16 scales at their limits too."""
    raw = q.blocks(name, 300, 512, 3, scales)
    got = carried(raw, name, wider)
    oracle.assert_same_bits(k.dequantize(got, wider), k.dequantize(raw, name))
    oracle.assert_same_bits(k.pack_blocks(got, wider).unpack(), k.pack_blocks(raw, name).unpack())


def test_the_smallest_common_class() -> None:
    assert common(["q4_0", "q5_0"]) == common(["q5_0", "q4_0"]) == "q5_0"
    assert common(["q4_0", "iq4_nl"]) == common(["q8_0", "iq4_nl"]) == "q8_0"
    assert (common(["q4_k", "q5_k"]), common(["q6_k", "q3_k"]), common(["q4_1", "q5_1"])) == ("q5_k", "q6_k", "q5_1")
    for one, other in itertools.permutations(("q4_0", "q4_1", "q4_k", "q6_k", "float32", "bfloat16"), 2):
        assert common([one, other]) is None


def logits(path: Path, **given: Any) -> Any:
    model = Model.load(path, **given)
    return Player(model).feed(some_ids(40, model.vocabulary))


@pytest.mark.parametrize(
    ("gate", "up", "format"),
    [("Q4_0", "Q8_0", "q8_0"), ("Q5_0", "Q4_0", "q5_0"), ("Q4_K", "Q5_K", "q5_k"), ("Q6_K", "Q3_K", "q6_k")],
)
def test_gate_unlike_up_is_the_model_of_the_wider_type(gate: str, up: str, format: str, tmp_path: Path) -> None:
    """The logits, to the bit, of a file that holds both in the wider type with the same values; none is float32."""
    _, file = pair(tmp_path, "llama", {"": "Q8_0", "gate": gate, "up": up}, **WIDE)
    assert set(describe(file)["formats"]) == {"q8_0", format}
    with open_gguf(file) as source:
        rows = {name: source.rows(name) for name in source.tensors}
        types = {name: tensor.type.name for name, tensor in source.tensors.items()}
        for name in rows:
            if types[name].lower() != format and ("ffn_gate" in name or "ffn_up" in name):
                rows[name] = carried(rows[name], types[name].lower(), format)
                types[name] = format.upper()
        pairs = {key: value_of(value, source.types[key]) for key, value in source.metadata.items()}
        declared = [Declared(name, types[name], tensor.shape) for name, tensor in source.tensors.items()]
        with GgufWriter(tmp_path / "wide.gguf", pairs, declared) as writer:
            for name in rows:
                writer.write(name, np.ascontiguousarray(rows[name]))
    assert same_bits(logits(file), logits(tmp_path / "wide.gguf"))
    assert same_bits(logits(file, dtype="float32"), logits(tmp_path / "wide.gguf", dtype="float32"))


def test_without_a_common_class_it_is_float32(tmp_path: Path) -> None:
    _, file = pair(tmp_path, "llama", {"": "Q8_0", "gate": "Q4_K", "up": "Q6_K"}, **WIDE)
    assert set(describe(file)["formats"]) == {"q8_0", "float32"}
