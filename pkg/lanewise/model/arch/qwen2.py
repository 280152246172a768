"""Qwen 2 and 2.5: Llama with biases on q, k and v, and windows from some layer on (transformers: models/qwen2)."""

from __future__ import annotations

from ..config import Config
from ..spec import Attention, Mlp, Spec
from .llama import decoder


def spec(config: Config) -> Spec:
    heads, kv_heads, head_dim = config.heads(default_kv=32)
    attention = Attention(heads, kv_heads, head_dim, bias_qkv=True, scale=head_dim**-0.5)
    mlp = Mlp(config.mlp_width(), config.activation())
    return decoder(config, attention, mlp, config.windows(config.n_layers()))
