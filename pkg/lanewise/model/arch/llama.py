"""Llama 1 to 3.x, and the many models that use its form (transformers: models/llama)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..config import Config
from ..spec import Attention, Layer, Mlp, Norm, Spec


def spec(config: Config) -> Spec:
    heads, kv_heads, head_dim = config.heads()
    bias = config.flag("attention_bias", False)
    attention = Attention(heads, kv_heads, head_dim, bias_qkv=bias, bias_o=bias, scale=head_dim**-0.5)
    mlp = Mlp(config.mlp_width(), config.activation(), bias=config.flag("mlp_bias", False))
    return decoder(config, attention, mlp, [None] * config.n_layers())


def decoder(config: Config, attention: Attention, mlp: Mlp, windows: Sequence[int | None]) -> Spec:
    """The frame that Llama, Mistral and Qwen share: RMS norms, gated MLP, rope over whole heads, equal layers."""
    rope = config.rope(attention.head_dim)
    return Spec(
        model_type=config.model_type,
        hidden=config.hidden,
        vocabulary=config.vocabulary,
        layers=tuple(Layer(replace(attention, window=window), mlp) for window in windows),
        norm=Norm("rms", config.norm_eps()),
        rope=rope,
        context=config.long_context(rope),
        tied=config.flag("tie_word_embeddings", False),
        bos_id=config.bos_id(),
        eos_ids=config.eos_ids(),
        pad_id=config.pad_id(),
        stored=config.stored(),
    )
