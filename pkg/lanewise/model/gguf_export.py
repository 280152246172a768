"""A model's Spec as the metadata of a GGUF file, the other direction of gguf_model.

Keys as llama.cpp's converter writes them (convert_hf_to_gguf.py; names in gguf-py/gguf/constants.py). What the format
has no key for is refused, so that no file says less than the model needs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from .config import Generation
from .gguf_model import NAMES
from .gguf_writer import Value
from .rope import Scaling, frequencies
from .spec import Spec, Tensor

_F = np.float32
# model_type -> general.architecture
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def architecture(spec: Spec, path: Path) -> str:
    """The format's name of the architecture. UnsupportedError when it has none."""
    if spec.model_type not in _ARCHITECTURES:
        raise UnsupportedError(f"a {spec.model_type} model cannot be written as GGUF yet", file=path)
    return _ARCHITECTURES[spec.model_type]


def metadata(spec: Spec, generation: Generation, path: Path, name: str) -> tuple[dict[str, Value], list[str]]:
    """(keys of the model itself, notes on what is lost). Raises UnsupportedError for what cannot be said."""
    arch = architecture(spec, path)
    first = spec.layers[0]
    _check(spec, path)
    integers = {
        "context_length": spec.context, "embedding_length": spec.hidden, "block_count": len(spec.layers),
        "feed_forward_length": first.mlp.width, "attention.head_count": first.attention.heads,
        "attention.head_count_kv": first.attention.kv_heads, "attention.key_length": first.attention.head_dim,
        "attention.value_length": first.attention.head_dim, "rope.dimension_count": spec.rope.dim,
        "vocab_size": spec.vocabulary,
    }  # fmt: skip
    if first.attention.window is not None:
        integers["attention.sliding_window"] = first.attention.window
    reals = {"attention.layer_norm_rms_epsilon": spec.norm.eps, "rope.freq_base": spec.rope.theta}
    found: dict[str, Value] = {
        "general.architecture": Value("STRING", arch),
        "general.type": Value("STRING", "model"),
        "general.name": Value("STRING", name),
    }
    found |= {f"{arch}.{key}": Value("UINT32", number) for key, number in integers.items()}
    found |= {f"{arch}.{key}": Value("FLOAT32", number) for key, number in reals.items()}
    scaling, notes = _scaling(spec, path)
    found |= {f"{arch}.rope.scaling.{key}": value for key, value in scaling.items()}
    return found | _sampling(generation), notes


def tensors(spec: Spec) -> list[tuple[Tensor, Tensor]]:
    """Pairs of each tensor under the source's name and under the format's, in the order of the file."""
    named = replace(spec, names=NAMES)
    return list(zip(spec.tensors(), named.tensors(), strict=True))


def row_order(spec: Spec, tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """For q and k of architecture llama: which of our rows comes where in the file; None: as they are."""
    attention = spec.layers[0].attention
    heads = {"q": attention.heads, "k": attention.kv_heads}.get(tensor.role.removesuffix("_bias"))
    if heads is None or _ARCHITECTURES[spec.model_type] != "llama":
        return None
    order: np.ndarray[Any, Any] = np.arange(tensor.shape[0]).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return order


def rope_factors(spec: Spec) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """What `rope_freqs.weight` holds for llama3 scaling: plain frequencies divided by it are the scaled ones.

    Where a quotient of two float32 can be that frequency to the bit, it is: neighbours are tried.
    """
    if spec.rope.scaling.kind != "llama3":
        return None
    plain, _ = frequencies(spec.rope.theta, spec.rope.dim, Scaling())
    wanted = np.array(spec.rope.inv_freq, _F)
    middle = plain / wanted
    best = middle.copy()
    for step in (0, 1, -1, 2, -2):
        near = (middle.view(np.int32) + np.int32(step)).view(_F)
        hit = (plain / near == wanted) & (plain / best != wanted)
        best[hit] = near[hit]
    return best


def _check(spec: Spec, path: Path) -> None:
    def refuse(what: str, field: str) -> None:
        raise UnsupportedError(f"{what}, for which GGUF has no key", file=path, field=field)

    first = spec.layers[0]
    if any(layer != first for layer in spec.layers):
        refuse("layers differ (some have a sliding window)", "layer_types")
    if first.mlp.activation != "silu" or not first.mlp.gated:
        refuse(f"the activation is {first.mlp.activation}", "hidden_act")
    if spec.norm.kind != "rms" or spec.norm.plus_one or spec.embedding_scale != 1.0 or first.attention.softcap:
        refuse("the model has norms, scales or caps that llama.cpp's architecture lacks", "model_type")
    if spec.rope.pairing != "half":
        refuse("the rope turns neighbouring channels", "rope")


def _scaling(spec: Spec, path: Path) -> tuple[dict[str, Value], list[str]]:
    s = spec.rope.scaling
    if s.kind in ("default", "llama3"):
        return {}, []
    if s.kind == "dynamic":
        return {}, [f"GGUF has no key for dynamic rope scaling: the file is the plain model, for {s.original} tokens"]
    found = {"type": Value("STRING", s.kind), "factor": Value("FLOAT32", s.factor)}
    if s.kind == "yarn":
        if not s.truncate:
            raise UnsupportedError("has no key in GGUF", file=path, field="rope_scaling.truncate")
        found["original_context_length"] = Value("UINT32", s.original)
        for key, value, usual in (("yarn_beta_fast", s.beta_fast, 32.0), ("yarn_beta_slow", s.beta_slow, 1.0)):
            if value != usual:
                found[key] = Value("FLOAT32", value)
        # llama.cpp multiplies yarn's usual factor by the file's own.
        usual_factor = 0.1 * float(np.log(max(s.factor, 1.0))) + 1.0
        if abs(spec.rope.attention_factor / usual_factor - 1) > 1e-9:
            found["attn_factor"] = Value("FLOAT32", spec.rope.attention_factor / usual_factor)
    return found, []


def _sampling(generation: Generation) -> dict[str, Value]:
    if not generation.do_sample:
        return {}
    named = {
        "temp": ("FLOAT32", generation.temperature), "top_k": ("INT32", generation.top_k),
        "top_p": ("FLOAT32", generation.top_p), "min_p": ("FLOAT32", generation.min_p),
        "penalty_repeat": ("FLOAT32", generation.repetition_penalty),
    }  # fmt: skip
    return {f"general.sampling.{key}": Value(kind, v) for key, (kind, v) in named.items() if v is not None}
