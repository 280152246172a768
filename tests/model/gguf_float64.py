"""A GGUF file evaluated in float64 by the plainest code: read by the gguf package, nothing of lanewise in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
import quants

Array = np.ndarray[Any, Any]


class Float64Model:
    """llama, qwen2 and qwen3 with a plain rope. kinds: tensor -> the name of its type."""

    def __init__(self, path: Path) -> None:
        gguf = pytest.importorskip("gguf")
        reader = gguf.GGUFReader(path)
        self.arch = bytes(reader.fields["general.architecture"].parts[-1]).decode()
        prefix, no_number = self.arch + ".", (gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY)
        self.numbers = {
            key.removeprefix(prefix): float(field.parts[-1][0])
            for key, field in reader.fields.items()
            if key.startswith(prefix) and field.types[0] not in no_number
        }
        self.kinds, self.weights = {}, {}
        for tensor in reader.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            self.weights[tensor.name] = values.reshape(*reversed([int(n) for n in tensor.shape]))
            self.kinds[tensor.name] = tensor.tensor_type.name

    def logits(self, ids: Array, rounded: bool = False) -> Array:
        """float64[tokens, vocabulary]. rounded: activations 8-bit in products, as docs/numerics.md defines it."""
        x = self.weights["token_embd.weight"][ids]
        eps = self.numbers["attention.layer_norm_rms_epsilon"]
        for i in range(int(self.numbers["block_count"])):
            y = oracle.rms_norm(x, self.weights[f"blk.{i}.attn_norm.weight"], eps)
            x = x + self.product(self.attention(y, f"blk.{i}.", rounded), f"blk.{i}.attn_output", rounded)
            y = oracle.rms_norm(x, self.weights[f"blk.{i}.ffn_norm.weight"], eps)
            gate, up = (self.product(y, f"blk.{i}.ffn_{part}", rounded) for part in ("gate", "up"))
            x = x + self.product(oracle.activation("silu", gate) * up, f"blk.{i}.ffn_down", rounded)
        x = oracle.rms_norm(x, self.weights["output_norm.weight"], eps)
        return self.product(x, "output" if "output.weight" in self.weights else "token_embd", rounded)

    def attention(self, x: Array, prefix: str, rounded: bool) -> Array:
        """The heads' outputs beside each other."""
        heads = int(self.numbers["attention.head_count"])
        kv_heads = int(self.numbers.get("attention.head_count_kv", heads))
        q, k, v = (
            self.product(x, f"{prefix}attn_{part}", rounded).reshape(len(x), n, -1)
            for part, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        if prefix + "attn_q_norm.weight" in self.weights:
            eps = self.numbers["attention.layer_norm_rms_epsilon"]
            q, k = (
                oracle.rms_norm(y, self.weights[f"{prefix}attn_{part}_norm.weight"], eps)
                for y, part in ((q, "q"), (k, "k"))
            )
        d = q.shape[2]
        frequencies = self.numbers.get("rope.freq_base", 10000.0) ** (-np.arange(0, d, 2) / d)
        pairing = "interleaved" if self.arch == "llama" else "half"  # llama's q and k are stored in pairs
        q, k = (oracle.rope(y, np.arange(len(x)), frequencies, pairing)[0] for y in (q, k))
        return oracle.attention(q[None], k[None], v[None], causal=True)[0].reshape(len(x), -1)

    def product(self, x: Array, name: str, rounded: bool) -> Array:
        w, kind = self.weights[name + ".weight"], self.kinds[name + ".weight"].lower()
        if rounded and kind in quants.STORED:
            codes, scales = quants.quantised(x, kind)
            x = codes * scales
        return x @ w.T + self.weights.get(name + ".bias", 0.0)
