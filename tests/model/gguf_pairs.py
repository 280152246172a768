"""One model as a Hugging Face folder and as a GGUF file, written by the libraries of the two formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quants
from lanewise.model.arch import build
from lanewise.model.config import Config

COMMON: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 60, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# name -> what differs from COMMON
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama-bias": {"attention_bias": True, "mlp_bias": True, "head_dim": 24},
    "llama-one-kv-head": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 96},
    "llama-linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}},
    "mistral": {"model_type": "mistral", "sliding_window": 20, "rope_theta": 1e6},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3": {"model_type": "qwen3", "head_dim": 24, "rope_theta": 1e6},
    "qwen3-bias": {"model_type": "qwen3", "attention_bias": True, "head_dim": 16},
}  # fmt: skip
_KEYS = {
    "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
    "num_attention_heads": "head_count", "num_key_value_heads": "head_count_kv",
    "max_position_embeddings": "context_length",
}  # fmt: skip
_PARTS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def pair(folder: Path, name: str, kind: str | dict[str, str] = "F32", **given: Any) -> tuple[Path, Path]:
    """(Hugging Face folder, GGUF file). kind: the type of the matrices, or those of roles ("": the others).

    The folder has their dequantised values. Types that the gguf package cannot write get random blocks.
    """
    gguf = pytest.importorskip("gguf")
    save = pytest.importorskip("safetensors.numpy").save_file
    config = {**COMMON, **MODELS[name], **given}
    spec = build(Config(config, folder / "config.json"))
    random = np.random.default_rng(sum(name.encode()))
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama" if config["model_type"] == "mistral" else spec.model_type)
    _pairs(writer, gguf, config)
    plain: dict[str, Any] = {}
    for tensor in spec.tensors():
        scale = 1 if len(tensor.shape) == 1 else 1.2 / tensor.shape[1] ** 0.5
        values = (random.standard_normal(tensor.shape) * scale).astype(np.float32)
        if tensor.role.endswith("norm"):
            values = 1 + 0.2 * values
        kept = kind if isinstance(kind, str) else kind.get(tensor.role, kind[""])
        kept = "F32" if len(tensor.shape) == 1 else kept
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
        turned = heads.get(tensor.role.removesuffix("_bias"), 0) if spec.model_type in ("llama", "mistral") else 0
        stored = _permuted(values, turned) if turned else values
        written, values = _quantised(gguf, stored, kept)
        plain[tensor.name] = np.ascontiguousarray(_restored(values, turned) if turned else values)
        type_ = gguf.GGMLQuantizationType[kept]
        writer.add_tensor(_gguf_name(tensor.name), written, raw_dtype=None if kept in ("F32", "F16") else type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "config.json").write_text(json.dumps(config))
    save(plain, folder / "model.safetensors")
    return folder, folder / f"{name}.gguf"


def _pairs(writer: Any, gguf: Any, config: dict[str, Any]) -> None:
    for ours, theirs in _KEYS.items():
        getattr(writer, f"add_{theirs}")(config[ours])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
    scaling = config.get("rope_scaling")
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
        if "original_max_position_embeddings" in scaling:
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _gguf_name(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    for part, short in sorted(_PARTS.items(), key=lambda item: -len(item[0])):
        stem = stem.replace(part, short)
    return f"{stem}.{ending}"


def _permuted(values: Any, heads: int) -> Any:
    """As llama.cpp's converter does it for q and k."""
    parts = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(values.shape))


def _restored(values: Any, heads: int) -> Any:
    parts = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return parts.swapaxes(1, 2).reshape(values.shape)


def _quantised(gguf: Any, values: Any, kind: str) -> tuple[Any, Any]:
    """(what the file holds, the float32 values of that)."""
    if kind == "F32":
        return values, values
    type_ = gguf.GGMLQuantizationType[kind]
    try:
        written = gguf.quants.quantize(values, type_)
    except NotImplementedError:
        written = quants.weights(kind.lower(), *values.shape, seed=values.size)
    return written, gguf.quants.dequantize(written, type_)
