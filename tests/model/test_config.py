"""config.json to Spec: against transformers' own reading, both spellings, and every value that must be refused."""

# ruff: noqa: E501, PT018 (tables of cases, and facts that belong together)

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lanewise.errors import ContextError, LanewiseError, LoadError, UnsupportedError
from lanewise.model import arch, open_weights, read_model
from lanewise.model.config import read_config
from lanewise.model.files import too_deep
from lanewise.model.spec import Attention, Layer, Mlp, Norm, Spec
from shared import needs_shared, shared

BASE = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "bos_token_id": 1, "eos_token_id": [2, 3], "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip


def write(folder: Path, config: Any, name: str = "config.json") -> Path:
    (folder / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def read(folder: Path, **changes: Any) -> Spec:
    """The Spec of BASE with `changes`; `...` removes a field."""
    config = {key: value for key, value in (BASE | changes).items() if value is not ...}
    return read_model(write(folder, config))[0]


def refused(folder: Path, field: str | None, **changes: Any) -> LoadError:
    with pytest.raises(LoadError) as caught:
        read(folder, **changes)
    assert caught.value.field == field, caught.value
    assert "config.json" in str(caught.value)
    return caught.value


def test_the_fields_of_a_llama(tmp_path: Path) -> None:
    spec = read(tmp_path)
    attention = Attention(heads=4, kv_heads=2, head_dim=16, scale=0.25)
    assert spec.layers == (Layer(attention, Mlp(96)),) * 3 and spec.norm == Norm("rms", 1e-5)
    assert (spec.hidden, spec.vocabulary, spec.context, spec.tied) == (64, 128, 256, False)
    assert (spec.bos_id, spec.eos_ids, spec.pad_id, spec.stored) == (1, (2, 3), None, "bfloat16")
    assert (spec.rope.theta, spec.rope.dim, spec.rope.pairing) == (500000.0, 16, "half")
    assert hash(spec) == hash(read(tmp_path)) and spec == read(tmp_path)
    assert "llama" in str(spec) and json.loads(json.dumps(spec.info()))["parameters"] == spec.n_parameters
    assert spec.cache_numbers() == 3 * 2 * 2 * 16
    assert read(tmp_path, attention_bias=True, mlp_bias=True).layers[0] == Layer(
        Attention(4, 2, 16, bias_qkv=True, bias_o=True, scale=0.25), Mlp(96, bias=True)
    )
    assert read(tmp_path, num_key_value_heads=...).layers[0].attention.kv_heads == 4
    assert read(tmp_path, head_dim=32).layers[0].attention.head_dim == 32
    assert read(tmp_path, pad_token_id=-1, eos_token_id=None).pad_id is None


def test_both_spellings(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = read(tmp_path, rope_scaling={"rope_type": "llama3", **scaling})
    older = read(tmp_path, rope_scaling={"type": "llama3", **scaling})
    parameters = {"rope_type": "llama3", "rope_theta": 500000.0, **scaling}
    new = read(tmp_path, rope_theta=..., torch_dtype=..., dtype="bfloat16", rope_parameters=parameters)
    assert old == older == new and old.rope.scaling.kind == "llama3"
    assert read(tmp_path, rope_theta=...).rope.theta == 10000.0
    assert read(tmp_path, rope_scaling={}).rope == read(tmp_path, rope_scaling=None).rope == read(tmp_path).rope


def test_long_contexts(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    assert read(tmp_path, rope_scaling=yarn).context == 1024
    assert read(tmp_path, rope_scaling=yarn, max_position_embeddings=2048).context == 2048
    derived = read(tmp_path, rope_scaling=yarn | {"factor": None}, max_position_embeddings=2048)
    assert derived.rope.scaling.factor == 8.0
    dynamic = read(tmp_path, rope_scaling={"type": "dynamic", "factor": 2.0})
    assert dynamic.context == 256 and dynamic.with_context(100).rope == dynamic.rope
    longer = dynamic.with_context(1000)
    assert longer.context == 1000 and longer.rope.inv_freq != dynamic.rope.inv_freq
    with pytest.raises(ValueError, match="context"):
        dynamic.with_context(0)


def test_windows(tmp_path: Path) -> None:
    def windows(**changes: Any) -> list[int | None]:
        return [layer.attention.window for layer in read(tmp_path, **changes).layers]

    assert windows(sliding_window=64) == [None] * 3
    assert windows(model_type="mistral") == [4096] * 3
    assert windows(model_type="mistral", sliding_window=None) == [None] * 3
    assert windows(model_type="mistral", sliding_window=64) == [64] * 3
    for model_type in ("qwen2", "qwen3"):
        assert windows(model_type=model_type, sliding_window=64) == [None] * 3
        some = {"model_type": model_type, "sliding_window": 64, "use_sliding_window": True}
        assert windows(**some, max_window_layers=2) == [None, None, 64]
        assert windows(**some, layer_types=["sliding_attention", "full_attention", "sliding_attention"]) == [
            64,
            None,
            64,
        ]
        refused(tmp_path, "layer_types", model_type=model_type, layer_types=["sliding_attention"] * 3)
        refused(tmp_path, "layer_types", model_type=model_type, layer_types=["full_attention"])
        refused(tmp_path, "layer_types", model_type=model_type, layer_types=["chunked_attention"] * 3)


def test_qwen(tmp_path: Path) -> None:
    qwen2, qwen3 = read(tmp_path, model_type="qwen2").layers[0], read(tmp_path, model_type="qwen3").layers[0]
    assert (qwen2.attention.bias_qkv, qwen2.attention.bias_o, qwen2.attention.qk_norm) == (True, False, False)
    assert (qwen3.attention.bias_qkv, qwen3.attention.qk_norm, qwen3.attention.head_dim) == (False, True, 128)
    assert read(tmp_path, model_type="qwen3", attention_bias=True).layers[0].attention.bias_o


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", arch.known())
def test_tensors_are_those_of_transformers(model_type: str, tied: bool, tmp_path: Path) -> None:
    """Names, shapes and the count of parameters, of a model that transformers made, saved and described."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    options: dict[str, Any] = {
        key: value for key, value in BASE.items() if key not in ("model_type", "rope_theta", "torch_dtype")
    }
    config = transformers.AutoConfig.for_model(
        model_type, **options, head_dim=24, tie_word_embeddings=tied, attention_bias=True, mlp_bias=True
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    spec, generation, _ = read_model(tmp_path)
    with open_weights(tmp_path) as weights:
        spec.check(weights)
        assert {t.name: t.shape for t in spec.tensors()} == {n: weights.info(n).shape for n in weights}
    assert spec.n_parameters == sum(p.numel() for p in model.parameters())
    assert spec.eos_ids == generation.eos_ids == (2, 3) and spec.stored == "float32"
    for layer, block in zip(spec.layers, model.model.layers, strict=True):
        assert layer.attention.scale == block.self_attn.scaling
        assert layer.attention.window == getattr(
            block.self_attn,
            "sliding_window",
            getattr(config, "sliding_window", None) if model_type == "mistral" else None,
        )


INTEGERS = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "sliding_window"]  # fmt: skip
BAD = [-1, "4", 1.5, math.nan, math.inf, True, [[1]], {}, 2**63, -(2**63), 10**400]


@pytest.mark.parametrize("field", INTEGERS)
def test_hostile_integers(field: str, tmp_path: Path) -> None:
    for value in BAD:
        refused(tmp_path, field, model_type="mistral", **{field: value})


def test_missing_and_null_fields(tmp_path: Path) -> None:
    for field in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                  "max_position_embeddings"):  # fmt: skip
        assert "missing" in str(refused(tmp_path, field, **{field: ...}))
        assert "null" in str(refused(tmp_path, field, **{field: None}))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("hidden_size", [0, 2**31]), ("num_hidden_layers", [0, 513, 2**32 - 1]), ("num_attention_heads", [0, 5000]),
        ("num_key_value_heads", [0, 3, 8]), ("head_dim", [0, 7, 2048]), ("vocab_size", [0, 2**31]), ("max_position_embeddings", [0, 2**31]),
        ("rms_norm_eps", [-1e-5, math.nan, math.inf, "1e-5", True, 2]), ("rope_theta", [0, -1.0, math.nan, math.inf, "10000", 1e31]),
        ("tie_word_embeddings", [1, "true", 0.0]), ("attention_bias", ["no"]), ("hidden_act", [3, []]), ("torch_dtype", [4]),
        ("bos_token_id", [128, 2**32 - 1]), ("eos_token_id", [128, [1, 128], ["1"], [None]]), ("rope_scaling", ["linear", [1], 3]),
        ("model_type", [3, ["llama"]]), ("quantization_config", ["x"]),
    ],
)  # fmt: skip
def test_hostile_values(field: str, values: list[Any], tmp_path: Path) -> None:
    for value in values:
        refused(tmp_path, field, **{field: value})
    refused(tmp_path, "eos_token_id", eos_token_id=list(range(10**4)))
    refused(tmp_path, "num_attention_heads", num_attention_heads=7, num_key_value_heads=None)


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        ({"type": "linear"}, "rope_scaling.factor"), ({"type": "linear", "factor": 0}, "rope_scaling.factor"),
        ({"type": "linear", "factor": math.nan}, "rope_scaling.factor"), ({"type": "dynamic", "factor": "2"}, "rope_scaling.factor"),
        ({"type": 3}, "rope_scaling.type"), ({"rope_type": "longrope", "factor": 2.0}, "rope_scaling.rope_type"),
        ({"type": "llama3", "factor": 8.0}, "rope_scaling.low_freq_factor"),
        ({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": -1}, "rope_scaling.original_max_position_embeddings"),
        ({"type": "yarn", "factor": 8.0, "truncate": 1}, "rope_scaling.truncate"), ({"type": "linear", "factor": 1e30}, None),
        ({"rope_theta": -5}, "rope_scaling.rope_theta"), ({"partial_rotary_factor": 0.5}, "rope_scaling.partial_rotary_factor"),
    ],
)  # fmt: skip
def test_hostile_scaling(scaling: dict[str, Any], field: str | None, tmp_path: Path) -> None:
    if field is None:
        refused(tmp_path, "rope_scaling", rope_scaling=scaling, rope_theta=1e30)
    else:
        refused(tmp_path, field, rope_scaling=scaling)


def test_what_is_not_supported_is_said(tmp_path: Path) -> None:
    cases = {
        "model_type": ("mamba", "llama, mistral, qwen2, qwen3"),
        "auto_map": ({"AutoModelForCausalLM": "modeling.Model"}, "Python code"),
        "trust_remote_code": (True, "no code"),
        "quantization_config.quant_method": ({"quant_method": "hqq"}, "gptq, awq"),
        "hidden_act": ("tanh", "silu"),
    }
    for field, (value, words) in cases.items():
        error = refused(tmp_path, field, **{field.split(".")[0]: value})
        assert isinstance(error, UnsupportedError) and words in str(error)
    for name in ("../llama", "__init__", "llama.spec", "", "LLAMA", "a" * 10**6):
        error = refused(tmp_path, "model_type", model_type=name)
        assert isinstance(error, UnsupportedError) and len(str(error)) < 1000
    assert read(tmp_path, auto_map={"AutoTokenizer": "x"}).model_type == "llama"  # a control: nothing of it is run


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "{'a': 1}", '{"a": 1, "a": 2}', '{"a":' * 100_000, "[" * 100_000, '{"a": ' + "9" * 10000 + "}", "\ufeff{}"]
)  # fmt: skip
def test_broken_files(text: str, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        write(tmp_path, BASE)
        write(tmp_path, text, name)
        with pytest.raises(LoadError, match=name) as caught:
            read_model(tmp_path)
        assert len(str(caught.value)) < 1000


def test_missing_binary_long_and_linked_files(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(LoadError, match="UTF-8"):
        read_config(tmp_path)
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(LoadError, match="over the limit"):
        read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(LoadError):
        read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(LoadError, match="regular"):
        read_config(tmp_path)


def test_generation_config(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    assert read_model(tmp_path)[1].eos_ids == (2, 3) and read_model(tmp_path)[1].temperature is None
    write(tmp_path, {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "eos_token_id": 5,
                     "max_new_tokens": 99}, "generation_config.json")  # fmt: skip
    found = read_model(tmp_path)[1]
    assert (found.do_sample, found.temperature, found.top_k, found.top_p, found.min_p) == (True, 0.7, 20, 0.8, None)
    assert (found.repetition_penalty, found.max_new_tokens, found.eos_ids, found.bos_id) == (1.05, 99, (5,), 1)
    for field, value in (("eos_token_id", list(range(10**6))), ("eos_token_id", 128), ("temperature", "hot"), ("top_p", math.nan),
                         ("top_k", 1.5), ("do_sample", 1)):  # fmt: skip
        write(tmp_path, {field: value}, "generation_config.json")
        with pytest.raises(LoadError) as caught:
            read_model(tmp_path)
        assert caught.value.field == field and "generation_config.json" in str(caught.value)


def test_weights_are_checked_against_the_config(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    import numpy as np

    spec = read(tmp_path, tie_word_embeddings=True)
    good = {t.name: np.zeros(t.shape, np.float32) for t in spec.tensors()}

    def check(changes: dict[str, Any]) -> None:
        arrays = {name: array for name, array in (good | changes).items() if array is not None}
        library.save_file(arrays, tmp_path / "model.safetensors")
        with open_weights(tmp_path) as weights:
            spec.check(weights)

    check({})
    check(
        {
            "lm_head.weight": np.zeros((128, 64), np.float32),
            "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32),
        }
    )
    q = "model.layers.1.self_attn.k_proj.weight"
    for changes, field, words in (
        ({q: None}, q, "missing"),
        ({q: np.zeros((64, 32), np.float32)}, q, "[64, 32], but the config says [32, 64]"),
        ({q: np.zeros((32, 64), np.int32)}, q, "I32"),
        (
            {"model.layers.3.mlp.up_proj.weight": np.zeros(1, np.float32)},
            "model.layers.3.mlp.up_proj.weight",
            "no place",
        ),
        (
            {"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)},
            "model.layers.0.self_attn.q_proj.bias",
            "no place",
        ),
    ):
        with pytest.raises(LoadError) as caught:
            check(changes)
        assert caught.value.field == field and words in str(caught.value)


@needs_shared
@pytest.mark.parametrize(("name", "parameters"), [("stories260K", 260_032), ("babyllama-105", 936_448)])
def test_shared_models(name: str, parameters: int) -> None:
    folder = shared("models", name)
    spec, generation, _ = read_model(folder)
    with open_weights(folder) as weights:
        spec.check(weights)
    assert spec.n_parameters == parameters and generation.eos_ids == (1, 2)


def test_depth_is_found_without_parsing() -> None:
    assert not too_deep(b'{"a": [1, {"b": []}]}', 4) and too_deep(b'{"a": [1, {"b": []}]}', 3)
    assert (
        not too_deep(b'"' + b"[" * 100 + b'"', 1)
        and not too_deep(b'["\\"[[[", "\\\\"]', 1)
        and too_deep(b'["\\\\", [[]]]', 2)
    )
    for size in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1):  # an escape across the border of two blocks
        text = b'"' + b"x" * (size - 3) + b'\\"[[[[", [[]]'
        assert not too_deep(text, 2) and too_deep(text, 1)


def test_errors() -> None:
    error = ContextError(600, 512)
    assert (
        "600" in str(error)
        and "512" in str(error)
        and isinstance(error, ValueError)
        and isinstance(error, LanewiseError)
    )
    assert (error.needed, error.limit) == (600, 512)
