"""A Spec and its packed weights become a program: the flat list of ops that the C core plays, once per step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _native
from .pack import Packed, PackedLayer, Vector
from .spec import Attention, Layer, Spec

NONE, LOGITS = _native.NONE, _native.LOGITS


@dataclass(frozen=True, slots=True)
class Shape:
    """lw_attention_shape. window: keys visible before and after a row's own position, -1 all."""

    heads: int
    kv_heads: int
    scale: float
    softcap: float = 0.0
    causal: bool = True
    window: tuple[int, int] = (-1, -1)


@dataclass(frozen=True, slots=True)
class Op:
    """lw_op: one operation on rows of slots (csrc/lanewise.h says which fields each kind reads)."""

    kind: str
    in_: int = NONE
    in2: int = NONE
    out: int = NONE
    column: int = 0
    column2: int = 0
    width: int = 0
    groups: int = 0
    pairs: int = 0
    variant: int | str = 0
    layer: int = 0
    exact: bool = True
    in_dot: bool = False
    out_dot: bool = False
    eps: float = 0.0
    scale: float = 1.0
    weight: _native.Weight | None = None
    vec: Vector | None = None
    bias: Vector | None = None
    attention: Shape | None = None


@dataclass(slots=True)
class Score:
    """The list under construction: ops, and the slots (activation buffers) by name."""

    ops: list[Op] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)
    widths: list[int] = field(default_factory=list)

    def slot(self, name: str, width: int) -> int:
        """The slot of that name, at least so wide."""
        if name not in self.slots:
            self.slots[name] = len(self.widths)
            self.widths.append(0)
        i = self.slots[name]
        self.widths[i] = max(self.widths[i], width)
        return i

    def add(self, kind: str, **fields: Any) -> None:
        self.ops.append(Op(kind, **fields))


def compile_program(spec: Spec, packed: Packed, *, exact: bool) -> Score:
    """The program of a decoder: embed, angles, layers, last norm, head.

    In the last layer everything behind the attention is computed only for the rows whose logits are wanted: nobody
    reads the others (their keys and values are in the cache by then).
    """
    score = Score()
    x = score.slot("x", spec.hidden)
    angles = score.slot("angles", spec.rope.dim)
    score.add("embed", out=x, weight=packed.embed, scale=spec.embedding_scale)
    if spec.rope.dim:
        inv_freq = np.array(spec.rope.inv_freq, dtype=np.float32)
        score.add("angles", out=angles, pairs=spec.rope.dim // 2, vec=inv_freq, scale=spec.rope.attention_factor)
    for i, (layer, weights) in enumerate(zip(spec.layers, packed.layers, strict=True)):
        _attention(score, spec, i, layer.attention, weights, x, angles, exact)
        attended = score.slots["attended"]
        if i == len(spec.layers) - 1:
            wanted, of = score.slot("wanted", spec.hidden), score.slot("wanted_attended", score.widths[attended])
            score.add("last", in_=x, out=wanted, width=spec.hidden)
            score.add("last", in_=attended, out=of, width=layer.attention.heads * layer.attention.head_dim)
            x, attended = wanted, of
        bias = weights.vectors.get("o_bias")
        score.add("linear", in_=attended, in2=x, out=x, weight=weights.o, bias=bias, exact=exact)
        _mlp(score, spec, layer, weights, x, exact)
    normed = _norm(score, spec, packed.vectors, "norm", x)
    score.add("linear", in_=normed, out=LOGITS, weight=packed.head, exact=exact)
    return score


def _norm(score: Score, spec: Spec, vectors: dict[str, Vector], role: str, x: int) -> int:
    out = score.slot("normed", spec.hidden)
    score.add(
        "norm", in_=x, out=out, width=spec.hidden, groups=1, eps=spec.norm.eps, variant=int(spec.norm.kind == "layer"),
        vec=vectors[role], bias=vectors.get(f"{role}_bias"),
    )  # fmt: skip
    return out


def _attention(
    score: Score, spec: Spec, i: int, a: Attention, weights: PackedLayer, x: int, angles: int, exact: bool
) -> None:
    """normed -> q | k | v -> rotated -> cache -> attended."""
    normed = _norm(score, spec, weights.vectors, "attn_norm", x)
    q, kv, d = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.head_dim
    qkv = score.slot("qkv", q + 2 * kv)
    bias = weights.vectors.get("qkv_bias")
    for first, matrix in weights.qkv:
        part = None if bias is None else bias[first:]
        score.add("linear", in_=normed, out=qkv, column2=first, weight=matrix, bias=part, exact=exact)
    if a.qk_norm:
        for role, column, heads in (("q_norm", 0, a.heads), ("k_norm", q, a.kv_heads)):
            score.add(
                "norm", in_=qkv, out=qkv, column=column, groups=heads, width=d, eps=spec.norm.eps,
                vec=weights.vectors[role],
            )  # fmt: skip
    if spec.rope.dim:
        score.add(
            "rope", in2=angles, out=qkv, groups=a.heads + a.kv_heads, width=d, pairs=spec.rope.dim // 2,
            variant=int(spec.rope.pairing == "interleaved"),
        )  # fmt: skip
    score.add("append", in_=qkv, column=q, column2=q + kv, groups=a.kv_heads, width=d, layer=i)
    window = (-1, -1) if a.window is None else (a.window - 1, -1)
    shape = Shape(a.heads, a.kv_heads, a.scale, a.softcap, True, window)
    score.add("attend", in_=qkv, out=score.slot("attended", q), width=d, layer=i, attention=shape, exact=exact)


def _mlp(score: Score, spec: Spec, layer: Layer, weights: PackedLayer, x: int, exact: bool) -> None:
    m, vectors = layer.mlp, weights.vectors
    normed = _norm(score, spec, vectors, "mlp_norm", x)
    inner = score.slot("inner", m.width)
    narrow = weights.down.format == "bfloat16" and not exact  # rounded at once, not by the next product
    score.add(
        "linear", in_=normed, out=inner, weight=weights.up, bias=vectors.get("up_bias"), exact=exact,
        variant=m.activation, width=m.width if m.gated else 0, out_dot=narrow,
    )  # fmt: skip
    score.add(
        "linear", in_=inner, in2=x, out=x, weight=weights.down, bias=vectors.get("down_bias"), exact=exact,
        in_dot=narrow,
    )  # fmt: skip
