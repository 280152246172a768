"""The importance of each matrix's inputs on a text: a forward that looks at what goes into each product.

It is the model once more, from lanewise.kernels: layer by layer over all of the text, so that memory holds the hidden
states and the weights of one layer. The squares are summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from .gguf_export import tensors
from .safetensors import Weights
from .spec import Attention, Layer, Spec

Floats = np.ndarray[Any, np.dtype[np.float32]]
Sums = dict[str, np.ndarray[Any, np.dtype[np.float64]]]
Progress = Callable[[int, int, str], None]


def collect(
    spec: Spec, weights: Weights, chunks: list[np.ndarray[Any, np.dtype[np.int32]]], on_progress: Progress | None = None
) -> tuple[Sums, int]:
    """(GGUF name of each matrix -> float64[columns], sums of squares of its inputs; rows summed over).

    chunks: ids, each read by itself from position 0. Weights that are not finite give sums that are not.
    """
    forward = _Forward(spec, weights)
    embed = forward.get("embed", None)
    states = [embed[ids] * np.float32(spec.embedding_scale) for ids in chunks]
    rows = sum(len(ids) for ids in chunks)
    for i, layer in enumerate(spec.layers):
        forward.load(i, layer)
        for j, x in enumerate(states):
            states[j] = forward.layer(i, layer, x)
        if on_progress is not None:
            on_progress(i + 1, len(spec.layers), f"layer {i}")
    weight = forward.get("norm", None)
    for x in states:
        forward.see("embed" if spec.tied else "head", None, forward.norm(x, weight))
    return forward.sums, rows


class _Forward:
    """One layer's weights at a time, and the sums."""

    def __init__(self, spec: Spec, weights: Weights) -> None:
        self.spec, self.weights, self.sums = spec, weights, Sums()
        self.names = {(ours.role, ours.layer): theirs.name for ours, theirs in tensors(spec)}
        self.held: dict[str, Floats] = {}
        self.packed: dict[str, kernels.PackedMatrix] = {}

    def get(self, role: str, layer: int | None) -> Floats:
        """A tensor as float32."""
        name = self.spec.tensor_name(role, layer)
        values = self.weights.array(name)
        if self.weights.info(name).dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        out = values.astype(np.float32)
        self.weights.release(name)
        return out

    def load(self, i: int, layer: Layer) -> None:
        a, m = layer.attention, layer.mlp
        roles = ["attn_norm", "q", "k", "v", "o", "mlp_norm", "up", "down", *(["gate"] if m.gated else [])]
        roles += ["q_bias", "k_bias", "v_bias"] if a.bias_qkv else []
        roles += (["o_bias"] if a.bias_o else []) + (["q_norm", "k_norm"] if a.qk_norm else [])
        roles += ["up_bias", "down_bias", *(["gate_bias"] if m.gated else [])] if m.bias else []
        roles += ["attn_norm_bias", "mlp_norm_bias"] if self.spec.norm.kind == "layer" else []
        found = {role: self.get(role, i) for role in roles}
        self.held = {role: values for role, values in found.items() if values.ndim == 1}
        self.packed = {role: kernels.pack(values) for role, values in found.items() if values.ndim == 2}

    def see(self, role: str, layer: int | None, x: Floats) -> None:
        name, squares = self.names[role, layer], np.square(x, dtype=np.float64).sum(axis=0)
        self.sums[name] = self.sums.get(name, 0) + squares

    def product(self, role: str, layer: int, x: Floats) -> Floats:
        self.see(role, layer, x)
        return kernels.gemm(x, self.packed[role], bias=self.held.get(f"{role}_bias"))

    def norm(self, x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
        norm = self.spec.norm
        weight = weight + np.float32(1) if norm.plus_one else weight
        if norm.kind == "layer":
            return kernels.layer_norm(x, weight, bias, norm.eps)
        return kernels.rms_norm(x, weight, norm.eps)

    def layer(self, i: int, layer: Layer, x: Floats) -> Floats:
        normed = self.norm(x, self.held["attn_norm"], self.held.get("attn_norm_bias"))
        x = x + self.product("o", i, self.attention(i, layer.attention, normed))
        normed = self.norm(x, self.held["mlp_norm"], self.held.get("mlp_norm_bias"))
        wide = self.product("up", i, normed)
        if layer.mlp.gated:
            wide *= _ACT[layer.mlp.activation](self.product("gate", i, normed))
        else:
            wide = _ACT[layer.mlp.activation](wide)
        return x + self.product("down", i, wide)

    def attention(self, i: int, a: Attention, x: Floats) -> Floats:
        q, k, v = (self.product(role, i, x).reshape(len(x), -1, a.head_dim) for role in "qkv")
        if a.qk_norm:
            q, k = self.norm(q, self.held["q_norm"]), self.norm(k, self.held["k_norm"])
        window = (-1, -1) if a.window is None else (a.window - 1, -1)
        out = kernels.attention(
            self.turned(q), self.turned(k), v, causal=True, scale=a.scale, window=window, softcap=a.softcap
        )
        return out.reshape(len(x), -1)

    def turned(self, x: Floats) -> Floats:
        """x[n, heads, d] rotated by position."""
        rope = self.spec.rope
        if not rope.dim:
            return x
        angles = np.arange(len(x))[:, None, None] * np.array(rope.inv_freq)
        cos, sin = ((f(angles) * rope.attention_factor).astype(np.float32) for f in (np.cos, np.sin))
        half = rope.dim // 2
        first, second = (slice(0, half), slice(half, rope.dim))
        if rope.pairing == "interleaved":
            first, second = slice(0, rope.dim, 2), slice(1, rope.dim, 2)
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out


_ACT = {"silu": kernels.silu, "gelu": kernels.gelu, "gelu_tanh": kernels.gelu_tanh, "relu2": kernels.relu2}
