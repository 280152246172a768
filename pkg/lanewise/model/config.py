"""config.json and generation_config.json: typed, bounded reading, and what all architectures take from them alike.

Both spellings of transformers are read: up to version 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and from
version 5 (`rope_parameters`, `dtype`). No default is guessed for what fixes the model's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import LoadError, UnsupportedError, shorten
from . import files
from .rope import KINDS, Rope, Scaling, make_rope
from .spec import Activation

CONFIG = "config.json"
GENERATION = "generation_config.json"
MAX_LAYERS = 512
MAX_HEADS = 4096
MAX_HEAD_DIM = 1024
MAX_WIDTH = 1 << 22
MAX_VOCABULARY = 1 << 24
MAX_CONTEXT = (1 << 31) - 1
MAX_EOS = 1024

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}  # fmt: skip
_MISSING: Any = object()
T = TypeVar("T")


class Fields:
    """A JSON object whose values are read by type. Every refusal is a LoadError that names file and field."""

    def __init__(self, values: dict[str, Any], file: Path, prefix: str = "") -> None:
        self.values = values
        self.file = file
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        """Whether the key is there and not null: the two mean the same in these files, but for explicit cases."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: T = _MISSING, *, low: int = 1, high: int) -> int | T:
        """An integer from low to high; `default` when absent or null."""
        value = self._get(key, default)
        if value is default:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, f"is {shorten(value)}, not an integer from {low} to {high}")
        return value

    def real(self, key: str, default: T = _MISSING, *, low: float = 0.0, high: float = 1e30) -> float | T:
        """A finite number from low to high, as float; `default` when absent or null."""
        value = self._get(key, default)
        if value is default:
            return default
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.error(key, f"is {shorten(value)}, not a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false; `default` when absent or null."""
        value = self._get(key, default)
        if type(value) is not bool:
            raise self.error(key, f"is {shorten(value)}, not true or false")
        return value

    def text(self, key: str, default: T = _MISSING) -> str | T:
        """A string; `default` when absent or null."""
        value = self._get(key, default)
        if value is not default and not isinstance(value, str):
            raise self.error(key, f"is {shorten(value)}, not a string")
        return value

    def fields(self, key: str) -> Fields | None:
        """An object; None when absent, null or empty."""
        value = self._get(key, None)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, f"is {shorten(value)}, not an object")
        return Fields(value, self.file, f"{self._prefix}{key}.") if value else None

    def ids(self, key: str, vocabulary: int) -> tuple[int, ...]:
        """A token id or a list of them, each below `vocabulary`; () when absent or null."""
        value = self._get(key, None)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if len(values) > MAX_EOS:
            raise self.error(key, f"has {len(values)} ids, over the limit of {MAX_EOS}")
        for number in values:
            if type(number) is not int or not 0 <= number < vocabulary:
                raise self.error(key, f"is {shorten(number)}, not a token id from 0 to {vocabulary - 1}")
        return tuple(dict.fromkeys(values))

    def error(self, key: str, message: str) -> LoadError:
        return LoadError(message, file=self.file, field=self._prefix + key)

    def unsupported(self, key: str, message: str) -> UnsupportedError:
        return UnsupportedError(message, file=self.file, field=self._prefix + key)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise self.error(key, "the field is missing" if key not in self.values else "is null, but needs a value")
        return default


class Config(Fields):
    """config.json, with the readings that architectures share."""

    @property
    def model_type(self) -> str:
        return self.text("model_type")

    @property
    def vocabulary(self) -> int:
        return self.integer("vocab_size", high=MAX_VOCABULARY)

    @property
    def hidden(self) -> int:
        return self.integer("hidden_size", high=MAX_WIDTH)

    @property
    def context(self) -> int:
        return self.integer("max_position_embeddings", high=MAX_CONTEXT)

    def heads(self, default_kv: int | None = None, default_dim: int | None = None) -> tuple[int, int, int]:
        """(query heads, key-value heads, channels per head), checked against each other.

        default_kv, default_dim: what an absent field means (null always means: heads, and hidden/heads).
        """
        heads = self.integer("num_attention_heads", high=MAX_HEADS)
        kv_default = heads if default_kv is None or "num_key_value_heads" in self.values else default_kv
        kv_heads = self.integer("num_key_value_heads", kv_default, high=MAX_HEADS)
        if heads % kv_heads:
            raise self.error("num_key_value_heads", f"is {kv_heads}, which does not divide the {heads} heads")
        if default_dim is None or "head_dim" in self.values:
            default_dim = None if self.hidden % heads else self.hidden // heads
        head_dim = self.integer("head_dim", default_dim, high=MAX_HEAD_DIM)
        if head_dim is None:
            raise self.error("num_attention_heads", f"is {heads}, which does not divide hidden_size {self.hidden}")
        if head_dim % 2 or head_dim > MAX_HEAD_DIM:
            raise self.error("head_dim", f"is {head_dim}, not an even number up to {MAX_HEAD_DIM}")
        return heads, kv_heads, head_dim

    def n_layers(self) -> int:
        return self.integer("num_hidden_layers", high=MAX_LAYERS)

    def mlp_width(self) -> int:
        return self.integer("intermediate_size", high=MAX_WIDTH)

    def norm_eps(self) -> float:
        return self.real("rms_norm_eps", 1e-6, high=1.0)

    def activation(self, default: str = "silu") -> Activation:
        name = self.text("hidden_act", default)
        if name not in _ACTIVATIONS:
            raise self.unsupported("hidden_act", f"is {shorten(name)!r}; known: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]

    def windows(self, layers: int) -> list[int | None]:
        """Per layer, tokens seen or None, from layer_types, or from max_window_layers on, if windows are in use.

        As transformers' Qwen2 and Qwen3 read use_sliding_window, sliding_window, max_window_layers, layer_types.
        """
        window = self.integer("sliding_window", None if "sliding_window" in self.values else 4096, high=MAX_CONTEXT)
        if not self.flag("use_sliding_window", False):
            window = None
        kinds = self._get("layer_types", None)
        if kinds is None:
            first = self.integer("max_window_layers", 28, low=0, high=1 << 16)
            return [window if i >= first else None for i in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise self.error("layer_types", f"is not a list of {layers} strings")
        for kind in kinds:
            if kind not in ("full_attention", "sliding_attention"):
                raise self.unsupported("layer_types", f"has {shorten(kind)}; known: full_attention, sliding_attention")
        if window is None and "sliding_attention" in kinds:
            raise self.error("layer_types", "has sliding_attention, but sliding_window is not in use")
        return [window if kind == "sliding_attention" else None for kind in kinds]

    def rope(self, head_dim: int) -> Rope:
        """The rope over whole heads, "half" pairing, with any scaling of rope.KINDS."""
        own = self.fields("rope_scaling") or self.fields("rope_parameters") or Fields({}, self.file, "rope_parameters.")
        theta = own.real("rope_theta", self.real("rope_theta", 10000.0))
        for fields in (own, self):
            if fields.real("partial_rotary_factor", 1.0, high=1.0) != 1.0:
                raise fields.unsupported("partial_rotary_factor", f"is not known for {self.model_type}")
        scaling = self._scaling(own)
        try:
            return make_rope(theta, head_dim, scaling)
        except ValueError as error:
            key = "rope_scaling" if self.fields("rope_scaling") else "rope_parameters" if own.values else "rope_theta"
            raise self.error(key, str(error)) from None

    def long_context(self, rope: Rope) -> int:
        """Tokens that the model is made for: with yarn, what the factor stretches the original length to, if longer."""
        if rope.scaling.kind != "yarn":
            return self.context
        return min(max(self.context, int(rope.scaling.factor * rope.scaling.original)), MAX_CONTEXT)

    def _scaling(self, own: Fields) -> Scaling:
        kind = own.text("rope_type", None) or own.text("type", "default")
        if kind not in KINDS:
            key = "rope_type" if "rope_type" in own else "type"
            raise own.unsupported(key, f"rope scaling {shorten(kind)!r} is not known; known: {', '.join(KINDS)}")
        if kind == "default":
            return Scaling()
        original = self.context
        if kind != "dynamic":  # dynamic is relative to max_position_embeddings, whatever else is there
            original = own.integer("original_max_position_embeddings", original, high=MAX_CONTEXT)
            original = self.integer("original_max_position_embeddings", original, high=MAX_CONTEXT)
        # transformers: a null factor of yarn is the ratio of the two lengths.
        ratio = self.context / original if kind == "yarn" and "factor" in own.values else _MISSING
        scaling: dict[str, Any] = {"kind": kind, "original": original, "factor": own.real("factor", ratio, low=1e-6)}
        if kind == "llama3":
            scaling |= {key: own.real(key, low=1e-6) for key in ("low_freq_factor", "high_freq_factor")}
        if kind == "yarn":
            for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
                scaling[key] = own.real(key, usual) or usual
            scaling |= {key: own.real(key, None) for key in ("mscale", "mscale_all_dim", "attention_factor")}
            scaling["truncate"] = own.flag("truncate", True)
        return Scaling(**scaling)

    def pad_id(self) -> int | None:
        """The padding token; -1, which old Llama configs have, means none."""
        if self.values.get("pad_token_id") == -1:
            return None
        return next(iter(self.ids("pad_token_id", self.vocabulary)), None)

    def bos_id(self) -> int | None:
        return next(iter(self.ids("bos_token_id", self.vocabulary)), None)

    def eos_ids(self) -> tuple[int, ...]:
        return self.ids("eos_token_id", self.vocabulary)

    def stored(self) -> str | None:
        """The dtype that the config names ("float32", "bfloat16", ...), a hint only."""
        return self.text("dtype", None) or self.text("torch_dtype", None)


@dataclass(frozen=True, slots=True)
class Generation:
    """How the model's makers would sample. None: they do not say. eos_ids: generation_config's, else config's."""

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()


def read_config(folder: Path) -> Config:
    """config.json of a model folder. LoadError; UnsupportedError for code of the model's own."""
    path = files.member(folder, CONFIG)
    config = Config(files.read_object(path), folder / CONFIG)
    auto = config.fields("auto_map")
    if auto is not None and any(key.startswith("AutoModel") for key in auto.values):
        raise config.unsupported("auto_map", "the model brings its own Python code, which lanewise does not run")
    if config.flag("trust_remote_code", False):
        raise config.unsupported("trust_remote_code", "lanewise runs no code from a model")
    return config


def read_generation(folder: Path, config: Config) -> Generation:
    """generation_config.json of a model folder; defaults, and config.json's ids, for what it lacks. LoadError."""
    found = Fields({}, folder / GENERATION)
    if files.has(folder, GENERATION):
        found = Fields(files.read_object(files.member(folder, GENERATION)), folder / GENERATION)
    return Generation(
        do_sample=found.flag("do_sample", False),
        temperature=found.real("temperature", None, high=100.0),
        top_k=found.integer("top_k", None, low=0, high=MAX_VOCABULARY),
        top_p=found.real("top_p", None, high=1.0),
        min_p=found.real("min_p", None, high=1.0),
        repetition_penalty=found.real("repetition_penalty", None, low=1e-3, high=100.0),
        max_new_tokens=found.integer("max_new_tokens", None, high=MAX_CONTEXT),
        bos_id=next(iter(found.ids("bos_token_id", config.vocabulary)), config.bos_id()),
        eos_ids=found.ids("eos_token_id", config.vocabulary) or config.eos_ids(),
    )
