"""Folders and GGUF files to quantised GGUF files: the same logits, the same values, errors that name their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_pairs import pair
from tiny import MODELS, Floats, Player, folder, same_bits, some_ids

from lanewise.errors import LoadError, UnsupportedError
from lanewise.model.convert import quantize_model
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_writer import Declared, GgufWriter, Value
from lanewise.model.importance import read_importance, write_importance
from lanewise.model.model import Model
from lanewise.model.quantize import dequantize_rows, quantize_rows
from lanewise.model.quantize_plan import Plan
from lanewise.model.safetensors import open_weights
from shared import needs_shared, shared

REFUSED = {"llama-bias": "activation is gelu_tanh", "qwen2-window": "layers differ", "qwen3-window": "layers differ"}


def logits(path: Path, **given: Any) -> Floats:
    model = Model.load(path, numerics="exact", threads=1, **given)
    return Player(model).feed(some_ids(70, model.vocabulary))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in REFUSED])
def test_a_float32_file_gives_the_bits_of_its_folder(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = folder(tmp_path_factory, name)
    found = quantize_model(source, tmp_path / "m.gguf", type="F32")
    assert "the file has no tokenizer" in found["notes"]
    assert found["fallbacks"] == []
    assert same_bits(logits(source, context=128), logits(tmp_path / "m.gguf", context=128))


def test_bfloat16_stays_bfloat16(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = folder(tmp_path_factory, "llama", "bfloat16")
    quantize_model(source, tmp_path / "m.gguf", type="BF16")
    assert same_bits(logits(source), logits(tmp_path / "m.gguf"))
    quantize_model(source, tmp_path / "q.gguf", type="Q4_0")
    with open_gguf(tmp_path / "q.gguf") as file:
        assert file.tensor("blk.0.ffn_down.weight").type.name == "BF16", "112 is no multiple of 32"


@pytest.mark.parametrize("name", REFUSED)
def test_what_gguf_cannot_say_is_refused(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UnsupportedError, match=REFUSED[name]):
        quantize_model(folder(tmp_path_factory, name), tmp_path / "m.gguf", type="F32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("type", ["q4", "q4m", "q6", "q8", "Q4_0", "Q5_1", "Q3_K", "MXFP4", "F16"])
@pytest.mark.parametrize("name", ["mistral", "qwen3"])
def test_a_file_and_quantizing_on_load_give_the_same_bits(name: str, type: str, tmp_path: Path) -> None:
    made, _ = pair(tmp_path, name, hidden_size=256, intermediate_size=512)
    quantize_model(made, tmp_path / "q.gguf", type=type)
    from_file, on_load = logits(tmp_path / "q.gguf"), logits(made, quantize=type)
    assert same_bits(from_file, on_load)
    assert not same_bits(from_file, logits(made))


@pytest.mark.parametrize("type", ["q4m", "Q5_0", "F16", "F32"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3-bias"])
def test_a_gguf_source_gives_what_its_folder_gives(name: str, type: str, tmp_path: Path) -> None:
    made, file = pair(tmp_path, name, hidden_size=256)
    quantize_model(made, tmp_path / "a.gguf", type=type)
    quantize_model(file, tmp_path / "b.gguf", type=type)
    with open_gguf(tmp_path / "a.gguf") as a, open_gguf(tmp_path / "b.gguf") as b:
        assert set(a.tensors) == set(b.tensors)
        for tensor in a.tensors.values():
            assert b.tensor(tensor.name).type is tensor.type
            assert np.array_equal(a.rows(tensor.name), b.rows(tensor.name)), tensor.name
        for key in ("general.file_type", "general.quantization_version", "general.architecture"):
            assert a.metadata[key] == b.metadata[key]
    assert same_bits(logits(tmp_path / "a.gguf"), logits(tmp_path / "b.gguf"))


def test_the_reference_reader_sees_the_quantised_rows(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    made, _ = pair(tmp_path, "qwen3", hidden_size=256)
    quantize_model(made, tmp_path / "q.gguf", type="Q4_K")
    names = {"blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj.weight", "output_norm.weight": "model.norm.weight"}
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    with open_weights(made) as weights:
        for theirs, ours in names.items():
            values = weights.array(ours)
            if values.ndim > 1:
                values = dequantize_rows(quantize_rows(values, "Q4_K"), "Q4_K")
            read = gguf.quants.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            assert np.array_equal(read, values)


def test_presets_and_fallbacks(tmp_path: Path) -> None:
    plan = Plan("q4m", 16)
    sixes = [i for i in range(16) if plan.type("down", i, (64, 512)) == "Q6_K"]
    assert sixes == [0, 1, 4, 7, 10, 13, 14, 15]
    assert plan.type("v", 4, (64, 512)) == "Q6_K"
    assert {plan.type(role, 4, (64, 512)) for role in ("q", "k", "o", "gate", "up")} == {"Q4_K"}
    assert (plan.type("embed", None, (9, 512)), plan.type("norm", None, (512,))) == ("Q6_K", "F32")
    assert (Plan("q8", 2).wanted("head", None), Plan("q4", 2, head="q8_0").wanted("head", None)) == ("Q8_0", "Q8_0")
    assert plan.fallbacks == []
    assert [Plan(name, 2).type("q", 0, (8, 96)) for name in ("Q4_K", "q6", "Q2_K")] == ["Q4_1", "Q8_0", "IQ4_NL"]
    assert [Plan("q4", 2).type("q", 0, (8, 90), "x", kind) for kind in ("F32", "BF16")] == ["F16", "BF16"]
    made, _ = pair(tmp_path, "qwen2", intermediate_size=90)
    found = quantize_model(made, tmp_path / "q.gguf", type="Q4_0")
    assert {"tensor": "blk.1.ffn_down.weight", "wanted": "Q4_0", "taken": "F16", "width": 90} in found["fallbacks"]
    for wrong in ("q5", "IQ2_XS", ""):
        with pytest.raises(ValueError, match="neither a preset nor a type"):
            Plan(wrong, 2)


def altered(source: Path, target: Path, name: str, at: tuple[int, ...], value: float) -> Path:
    """The folder with one weight changed."""
    save = pytest.importorskip("safetensors.numpy").save_file
    target.mkdir()
    shutil.copy(source / "config.json", target)
    with open_weights(source) as weights:
        tensors = {n: np.array(weights.array(n)) for n in weights}
    tensors[name][at] = value
    save(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    made, _ = pair(tmp_path, "qwen3")
    name = "model.layers.1.mlp.up_proj.weight"
    bad = altered(made, tmp_path / "bad", name, (5, 7), value)
    with pytest.raises(LoadError, match=rf"{name}: the weight at \[5, 7\] is {value}, not a finite number"):
        quantize_model(bad, tmp_path / "q.gguf", type="Q8_0")
    assert not list(tmp_path.glob("*q.gguf*"))
    with pytest.raises(LoadError, match=rf"{name}: the weight at \[5, 7\] is {value}"):
        Model.load(bad, quantize="q8")


def test_the_target_is_not_overwritten_by_chance(tmp_path: Path) -> None:
    made, file = pair(tmp_path, "qwen3")
    before = file.read_bytes()
    with pytest.raises(FileExistsError):
        quantize_model(made, file, type="q8")
    with pytest.raises(ValueError, match="is the source itself"):
        quantize_model(file, file, type="q8", overwrite=True)
    assert file.read_bytes() == before


def test_importance_is_used_and_checked(tmp_path: Path) -> None:
    made, _ = pair(tmp_path, "qwen3")
    name, random = "blk.0.ffn_gate.weight", np.random.default_rng(0)
    sums = {name: random.random(64) ** 6 * 10, "blk.1.ffn_down.weight": random.random(96)}
    write_importance(tmp_path / "i.gguf", sums, 10, text="t", chunk=512)
    read = read_importance(tmp_path / "i.gguf")
    assert np.array_equal(read[name], (sums[name].astype(np.float32).astype(np.float64) / 10).astype(np.float32))
    found = quantize_model(made, tmp_path / "q.gguf", type="Q4_0", importance=tmp_path / "i.gguf")
    assert "no importance is known for 13 matrices" in found["notes"][-1]
    with open_weights(made) as weights, open_gguf(tmp_path / "q.gguf") as file:
        values = weights.array("model.layers.0.mlp.gate_proj.weight")
        assert np.array_equal(file.rows(name), quantize_rows(values, "Q4_0", read[name]))
        assert not np.array_equal(file.rows(name), quantize_rows(values, "Q4_0"))
    wrong = (({name: np.ones(32)}, "has 32 columns, but the matrix 64"), ({"x": np.ones(4)}, "of another model"))
    for sums, message in wrong:
        write_importance(tmp_path / "i.gguf", sums, 10, text="t", chunk=512, overwrite=True)
        with pytest.raises(LoadError, match=message):
            quantize_model(made, tmp_path / "r.gguf", type="Q4_0", importance=tmp_path / "i.gguf")
    write_importance(tmp_path / "i.gguf", {name: -np.ones(64)}, 10, text="t", chunk=512, overwrite=True)
    with pytest.raises(LoadError, match="negative or not finite"):
        read_importance(tmp_path / "i.gguf")
    with pytest.raises(LoadError, match="no importance file"):
        read_importance(tmp_path / "q.gguf")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a.in_sum2", "F32", (1, 8), 1)], "a.counts: there is no such tensor"),
        ([("a.in_sum2", "F32", (2, 8), 1), ("a.counts", "F32", (2, 1), 1)], "a: is of several matrices"),
        ([("a.in_sum2", "BF16", (1, 8), 1), ("a.counts", "F32", (1, 1), 1)], "a.in_sum2: is BF16, not F32"),
        ([("a.in_sum2", "F32", (1, 8), 1), ("a.counts", "F32", (1, 1), 0)], "a.counts: counts 0.0 rows"),
        ([("a.in_sum2", "F32", (1, 8), 1), ("a.counts", "F32", (1, 1), np.nan)], "a.counts: counts nan rows"),
        ([("a.in_sum2", "F32", (1, 8), np.inf), ("a.counts", "F32", (1, 1), 1)], "a: has a value that is negative or"),
        ([("a.weight", "F32", (1, 8), 1)], "holds no tensor whose name ends in .in_sum2"),
    ],
)
def test_importance_files_that_are_wrong(tensors: list[Any], message: str, tmp_path: Path) -> None:
    declared = [Declared(name, kind, shape) for name, kind, shape, _ in tensors]
    with GgufWriter(tmp_path / "i.gguf", {"general.type": Value("STRING", "imatrix")}, declared) as writer:
        for name, kind, shape, value in tensors:
            writer.write(name, quantize_plain(np.full(shape, value, np.float32), kind))
    with pytest.raises(LoadError, match=message):
        read_importance(tmp_path / "i.gguf")


def quantize_plain(values: Floats, kind: str) -> Any:
    return values if kind == "F32" else quantize_rows(values, kind)


def test_importance_has_the_form_of_an_imatrix(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    sums = {"blk.0.attn_q.weight": np.arange(32.0), "output.weight": np.ones(8)}
    write_importance(tmp_path / "i.gguf", sums, 50, text="a.txt", chunk=20)
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    assert {key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")} == {
        "general.type": "imatrix", "imatrix.datasets": ["a.txt"], "imatrix.chunk_count": 3, "imatrix.chunk_size": 20,
    }  # fmt: skip
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert set(found) == {name + end for name in sums for end in (".in_sum2", ".counts")}
    for name, values in sums.items():
        assert found[f"{name}.in_sum2"].tolist() == [values.tolist()]
        assert found[f"{name}.counts"].tolist() == [[50]]


@needs_shared
@pytest.mark.parametrize("name", ["babyllama-105", "stories260K"])
def test_real_models_keep_their_logits_and_tokenizers(name: str, tmp_path: Path) -> None:
    source = shared("models", name)
    found = quantize_model(source, tmp_path / "m.gguf", type="F32")
    assert found["notes"] == []
    ours, theirs = Model.load(source), Model.load(tmp_path / "m.gguf")
    assert ours.tokenizer is not None
    assert theirs.tokenizer is not None
    lines = shared("text", "tinystories_sample.jsonl").read_text().splitlines()
    texts = [json.loads(line) for line in lines[:60]]
    for text in (t if isinstance(t, str) else next(iter(t.values())) for t in texts):
        assert theirs.tokenizer.encode(text) == ours.tokenizer.encode(text)
    assert (theirs.eos_ids, theirs.tokenizer.special_tokens) == ((2, 1), ours.tokenizer.special_tokens)
    ids = some_ids(60, ours.vocabulary)
    assert same_bits(Player(ours).feed(ids), Player(theirs).feed(ids))
