"""Mistral 7B and its like: Llama without biases, one sliding window for all layers (transformers: models/mistral)."""

from __future__ import annotations

from ..config import MAX_CONTEXT, Config
from ..spec import Attention, Mlp, Spec
from .llama import decoder


def spec(config: Config) -> Spec:
    heads, kv_heads, head_dim = config.heads(default_kv=8)
    # null means no window; absent means 4096, the default of the first version.
    usual = None if "sliding_window" in config.values else 4096
    window = config.integer("sliding_window", usual, high=MAX_CONTEXT)
    attention = Attention(heads, kv_heads, head_dim, scale=head_dim**-0.5)
    return decoder(config, attention, Mlp(config.mlp_width(), config.activation()), [window] * config.n_layers())
