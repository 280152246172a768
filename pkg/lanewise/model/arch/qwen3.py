"""Qwen 3, dense: RMS norm on every q and k head, heads of a width of their own (transformers: models/qwen3)."""

from __future__ import annotations

from ..config import Config
from ..spec import Attention, Mlp, Spec
from .llama import decoder


def spec(config: Config) -> Spec:
    heads, kv_heads, head_dim = config.heads(default_kv=32, default_dim=128)
    bias = config.flag("attention_bias", False)
    attention = Attention(heads, kv_heads, head_dim, bias_qkv=bias, bias_o=bias, qk_norm=True, scale=head_dim**-0.5)
    mlp = Mlp(config.mlp_width(), config.activation())
    return decoder(config, attention, mlp, config.windows(config.n_layers()))
