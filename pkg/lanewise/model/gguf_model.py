"""A GGUF file as a model: its metadata become the config of the same architecture, its tensors the same weights.

The keys are translated to the names of a Hugging Face config, and the files of `arch` build the Spec from them, so
that a model has one description whatever file it comes from. Three things are the format's own:

- The rows of q and k of architecture `llama` are stored in pairs that turn together (row 2j and 2j + 1 of a head),
  while the Spec turns row j with j + half. The permutation is undone row by row, which blocks survive.
- `rope_freqs.weight` divides the frequencies of the rope (Llama 3.1's scaling, already worked out).
- Quantised tensors are packed as they are where the kernels have their type (DIRECT), the others as blocks of a wider
  class (gguf_wide): lossless both. With dtype="float32" all of them are expanded, one tensor at a time. F32 and F16
  become float32 as in safetensors, BF16 stays BF16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LoadError, UnsupportedError, shorten
from . import arch
from .config import MAX_CONTEXT, MAX_VOCABULARY, Config, Fields, Generation
from .gguf import GgufFile
from .gguf_arrays import GgufArray
from .gguf_vocab import end_ids
from .gguf_wide import WIDER, widened
from .rope import as_floats
from .safetensors import TensorInfo, Weights
from .spec import FLOATS, Names, Spec

ARCHITECTURES = ("llama", "qwen2", "qwen3")
DIRECT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
FACTORS = "rope_freqs.weight"
NAMES = Names(
    embed="token_embd.weight", attn_norm="blk.{i}.attn_norm.weight", q="blk.{i}.attn_q.weight",
    k="blk.{i}.attn_k.weight", v="blk.{i}.attn_v.weight", o="blk.{i}.attn_output.weight",
    q_norm="blk.{i}.attn_q_norm.weight", k_norm="blk.{i}.attn_k_norm.weight", mlp_norm="blk.{i}.ffn_norm.weight",
    gate="blk.{i}.ffn_gate.weight", up="blk.{i}.ffn_up.weight", down="blk.{i}.ffn_down.weight",
    norm="output_norm.weight", head="output.weight", unused=(FACTORS,),
)  # fmt: skip

# name in a Hugging Face config -> key, after the architecture's name and a dot
_KEYS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length", "max_position_embeddings": "context_length", "vocab_size": "vocab_size",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon", "sliding_window": "attention.sliding_window",
    "rope_theta": "rope.freq_base",
}  # fmt: skip
_REQUIRED = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "max_position_embeddings",
             "rms_norm_eps")  # fmt: skip
_SCALING = {
    "rope_type": "rope.scaling.type", "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow",
    "attention_factor": "rope.scaling.attn_factor",
}  # fmt: skip
# Keys that would change the result, and the value at which they do not: anything else is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,), "attention.causal": (True,), "attention.clamp_kqv": (0.0,), "use_parallel_residual": (False,),
    "attention.max_alibi_bias": (0.0,), "attn_logit_softcapping": (0.0,), "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0), "embedding_scale": (0.0, 1.0), "residual_scale": (0.0, 1.0), "attention.scale": (0.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,), "rope.scaling.yarn_ext_factor": (1.0, -1.0),
    "rope.scaling.yarn_attn_factor": (1.0,), "rope.scale_linear": (1.0,), "attention.temperature_scale": (0.0,),
    "attention.sliding_window_pattern": (0,),
}  # fmt: skip


class GgufConfig(Config):
    """A Config made of metadata: messages name the keys of the file."""

    def __init__(self, values: dict[str, Any], file: Path, names: dict[str, str], prefix: str = "") -> None:
        super().__init__(values, file, prefix)
        self._names = names

    def error(self, key: str, message: str) -> LoadError:
        return LoadError(message, file=self.file, field=self._names.get(self._prefix + key, self._prefix + key))

    def unsupported(self, key: str, message: str) -> UnsupportedError:
        return UnsupportedError(message, file=self.file, field=self._names.get(self._prefix + key, self._prefix + key))

    def fields(self, key: str) -> Fields | None:
        found = super().fields(key)
        return found and GgufConfig(found.values, self.file, self._names, f"{self._prefix}{key}.")


class GgufWeights(Weights):
    """The tensors of one file under the file's own names, with the interface of safetensors' weights.

    Everything quantised comes as F32, in `info` and `array` alike. heads: name -> heads, of tensors whose rows are
    stored in pairs and come half by half.
    """

    def __init__(self, file: GgufFile, heads: dict[str, int]) -> None:
        self._file, self._heads = file, heads

    def names(self) -> list[str]:
        return list(self._file.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._file.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.tensors)

    def __len__(self) -> int:
        return len(self._file.tensors)

    @property
    def file(self) -> GgufFile:
        """The file itself."""
        return self._file

    @property
    def files(self) -> list[Path]:
        return [self._file.path]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the file."""
        return self._file.nbytes

    def info(self, name: str) -> TensorInfo:
        """As safetensors.Weights.info; dtype is that of `array`, nbytes those in the file."""
        tensor = self._file.tensor(name)
        expanded = tensor.type.values is not None and tensor.type.view is None
        dtype = "F32" if expanded else tensor.type.name
        return TensorInfo(name, dtype, tensor.shape, tensor.nbytes, self._file.path, tensor.start)

    def stored(self, name: str) -> str:
        """The name of the type that the file holds."""
        return self._file.tensor(name).type.name

    def blocks_format(self, name: str) -> str | None:
        stored = self.stored(name)
        if len(self._file.tensor(name).shape) != 2:
            return None
        return stored.lower() if stored in DIRECT else WIDER.get(stored)

    def blocks(self, name: str) -> np.ndarray[Any, Any]:
        """The rows as blocks of blocks_format: those of the file, or of the wider class."""
        rows, order, type = self._file.rows(name), self._order(name), self._file.tensor(name).type
        if type.name in WIDER:
            return widened(rows, type.name, type.size, order)
        return rows if order is None else rows[order]

    def _order(self, name: str) -> np.ndarray[Any, Any] | None:
        """Which stored row comes where; None: as they are."""
        heads = self._heads.get(name)
        if heads is None:
            return None
        rows = self._file.tensor(name).shape[0]
        return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor's values: a read-only view of the file, or an expanded or reordered copy."""
        order = self._order(name)
        if order is None:
            return self._file.array(name)
        if len(self._file.tensor(name).shape) == 1:
            bias: np.ndarray[Any, Any] = self._file.array(name)[order]
            return bias
        return self._file.array(name, order)

    def release(self, name: str) -> None:
        self._file.release(name)

    def close(self) -> None:
        self._file.close()


def read_model(file: GgufFile) -> tuple[Spec, Generation]:
    """What the metadata say. Raises LoadError; the tensors' values are not looked at, but for the rope's factors."""
    data = Fields(file.metadata, file.path)
    name = data.text("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise data.unsupported("general.architecture", f"{shorten(name)!r} is not known; known: {known}")
    _refuse_the_unknown(data, name)
    ends = end_ids(file)
    config = _config(file, data, name, ends)
    spec = arch.build(config)
    for key, what in (("rope.dimension_count", "all of them have to turn"), ("attention.value_length", "all alike")):
        number = data.integer(f"{name}.{key}", spec.rope.dim, low=0, high=1 << 16)
        if number != spec.rope.dim:
            raise data.unsupported(f"{name}.{key}", f"is {number}, but heads have {spec.rope.dim} channels, {what}")
    spec = replace(spec, names=NAMES, rope=_with_factors(file, spec))
    if "blk.0.attn_q.bias" in file.tensors and "blk.0.attn_output.bias" not in file.tensors:
        layers = tuple(replace(layer, attention=replace(layer.attention, bias_o=False)) for layer in spec.layers)
        spec = replace(spec, layers=layers)
    return spec, _generation(data, spec)


def open_weights(file: GgufFile, spec: Spec) -> GgufWeights:
    """The tensors for that spec. LoadError for a tensor that is missing, extra, or of a wrong shape or type."""
    heads: dict[str, int] = {}
    if file.metadata["general.architecture"] == "llama":
        for i, layer in enumerate(spec.layers):
            for role, count in (("q", layer.attention.heads), ("k", layer.attention.kv_heads)):
                heads |= {spec.tensor_name(role, i): count, spec.tensor_name(f"{role}_bias", i): count}
    weights = GgufWeights(file, heads)
    spec.check(weights)
    for tensor in spec.tensors():
        if len(tensor.shape) == 1 and weights.stored(tensor.name) not in FLOATS:
            message = f"is {weights.stored(tensor.name)}; a vector has to be one of {', '.join(FLOATS)}"
            raise LoadError(message, file=file.path, field=tensor.name)
    return weights


def _refuse_the_unknown(data: Fields, name: str) -> None:
    for key, allowed in _NEUTRAL.items():
        value = data.values.get(f"{name}.{key}")
        if value is not None and value not in allowed:
            usual = " or ".join(str(v) for v in allowed)
            raise data.unsupported(f"{name}.{key}", f"is {shorten(value)}; only {usual} is supported")
    parts = data.integer("split.count", 1, low=0, high=1 << 16)
    if parts > 1:
        message = f"this file is one of {parts} parts; join them first (llama-gguf-split --merge)"
        raise data.unsupported("split.count", message)


def _config(file: GgufFile, data: Fields, name: str, ends: tuple[int, ...]) -> GgufConfig:
    """The metadata under the names of a Hugging Face config."""
    names = {hf: f"{name}.{key}" for hf, key in _KEYS.items()}
    scaling = {f"rope_scaling.{hf}": f"{name}.{key}" for hf, key in _SCALING.items()}
    names |= scaling | {"rope_scaling": f"{name}.rope.scaling.type", "model_type": "general.architecture"}
    names |= {"bos_token_id": "tokenizer.ggml.bos_token_id", "eos_token_id": "tokenizer.ggml.eos_token_id"}
    values: dict[str, Any] = {hf: data.values.get(key) for hf, key in names.items() if hf in _KEYS}
    for hf in _REQUIRED:
        if values[hf] is None:
            raise data.error(names[hf], "the key is missing")
    values["vocab_size"] = _vocabulary(file, data, name)
    window = data.integer(names["sliding_window"], None, low=0, high=MAX_CONTEXT)
    if name == "llama" and window:
        values["model_type"] = "mistral"
    else:
        values |= {"model_type": name, "use_sliding_window": bool(window), "sliding_window": window or None}
    tensors = file.tensors
    values |= {
        "attention_bias": "blk.0.attn_q.bias" in tensors and name != "qwen2",
        "mlp_bias": "blk.0.ffn_up.bias" in tensors, "tie_word_embeddings": NAMES.head not in tensors,
        "bos_token_id": data.values.get("tokenizer.ggml.bos_token_id"), "eos_token_id": list(ends),
        "dtype": _stored(file), "max_window_layers": 0,
    }  # fmt: skip
    config = GgufConfig(values, file.path, names)
    kind = data.text(names["rope_scaling"], None)
    factor = data.values.get(f"{name}.rope.scaling.factor")
    if kind is None:  # as llama.cpp: linear, and a factor of 0 means none
        kind = "none" if factor in (None, 0.0, 1.0) else "linear"
    if kind != "none":
        found = {hf: data.values.get(f"{name}.{key}") for hf, key in _SCALING.items()}
        values["rope_scaling"] = {hf: v for hf, v in found.items() if v is not None} | {"rope_type": kind}
        _attention_factor(config)
    return config


def _attention_factor(config: GgufConfig) -> None:
    """llama.cpp multiplies yarn's usual factor by the file's own, which is 1 if absent; a config has the product."""
    fields = config.fields("rope_scaling") or config
    own = fields.real("attention_factor", 1.0)
    if own != 1.0:
        if fields.values["rope_type"] != "yarn":
            raise fields.unsupported("attention_factor", f"is {own}, which is known with yarn only")
        own *= 0.1 * float(np.log(max(fields.real("factor", low=1e-6), 1.0))) + 1.0
    fields.values["attention_factor"] = own if own != 1.0 else None


def _vocabulary(file: GgufFile, data: Fields, name: str) -> int:
    """Rows of the embedding; key and list of tokens must say the same if they are there."""
    if NAMES.embed not in file.tensors:
        raise LoadError("the tensor is missing", file=file.path, field=NAMES.embed)
    shape = file.tensors[NAMES.embed].shape
    said = data.integer(f"{name}.vocab_size", shape[0], high=MAX_VOCABULARY)
    if len(shape) != 2 or said != shape[0]:
        raise data.error(f"{name}.vocab_size", f"is {said}, but {NAMES.embed} has the shape {list(shape)}")
    tokens = data.values.get("tokenizer.ggml.tokens")
    if isinstance(tokens, GgufArray) and len(tokens) != shape[0]:
        message = f"has {len(tokens)} tokens, but {NAMES.embed} has the shape {list(shape)}"
        raise data.error("tokenizer.ggml.tokens", message)
    return said


def _with_factors(file: GgufFile, spec: Spec) -> Any:
    """The rope, its frequencies divided by the factors that the file brings, each in float32 as llama.cpp does."""
    if FACTORS not in file.tensors:
        return spec.rope
    tensor = file.tensors[FACTORS]
    if tensor.type.name != "F32" or tensor.shape != (spec.rope.dim // 2,):
        expected = f"expected F32 [{spec.rope.dim // 2}]"
        message = f"is {tensor.type.name} {list(tensor.shape)}, {expected}"
        raise LoadError(message, file=file.path, field=FACTORS)
    factors = file.array(FACTORS).astype(np.float32)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise LoadError("has a factor that is not finite and positive", file=file.path, field=FACTORS)
    values = np.array(spec.rope.inv_freq, np.float32) / factors
    scaling = spec.rope.scaling
    if scaling.kind == "default" and (factors != 1).any():
        scaling = replace(scaling, kind="llama3", factor=float(factors.max()))
    return replace(spec.rope, inv_freq=as_floats(values), scaling=scaling)


def _stored(file: GgufFile) -> str:
    """The type that most of the bytes have."""
    held: dict[str, int] = {}
    for tensor in file.tensors.values():
        held[tensor.type.name] = held.get(tensor.type.name, 0) + tensor.nbytes
    name = max(held, key=lambda name: held[name])
    return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(name, name.lower())


def _generation(data: Fields, spec: Spec) -> Generation:
    """What the file says on sampling, which few files do."""
    prefix = "general.sampling."
    temperature = data.real(f"{prefix}temp", None, high=100.0)
    return Generation(
        do_sample=bool(temperature), temperature=temperature or None, bos_id=spec.bos_id, eos_ids=spec.eos_ids,
        top_k=data.integer(f"{prefix}top_k", None, low=0, high=MAX_VOCABULARY),
        top_p=data.real(f"{prefix}top_p", None, high=1.0), min_p=data.real(f"{prefix}min_p", None, high=1.0),
        repetition_penalty=data.real(f"{prefix}penalty_repeat", None, low=1e-3, high=100.0),
    )  # fmt: skip
