"""From a checkpoint's tensors to packed weights, one layer at a time, so that memory never holds the model twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import _native
from ..errors import LoadError
from .carry import carried, common, holders
from .packed_cache import Entry, Plan, Planned, Writer
from .safetensors import Weights
from .spec import Layer, Spec

Vector = np.ndarray[Any, np.dtype[np.float32]]
Order = np.ndarray[Any, np.dtype[np.int32]]
Progress = Callable[[int, int, str], None]
_TYPE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LANES = 16


@dataclass(slots=True)
class PackedLayer:
    """One layer's matrices in order of execution, and its vectors (float32, padded to whole lines).

    qkv: (first output, matrix), one for each run of tensors of one format and one order of the inputs.
    """

    qkv: list[tuple[int, _native.Weight]]
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
            yield from (matrix for _, matrix in layer.qkv)
            yield from (layer.o, layer.up, layer.down)

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


Part = tuple[str, int, int]  # role of a tensor, its first output, step (2: panels of gate and up alternate)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of the program, n outputs over k inputs, and the tensors that are in it."""

    n: int
    k: int
    parts: tuple[Part, ...]
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What of a matrix is packed together: n outputs from `first` on, in one format and one order of the inputs."""

    format: str
    first: int
    n: int
    parts: tuple[Part, ...]
    order: Order | None = None


def layer_matrices(spec: Spec, i: int) -> dict[str, Matrix]:
    """The four matrices of layer i by the names of PackedLayer."""
    a, m, hidden = spec.layers[i].attention, spec.layers[i].mlp, spec.hidden
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    up: tuple[Part, ...] = (("gate", 0, 2), ("up", LANES, 2)) if m.gated else (("up", 0, 1),)
    return {
        "qkv": Matrix(q + 2 * kv, hidden, (("q", 0, 1), ("k", q, 1), ("v", q + kv, 1)), i),
        "o": Matrix(hidden, q, (("o", 0, 1),), i),
        "up": Matrix(2 * round_up(m.width, LANES) if m.gated else m.width, hidden, up, i),
        "down": Matrix(hidden, m.width, (("down", 0, 1),), i),
    }


def matrices_of(spec: Spec) -> Iterator[Matrix]:
    """Every packed matrix of a model."""
    yield Matrix(spec.vocabulary, spec.hidden, (("embed", 0, 1),))
    if not spec.tied:
        yield Matrix(spec.vocabulary, spec.hidden, (("head", 0, 1),))
    for i in range(len(spec.layers)):
        yield from layer_matrices(spec, i).values()


def runs_of(matrix: Matrix, spec: Spec, weights: Weights, dtype: str) -> list[Run]:
    """How a matrix is packed. dtype: "auto" (as stored; float16 exactly, as float32) or a format.

    Float tensors of one matrix are bfloat16 together if all of them are stored so, else float32. Tensors quantised in
    several ways, or with their inputs in several orders, become a run for each; where their panels alternate, one of
    the smallest class that holds all their values (carry), or of float32.
    """
    formats = [dtype] * len(matrix.parts)
    orders: list[Order | None] = [None] * len(matrix.parts)
    if dtype == "auto":
        names = [spec.tensor_name(role, matrix.layer) for role, _, _ in matrix.parts]
        found = [weights.blocks_format(name) for name in names]
        formats = [format or _float_format(weights, name) for format, name in zip(found, names, strict=True)]
        orders = [weights.blocks_order(name) if format else None for format, name in zip(found, names, strict=True)]
    kinds = [
        (format, None if order is None else order.tobytes()) for format, order in zip(formats, orders, strict=True)
    ]
    if len(set(kinds)) == 1:
        return [Run(formats[0], 0, matrix.n, matrix.parts, orders[0])]
    if any(step > 1 for _, _, step in matrix.parts) and len({order for _, order in kinds}) == 1:
        format = common(formats)
        if format is not None:
            return [Run(format, 0, matrix.n, matrix.parts, orders[0])]
    if all(name in ("float32", "bfloat16") for name in formats) or any(step > 1 for _, _, step in matrix.parts):
        return [Run("float32", 0, matrix.n, matrix.parts)]
    ends = [first for _, first, _ in matrix.parts[1:]] + [matrix.n]
    runs: list[Run] = []
    for i, (part, end) in enumerate(zip(matrix.parts, ends, strict=True)):
        if i and kinds[i] == kinds[i - 1]:
            last = runs[-1]
            runs[-1] = replace(last, n=end - last.first, parts=(*last.parts, part))
        else:
            runs.append(Run(formats[i], part[1], end - part[1], (part,), orders[i]))
    return runs


def plan_of(spec: Spec, weights: Weights, dtype: str) -> list[Planned]:
    """All that is packed, in the order in which it is."""
    return [
        Planned(run.format, run.n, matrix.k, run.order)
        for matrix in matrices_of(spec) for run in runs_of(matrix, spec, weights, dtype)
    ]  # fmt: skip


def _float_format(weights: Weights, name: str) -> str:
    return "bfloat16" if weights.info(name).dtype == "BF16" else "float32"


def _finite(values: np.ndarray[Any, Any]) -> bool:
    """Whether all of a matrix is finite, a few rows at a time."""
    return all(bool(np.isfinite(values[at : at + 64]).all()) for at in range(0, len(values), 64))


def _role(run: Run, row: int) -> str:
    """The tensor that packed row `row` of a run is of."""
    if run.parts[0][2] > 1:
        return run.parts[row // LANES % len(run.parts)][0]
    return next(role for role, first, _ in reversed(run.parts) if first - run.first <= row)


class Packer:
    """Packs the tensors of one checkpoint. dtype: "auto" (as stored; float16 exactly, as float32) or a format."""

    def __init__(
        self, ctx: _native.Context, spec: Spec, weights: Weights, dtype: str, plan: Plan, progress: Progress | None,
        entry: Entry | None = None,
    ) -> None:  # fmt: skip
        self.ctx, self.spec, self.weights, self.dtype, self.progress = ctx, spec, weights, dtype, progress
        self.done, self.total = 0, weights.nbytes
        self.entry, self.mapped, self.writer = entry, None, None
        self.plan, self.room = plan, memoryview(b"")

    entry: Entry | None  # of the packed cache
    mapped: Iterator[_native.Weight] | None
    writer: Writer | None
    room: memoryview  # for what is still to be packed: one piece, so that small matrices have huge pages too

    def model(self) -> Packed:
        if self.entry is None:
            return self._model()
        found = self.entry.read(self.ctx)
        if found is not None:
            self.mapped = iter(found)
            return self._model()
        self.writer = Writer(self.entry)
        try:
            packed = self._model()
            self.writer.finish()
        finally:
            self.writer.abandon()
        return packed

    def _model(self) -> Packed:
        if self.mapped is None:
            self.room = memoryview(_native.Memory(sum(matrix.line_bytes for matrix in self.plan)))
        first = matrices_of(self.spec)
        embed = self.matrix(next(first))
        head = embed if self.spec.tied else self.matrix(next(first))
        layers = [self.layer(i, layer) for i, layer in enumerate(self.spec.layers)]
        return Packed(embed, head, layers, self.norm("norm", None))

    def layer(self, i: int, layer: Layer) -> PackedLayer:
        a, m, parts = layer.attention, layer.mlp, layer_matrices(self.spec, i)
        packed = PackedLayer(
            qkv=self.runs(parts["qkv"]), o=self.matrix(parts["o"]), up=self.matrix(parts["up"]),
            down=self.matrix(parts["down"]),
        )  # fmt: skip
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

    def matrix(self, matrix: Matrix) -> _native.Weight:
        """Packs a matrix that is one run."""
        ((_, weight),) = self.runs(matrix)
        return weight

    def runs(self, matrix: Matrix) -> list[tuple[int, _native.Weight]]:
        """Packs a matrix: (first output, packed) of each run."""
        packed = []
        for run in runs_of(matrix, self.spec, self.weights, self.dtype):
            if self.mapped is not None:
                weight = next(self.mapped)
                for role, _, _ in run.parts:
                    self.finished(self.spec.tensor_name(role, matrix.layer))
            else:
                weight = self.run(matrix, run)
            packed.append((run.first, weight))
        return packed

    def run(self, matrix: Matrix, run: Run) -> _native.Weight:
        """Packs one run, and hands it to the cache."""
        lines = self.room[: _native.packed_size(run.format, run.n, matrix.k)]
        self.room = self.room[len(lines) :]
        weight = _native.Weight(run.format, run.n, matrix.k, lines, run.order, empty=True)
        for role, first, step in run.parts:
            name = self.spec.tensor_name(role, matrix.layer)
            held = self.weights.blocks_format(name)
            if held is not None and run.format in holders(held):
                source, type_ = carried(self.weights.blocks(name), held, run.format), "blocks"
            else:
                source, type_ = self.weights.array(name), _TYPE[self.weights.info(name).dtype]
                if held is not None and not _finite(source):
                    raise self.not_finite(name)
            weight.pack(self.ctx, source, type_, first - run.first, step)
            self.finished(name)
        row = weight.not_finite(self.ctx)
        if row is not None:
            raise self.not_finite(self.spec.tensor_name(_role(run, row), matrix.layer))
        if self.writer is not None:
            self.writer.add(self.ctx, weight)
        return weight

    def not_finite(self, name: str) -> LoadError:
        message = "holds a scale or value that is infinite or not a number, as every answer would then be"
        return LoadError(message, file=self.weights.info(name).file, field=name)

    def vector(self, role: str, layer: int | None) -> Vector:
        name = self.spec.tensor_name(role, layer)
        values = self.weights.array(name)
        if self.weights.info(name).dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        out = values.astype(np.float32)
        if not np.isfinite(out).all():
            raise self.not_finite(name)
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
