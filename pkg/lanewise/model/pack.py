"""From a checkpoint's tensors to packed weights, one layer at a time, so that memory never holds the model twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _native
from .safetensors import Weights
from .spec import Layer, Spec

Vector = np.ndarray[Any, np.dtype[np.float32]]
Progress = Callable[[int, int, str], None]
_TYPE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LANES = 16


@dataclass(slots=True)
class PackedLayer:
    """One layer's matrices in order of execution, and its vectors (float32, padded to whole lines)."""

    qkv: _native.Weight
    o: _native.Weight
    up: _native.Weight  # gated: alternating panels of 16 gate, 16 up rows
    down: _native.Weight
    vectors: dict[str, Vector] = field(default_factory=dict)


@dataclass(slots=True)
class Packed:
    """All of a model's weights. head: the embedding itself when they are tied."""

    embed: _native.Weight
    head: _native.Weight
    layers: list[PackedLayer]
    vectors: dict[str, Vector]

    def matrices(self) -> Iterator[_native.Weight]:
        yield self.embed
        if self.head is not self.embed:
            yield self.head
        for layer in self.layers:
            yield from (layer.qkv, layer.o, layer.up, layer.down)

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices())


def round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def padded(parts: list[Vector], to: int = LANES) -> Vector:
    """The parts one after another, zeros up to a whole number of lines."""
    whole = np.concatenate(parts)
    out: Vector = np.zeros(round_up(len(whole), to), dtype=np.float32)
    out[: len(whole)] = whole
    return out


def alternated(gate: Vector, up: Vector) -> Vector:
    """Two vectors in alternating runs of 16, as the rows of a gated matrix lie."""
    pairs = np.stack([padded([gate]).reshape(-1, LANES), padded([up]).reshape(-1, LANES)], axis=1)
    return np.ascontiguousarray(pairs.reshape(-1))


def matrices_of(spec: Spec) -> Iterator[tuple[tuple[int, int], tuple[str, ...], int | None]]:
    """((outputs, inputs), roles of the tensors in it, layer) of every packed matrix of a model."""
    yield (spec.vocabulary, spec.hidden), ("embed",), None
    if not spec.tied:
        yield (spec.vocabulary, spec.hidden), ("head",), None
    for i, layer in enumerate(spec.layers):
        a, m = layer.attention, layer.mlp
        yield ((a.heads + 2 * a.kv_heads) * a.head_dim, spec.hidden), ("q", "k", "v"), i
        yield (spec.hidden, a.heads * a.head_dim), ("o",), i
        up = ("gate", "up") if m.gated else ("up",)
        yield (2 * round_up(m.width, LANES) if m.gated else m.width, spec.hidden), up, i
        yield (spec.hidden, m.width), ("down",), i


def format_of(spec: Spec, weights: Weights, dtype: str, roles: tuple[str, ...], layer: int | None) -> str:
    """The packed format of a matrix: bfloat16 if all of its tensors are stored so, unless `dtype` says otherwise."""
    if dtype != "auto":
        return dtype
    stored = {weights.info(spec.tensor_name(role, layer)).dtype for role in roles}
    return "bfloat16" if stored == {"BF16"} else "float32"


def packed_bytes(shape: tuple[int, int], format: str) -> int:
    """Bytes of a packed matrix: 16 outputs a panel, 4 bytes of k a line."""
    n, k = shape
    return round_up(n, LANES) * (k * 4 if format == "float32" else round_up(k, 2) * 2)


class Packer:
    """Packs the tensors of one checkpoint. dtype: "auto" (as stored; float16 exactly, as float32) or a format."""

    def __init__(
        self, ctx: _native.Context, spec: Spec, weights: Weights, dtype: str, progress: Progress | None
    ) -> None:
        self.ctx, self.spec, self.weights, self.dtype, self.progress = ctx, spec, weights, dtype, progress
        self.done, self.total = 0, weights.nbytes

    def model(self) -> Packed:
        embed = self.matrix([("embed", 0, 1)], self.spec.vocabulary, self.spec.hidden, None)
        head = embed
        if not self.spec.tied:
            head = self.matrix([("head", 0, 1)], self.spec.vocabulary, self.spec.hidden, None)
        layers = [self.layer(i, layer) for i, layer in enumerate(self.spec.layers)]
        return Packed(embed, head, layers, self.norm("norm", None))

    def layer(self, i: int, layer: Layer) -> PackedLayer:
        a, m, hidden = layer.attention, layer.mlp, self.spec.hidden
        q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
        width = round_up(m.width, LANES)
        up = [("gate", 0, 2), ("up", LANES, 2)] if m.gated else [("up", 0, 1)]
        packed = PackedLayer(
            qkv=self.matrix([("q", 0, 1), ("k", q, 1), ("v", q + kv, 1)], q + 2 * kv, hidden, i),
            o=self.matrix([("o", 0, 1)], hidden, q, i),
            up=self.matrix(up, 2 * width if m.gated else m.width, hidden, i),
            down=self.matrix([("down", 0, 1)], hidden, m.width, i),
        )
        vectors = packed.vectors
        vectors |= self.norm("attn_norm", i) | self.norm("mlp_norm", i)
        if a.bias_qkv:
            vectors["qkv_bias"] = padded([self.vector(f"{role}_bias", i) for role in "qkv"])
        if a.bias_o:
            vectors["o_bias"] = padded([self.vector("o_bias", i)])
        if a.qk_norm:
            vectors |= {role: padded([self.vector(role, i)]) for role in ("q_norm", "k_norm")}
        if m.bias:
            up_bias = self.vector("up_bias", i)
            vectors["up_bias"] = alternated(self.vector("gate_bias", i), up_bias) if m.gated else padded([up_bias])
            vectors["down_bias"] = padded([self.vector("down_bias", i)])
        return packed

    def matrix(self, parts: list[tuple[str, int, int]], n: int, k: int, layer: int | None) -> _native.Weight:
        """Packs tensors (role, first row, step) into one matrix of n outputs over k inputs."""
        roles = tuple(role for role, _, _ in parts)
        weight = _native.Weight(format_of(self.spec, self.weights, self.dtype, roles, layer), n, k)
        for role, row0, step in parts:
            name = self.spec.tensor_name(role, layer)
            info = self.weights.info(name)
            weight.pack(self.ctx, self.weights.array(name), _TYPE[info.dtype], row0, step)
            self.finished(name)
        return weight

    def vector(self, role: str, layer: int | None) -> Vector:
        name = self.spec.tensor_name(role, layer)
        values = self.weights.array(name)
        if self.weights.info(name).dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        out = values.astype(np.float32)
        self.finished(name)
        return out

    def norm(self, role: str, layer: int | None) -> dict[str, Vector]:
        weight = self.vector(role, layer)
        out = {role: padded([weight + np.float32(1) if self.spec.norm.plus_one else weight])}
        if self.spec.norm.kind == "layer":
            out[f"{role}_bias"] = padded([self.vector(f"{role}_bias", layer)])
        return out

    def finished(self, name: str) -> None:
        self.done += self.weights.info(name).nbytes
        self.weights.release(name)
        if self.progress is not None:
            self.progress(self.done, self.total, name)
