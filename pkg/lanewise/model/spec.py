"""A model described as data, enough for a compiler that knows embed, norm, linear, rope, append, attend, add, last
and logits.

A layer is, with residual `x`: `x += o(attend(rope(q, k), v of norm(x)))`, then `x += down(act(gate) * up of norm(x))`.
Weight matrices have the shape (outputs, inputs), row-major, as checkpoints store them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import LoadError
from .rope import Rope

if TYPE_CHECKING:
    from .safetensors import Weights

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]
STEP_ROWS = 512  # the most rows of one step, prefill chunks and decode rows together; scratch memory is planned for it
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Attention:
    """Self-attention: `heads` query heads in groups over `kv_heads` key-value heads, each `head_dim` channels.

    qk_norm: RMS norm of each q and k head before the rope. window: tokens that a token sees, itself included; None
    means all before it. scale: factor of q.k. softcap: 0, or c in c * tanh(score / c).
    """

    heads: int
    kv_heads: int
    head_dim: int
    bias_qkv: bool = False
    bias_o: bool = False
    qk_norm: bool = False
    window: int | None = None
    scale: float = 1.0
    softcap: float = 0.0


@dataclass(frozen=True, slots=True)
class Mlp:
    """`down(act(gate x) * up x)` when gated, else `down(act(up x))`; `width` is the inner dimension."""

    width: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """Every norm of the model. plus_one: the stored weight is the distance from one. A layer norm has a bias."""

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    plus_one: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: attention, then MLP, each behind a norm and beside a residual."""

    attention: Attention
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class Names:
    """What the checkpoint calls each tensor; `{i}` is the layer. A bias stands beside its weight, as `.bias`."""

    embed: str = "model.embed_tokens.weight"
    attn_norm: str = "model.layers.{i}.input_layernorm.weight"
    q: str = "model.layers.{i}.self_attn.q_proj.weight"
    k: str = "model.layers.{i}.self_attn.k_proj.weight"
    v: str = "model.layers.{i}.self_attn.v_proj.weight"
    o: str = "model.layers.{i}.self_attn.o_proj.weight"
    q_norm: str = "model.layers.{i}.self_attn.q_norm.weight"
    k_norm: str = "model.layers.{i}.self_attn.k_norm.weight"
    mlp_norm: str = "model.layers.{i}.post_attention_layernorm.weight"
    gate: str = "model.layers.{i}.mlp.gate_proj.weight"
    up: str = "model.layers.{i}.mlp.up_proj.weight"
    down: str = "model.layers.{i}.mlp.down_proj.weight"
    norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    # Endings of tensors that a checkpoint may hold and nobody needs: buffers of old versions.
    unused: tuple[str, ...] = (".rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that the checkpoint must have. role: a field of Names, with `_bias` for a bias; layer: None outside."""

    role: str
    layer: int | None
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """A model. `context`: tokens it is made for. `tied`: the head is the embedding. `stored`: the config's dtype, or
    how the weights are quantised."""

    model_type: str
    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    norm: Norm
    rope: Rope
    context: int
    tied: bool = False
    names: Names = field(default=Names(), repr=False)
    embedding_scale: float = 1.0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    stored: str | None = None

    def tensor_name(self, role: str, layer: int | None = None) -> str:
        """The checkpoint's name: `tensor_name("q", 3)`, `tensor_name("q_bias", 3)`, `tensor_name("head")`."""
        is_bias = role.endswith("_bias")
        name: str = getattr(self.names, role.removesuffix("_bias"))
        name = name if layer is None else name.replace("{i}", str(layer))
        return name.removesuffix(".weight") + ".bias" if is_bias else name

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that the checkpoint must have, with its shape; a tied head is not one."""
        for role, shape in (("embed", (self.vocabulary, self.hidden)), *self._norm_shapes("norm", self.hidden)):
            yield Tensor(role, None, self.tensor_name(role), shape)
        if not self.tied:
            yield Tensor("head", None, self.tensor_name("head"), (self.vocabulary, self.hidden))
        for i, layer in enumerate(self.layers):
            for role, shape in self._layer_shapes(layer):
                yield Tensor(role, i, self.tensor_name(role, i), shape)

    @property
    def n_parameters(self) -> int:
        """Numbers in all tensors, a tied head counted once."""
        total = 0
        for tensor in self.tensors():
            count = 1
            for n in tensor.shape:
                count *= n
            total += count
        return total

    def cache_numbers(self) -> int:
        """Numbers that one token adds to the KV cache, over all layers, windows not considered."""
        return sum(2 * layer.attention.kv_heads * layer.attention.head_dim for layer in self.layers)

    def with_context(self, length: int) -> Spec:
        """The same model for a context of `length` tokens: a dynamic rope's frequencies depend on it.

        Raises ValueError for a length under 1, or one at which a dynamic rope has no finite frequencies.
        """
        if length < 1:
            raise ValueError(f"the context is {length}, not a positive number of tokens")
        return replace(self, context=length, rope=self.rope.at_context(length))

    def check(self, weights: Weights) -> None:
        """LoadError unless `weights` has each tensor, in its shape and a float type, and none with no place here."""
        expected: set[str] = set()
        for tensor in self.tensors():
            expected.add(tensor.name)
            if tensor.name not in weights:
                raise LoadError(
                    f"the tensor is missing; expected with shape {list(tensor.shape)}",
                    file=weights.files[0],
                    field=tensor.name,
                )
            info = weights.info(tensor.name)
            if info.shape != tensor.shape:
                raise LoadError(
                    f"shape {list(info.shape)}, but the config says {list(tensor.shape)}",
                    file=info.file,
                    field=tensor.name,
                )
            if info.dtype not in FLOATS:
                raise LoadError(f"is {info.dtype}, not one of {', '.join(FLOATS)}", file=info.file, field=tensor.name)
        allowed = {self.names.head} if self.tied else set()
        for name in weights:
            if name not in expected and name not in allowed and not name.endswith(self.names.unused):
                raise LoadError(
                    f"a {self.model_type} model with this config has no place for the tensor; without it the output "
                    "would be wrong",
                    file=weights.info(name).file,
                    field=name,
                )

    def info(self) -> dict[str, Any]:
        """The facts that a person asks for, as plain values (JSON can hold them)."""
        first = self.layers[0]
        windows = Counter(layer.attention.window for layer in self.layers)
        return {
            "architecture": self.model_type,
            "parameters": self.n_parameters,
            "layers": len(self.layers),
            "hidden": self.hidden,
            "heads": first.attention.heads,
            "kv_heads": first.attention.kv_heads,
            "head_dim": first.attention.head_dim,
            "mlp_width": first.mlp.width,
            "activation": first.mlp.activation,
            "vocabulary": self.vocabulary,
            "context": self.context,
            "windows": {"full" if window is None else str(window): count for window, count in windows.items()},
            "rope": self.rope.scaling.kind,
            "rope_theta": self.rope.theta,
            "tied": self.tied,
            "stored": self.stored,
            "bos_id": self.bos_id,
            "eos_ids": list(self.eos_ids),
        }

    def __str__(self) -> str:
        return "\n".join(
            f"{key:<13} {value:,}" if type(value) is int else f"{key:<13} {value}" for key, value in self.info().items()
        )

    def _norm_shapes(self, role: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield role, (width,)
        if self.norm.kind == "layer":
            yield f"{role}_bias", (width,)

    def _layer_shapes(self, layer: Layer) -> Iterator[tuple[str, tuple[int, ...]]]:
        a, m = layer.attention, layer.mlp
        q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
        yield from self._norm_shapes("attn_norm", self.hidden)
        for role, rows, columns, bias in (
            ("q", q, self.hidden, a.bias_qkv),
            ("k", kv, self.hidden, a.bias_qkv),
            ("v", kv, self.hidden, a.bias_qkv),
            ("o", self.hidden, q, a.bias_o),
        ):
            yield role, (rows, columns)
            if bias:
                yield f"{role}_bias", (rows,)
        if a.qk_norm:
            yield from (("q_norm", (a.head_dim,)), ("k_norm", (a.head_dim,)))
        yield from self._norm_shapes("mlp_norm", self.hidden)
        matrices = (("gate", m.width, self.hidden),) if m.gated else ()
        for role, rows, columns in (*matrices, ("up", m.width, self.hidden), ("down", self.hidden, m.width)):
            yield role, (rows, columns)
            if m.bias:
                yield f"{role}_bias", (rows,)
