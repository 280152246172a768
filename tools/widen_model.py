"""The same function in wider matrices: a small Llama folder as one whose widths are multiples of 256.

    python tools/widen_model.py FOLDER TARGET

Blocks of 256 do not fit the small models that are at hand. Here the residual stream is turned by a random orthogonal
matrix into a wider one (RMS norm sees the same size, once its weights are in the matrices), neurons are split in two
that share the output, and heads are copied, with values turned and outputs turned back. What comes out computes what
the original computes, to float32's rounding, with dense matrices whose columns have no zeros and no repetitions.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

BLOCK = 256
Array = np.ndarray[Any, Any]


def widen(source: Path, target: Path, seed: int = 256) -> Path:
    """Writes `target`, a folder like `source` (a Llama without biases, float32). ValueError for other widths."""
    config = json.loads((source / "config.json").read_text())
    plain = {name: values.astype(np.float64) for name, values in load_file(source / "model.safetensors").items()}
    hidden, heads, kv_heads = (config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    width = -(-hidden // BLOCK) * BLOCK
    copies, d = width // hidden, hidden // heads
    if width % hidden or config.get("head_dim", d) != d:
        raise ValueError(f"a width of {hidden} with heads of {d} has no whole number of copies in {width}")
    inner = -(-config["intermediate_size"] // BLOCK) * BLOCK
    random = np.random.default_rng(seed)
    out = _orthogonal(random, width)[:, :hidden] * copies**0.5  # residual stream: wide = out @ narrow
    back = out.T / copies
    wide = {"model.embed_tokens.weight": plain["model.embed_tokens.weight"] @ out.T}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        attention = {part: plain[f"{p}self_attn.{part}_proj.weight"] for part in "qkvo"}
        mlp = {part: plain[f"{p}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")}
        for part in "qkv":
            attention[part] = attention[part] * plain[p + "input_layernorm.weight"] @ back
        for part in ("gate", "up"):
            mlp[part] = mlp[part] * plain[p + "post_attention_layernorm.weight"] @ back
        attention["o"], mlp["down"] = out @ attention["o"], out @ mlp["down"]
        for part, values in _heads(random, attention, heads, kv_heads, copies).items():
            wide[f"{p}self_attn.{part}_proj.weight"] = values
        for part, values in _neurons(random, mlp, inner).items():
            wide[f"{p}mlp.{part}_proj.weight"] = values
        for norm in ("input_layernorm", "post_attention_layernorm"):
            wide[f"{p}{norm}.weight"] = np.ones(width)
    head = plain.get("lm_head.weight", plain["model.embed_tokens.weight"])
    wide["lm_head.weight"] = head * plain["model.norm.weight"] @ back
    wide["model.norm.weight"] = np.ones(width)
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*token*"):
        shutil.copyfile(file, target / file.name)
    config |= {
        "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads * copies, "head_dim": d,
        "num_key_value_heads": kv_heads * copies, "tie_word_embeddings": False,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {name: np.ascontiguousarray(values, np.float32) for name, values in wide.items()}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def _orthogonal(random: np.random.Generator, n: int) -> Array:
    q, r = np.linalg.qr(random.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def _heads(
    random: np.random.Generator, parts: dict[str, Array], heads: int, kv_heads: int, copies: int
) -> dict[str, Array]:
    """Each key and value head, with its queries, `copies` times; a copy's values are turned, its output turned back."""
    d, group = len(parts["q"]) // heads, heads // kv_heads
    q, k, v = (parts[part].reshape(-1, d, parts[part].shape[1]) for part in "qkv")
    o = parts["o"].reshape(len(parts["o"]), heads, d)
    found: dict[str, list[Array]] = {part: [] for part in "qkvo"}
    for g in range(kv_heads):
        for _ in range(copies):
            turn, mine = _orthogonal(random, d), slice(g * group, (g + 1) * group)
            found["q"].append(q[mine].reshape(group * d, -1))
            found["k"].append(k[g])
            found["v"].append(turn @ v[g])
            found["o"].append((o[:, mine] @ turn.T / copies).reshape(len(o), -1))
    return {part: np.concatenate(found[part], axis=1 if part == "o" else 0) for part in "qkvo"}


def _neurons(random: np.random.Generator, parts: dict[str, Array], inner: int) -> dict[str, Array]:
    """`inner` neurons in a random order: some twice, with shares of the output between 0.3 and 0.7."""
    n = len(parts["up"])
    twice = random.permutation(n)[: inner - n]
    shares = random.uniform(0.3, 0.7, len(twice))
    weights = np.ones(inner)
    weights[twice], weights[n:] = shares, 1 - shares
    order = random.permutation(inner)
    which = np.concatenate([np.arange(n), twice])[order]
    return {
        "gate": parts["gate"][which],
        "up": parts["up"][which],
        "down": parts["down"][:, which] * weights[order],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    print(widen(options.folder, options.target))


if __name__ == "__main__":
    main()
