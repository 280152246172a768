"""llama.cpp's names of file types: which tensor gets which type, and the same choice as llama.cpp's own program."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from gguf_pairs import pair
from tiny import Player, same_bits, some_ids

from lanewise.model.convert import quantize_model
from lanewise.model.gguf import open_gguf
from lanewise.model.model import Model
from lanewise.model.quantize_plan import KNOWN, MIXTURES, Plan

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 32, "num_attention_heads": 8}


def layers_of(name: str, role: str, type: str, layers: int = 16) -> list[int]:
    """The layers whose matrix of that role has the type."""
    plan = Plan(name, layers)
    return [i for i in range(layers) if plan.type(role, i, (64, 512)) == type]


@pytest.mark.parametrize("name", ["Q4_K_M", "q4_k_m", "Q5_K_M"])
def test_medium_has_six_bits_for_half_of_v_and_down(name: str) -> None:
    base = name.upper()[:4]
    for role in ("v", "down"):
        assert layers_of(name, role, "Q6_K") == [0, 1, 4, 7, 10, 13, 14, 15]
        assert layers_of(name, role, base) == [2, 3, 5, 6, 8, 9, 11, 12]
    for role in ("q", "k", "o", "gate", "up"):
        assert layers_of(name, role, base) == list(range(16))


def test_the_other_mixtures() -> None:
    every = list(range(16))
    assert (layers_of("Q4_K_S", "v", "Q5_K"), layers_of("Q4_K_S", "down", "Q5_K")) == ([0, 1, 2, 3], [0, 1])
    assert layers_of("Q4_K_S", "o", "Q4_K") == every
    assert (layers_of("Q3_K_M", "v", "Q5_K"), layers_of("Q3_K_M", "v", "Q4_K")) == ([0, 1], every[2:])
    assert (layers_of("Q3_K_M", "down", "Q5_K"), layers_of("Q3_K_M", "down", "Q4_K")) == ([0], every[1:])
    assert layers_of("Q3_K_M", "o", "Q4_K") == layers_of("Q3_K_M", "gate", "Q3_K") == every
    assert all(layers_of("Q3_K_L", role, "Q5_K") == every for role in ("v", "down", "o"))
    for name, base in (("Q5_K_S", "Q5_K"), ("Q3_K_S", "Q3_K")):
        assert all(layers_of(name, role, base) == every for role in ("q", "k", "v", "o", "gate", "up", "down"))
    assert layers_of("Q4_K_S", "v", "Q5_K", 80) == list(range(80)), "the small v of 70 billion weights"


@pytest.mark.parametrize("name", MIXTURES)
def test_head_embedding_and_narrow_widths(name: str) -> None:
    base = name[:4]
    assert Plan(name, 2).type("head", None, (9, 512)) == "Q6_K"
    assert Plan(name, 2).type("embed", None, (9, 512)) == base
    assert Plan(name, 2, tied=True).type("embed", None, (9, 512)) == "Q6_K"
    assert Plan(name, 2, embed="q8_0", head="F16").wanted("embed", None) == "Q8_0"
    plan = Plan(name, 2)
    assert plan.type("head", None, (9, 96)) == "Q8_0"
    assert plan.type("q", 0, (9, 96), "x") == {"Q4_K": "Q4_1", "Q5_K": "Q5_1"}.get(base, "IQ4_NL")
    assert plan.fallbacks[-1][:2] == ("x", base)


def test_numbers_of_files_are_those_of_llama_cpp() -> None:
    numbers = pytest.importorskip("gguf").LlamaFileType
    for name in KNOWN:
        if name.upper() == name:
            theirs = {"F32": "ALL_F32", "Q3_K": "MOSTLY_Q3_K_S", "Q4_K": "MOSTLY_Q4_K_S", "Q5_K": "MOSTLY_Q5_K_S"}
            wanted = 38 if name == "MXFP4" else int(numbers[theirs.get(name, f"MOSTLY_{name}")])
            assert Plan(name.lower(), 2).file_type == wanted, name
    assert Plan("q4m", 2).file_type == int(numbers.MOSTLY_Q4_K_M)


def test_an_unknown_name_is_told_all_that_are_known() -> None:
    with pytest.raises(ValueError, match="'IQ2_M' is neither a preset nor a type that can be written") as caught:
        Plan("IQ2_M", 2)
    assert all(name in str(caught.value) for name in ("q4m", "Q4_K_M", "Q3_K_L", "Q6_K", "IQ4_XS"))


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_a_mixture_as_a_file_and_on_load(name: str, tmp_path: Path) -> None:
    made, _ = pair(tmp_path, name, **(WIDE | {"num_key_value_heads": 2}))
    found = quantize_model(made, tmp_path / "q.gguf", type="q4_k_m")
    assert found["types"].keys() == {"F32", "Q4_K", "Q6_K"}
    with open_gguf(tmp_path / "q.gguf") as file:
        assert file.metadata["general.file_type"] == 15
        types = {tensor: file.tensor(tensor).type.name for tensor in file.tensors}
    assert types["token_embd.weight"] == ("Q6_K" if name == "llama-tied" else "Q4_K")
    assert (types["blk.0.attn_v.weight"], types["blk.1.ffn_down.weight"]) == ("Q4_K", "Q6_K")
    from_file, on_load = (
        Player(model).feed(some_ids(20, model.vocabulary))
        for model in (Model.load(tmp_path / "q.gguf", threads=1), Model.load(made, threads=1, quantize="Q4_K_M"))
    )
    assert same_bits(from_file, on_load)


@pytest.mark.peer
@pytest.mark.parametrize("name", [*MIXTURES, "Q6_K", "Q8_0"])
@pytest.mark.parametrize(("model", "layers"), [("llama", 9), ("llama-tied", 16)])
def test_llama_cpp_chooses_the_same_types(name: str, model: str, layers: int, tmp_path: Path) -> None:
    llama = pytest.importorskip("llama_cpp")
    shape = WIDE | {"num_hidden_layers": layers, "num_key_value_heads": 2 if model == "llama" else 4}
    _, source = pair(tmp_path, model, **shape)
    quantize_model(source, tmp_path / "ours.gguf", type=name)
    with open_gguf(tmp_path / "ours.gguf") as file:
        ours = {tensor: file.tensor(tensor).type.name for tensor in file.tensors}
        number = file.metadata["general.file_type"]
    given = llama.llama_model_quantize_default_params()
    given.ftype, given.nthread = number, 2
    target = tmp_path / "theirs.gguf"
    assert llama.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(given)) == 0
    with open_gguf(target) as file:
        assert ours == {tensor: file.tensor(tensor).type.name for tensor in file.tensors}
        assert file.metadata["general.file_type"] == number
