"""Any model that lanewise reads to one GGUF file, its matrices quantised: `lanewise quantize`.

Tensors are read, quantised and written in slices of rows, so that memory holds a few million weights at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LoadError
from .gguf import GgufFile
from .gguf_export import architecture, metadata, rope_factors, row_order, tensors
from .gguf_export_tokenizer import tokenizer_metadata
from .gguf_model import FACTORS, NAMES, GgufWeights
from .gguf_types import expand
from .gguf_writer import Declared, GgufWriter, Value, value_of
from .importance import read_importance
from .quantised import QuantisedWeights
from .quantize import quantize_rows
from .quantize_plan import Plan
from .safetensors import Weights
from .source import Source, open_source

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Progress = Callable[[int, int, str], None]
_TWICE = "the source is quantised already ({}); its errors stay, new ones are added"
SLICE = 1 << 22  # weights read, quantised and written at a time


@dataclass(slots=True)
class _Job:
    """A tensor to write. read(start, stop): its rows as float32; raw: its bytes where they stay as they are."""

    declared: Declared
    source: str
    read: Callable[[int, int], Floats]
    raw: Callable[[int, int], Bytes] | None = None

    @property
    def rows(self) -> int:
        shape = self.declared.shape
        return 1 if len(shape) == 1 else int(np.prod(shape[:-1]))

    @property
    def columns(self) -> int:
        return self.declared.shape[-1]


def quantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    type: str = "q4m",
    importance: str | os.PathLike[str] | None = None,
    embed: str | None = None,
    head: str | None = None,
    tokenizer: bool = True,
    overwrite: bool = False,
    threads: int | None = None,
    revision: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes `target`, a GGUF file, and says what is in it.

    type: a name that quantize_plan knows; embed, head: types of those two instead of the usual; importance:
    a file of `lanewise calibrate`; tokenizer: False writes none. Nothing is left of a target that cannot be finished.
    Raises LoadError (naming file and tensor), ValueError, FileExistsError unless overwrite, OSError.
    """
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(f"{os.fspath(target)} is there already")
    with open_source(source, revision) as opened:
        if any(os.path.exists(target) and os.path.samefile(target, path) for path in opened.weights.files):
            raise ValueError(f"{os.fspath(target)} is the source itself")
        plan = Plan.of(opened.spec, type, embed, head)
        weights = None if importance is None else read_importance(importance)
        jobs = list(_jobs(opened, plan))
        unused = _check_importance(weights, jobs, importance)
        pairs, notes = _metadata(opened, plan, tokenizer, importance)
        notes += unused
        total = sum(job.rows * job.columns for job in jobs)
        with GgufWriter(target, pairs, [job.declared for job in jobs], overwrite=overwrite) as writer:
            done = 0
            for job in jobs:
                for rows, piece in _pieces(job, weights, threads, opened):
                    writer.write(job.declared.name, piece)
                    done += rows * job.columns
                    if job.source in opened.weights:
                        opened.weights.release(job.source)  # what was read; the rest is not there yet
                    if on_progress is not None:
                        on_progress(done, total, job.declared.name)
        source_bytes = opened.weights.nbytes
    return _report(opened.path, Path(target), plan, jobs, source_bytes, notes)


def _report(
    source: Path, target: Path, plan: Plan, jobs: list[_Job], source_bytes: int, notes: list[str]
) -> dict[str, Any]:
    types: dict[str, int] = {}
    for job in jobs:
        types[job.declared.type] = types.get(job.declared.type, 0) + job.declared.nbytes
    weights = sum(job.rows * job.columns for job in jobs)
    return {
        "source": str(source), "target": str(target), "type": plan.name, "weights": weights,
        "source_bytes": source_bytes, "tensor_bytes": sum(types.values()), "file_bytes": target.stat().st_size,
        "bits_per_weight": 8 * sum(types.values()) / weights, "types": types,
        "fallbacks": [
            {"tensor": name, "wanted": wanted, "taken": taken, "width": width}
            for name, wanted, taken, width in plan.fallbacks
        ],
        "notes": notes,
    }  # fmt: skip


# ---- what is written ----


def _jobs(opened: Source, plan: Plan) -> Iterator[_Job]:
    if isinstance(opened.weights, GgufWeights):
        yield from _gguf_jobs(opened, opened.weights.file, plan)
        return
    architecture(opened.spec, opened.path)
    for ours, theirs in tensors(opened.spec):
        info = opened.weights.info(ours.name)
        kind = plan.type(ours.role, ours.layer, ours.shape, theirs.name, info.dtype)
        read = _reader(opened.weights, ours.name, row_order(opened.spec, ours))
        yield _Job(Declared(theirs.name, kind, ours.shape), ours.name, read)
    factors = rope_factors(opened.spec)
    if factors is not None:
        fixed = factors[None]
        yield _Job(Declared(FACTORS, "F32", factors.shape), FACTORS, lambda start, stop: fixed[start:stop])


def _reader(weights: Weights, name: str, order: np.ndarray[Any, Any] | None) -> Callable[[int, int], Floats]:
    """Rows of a tensor of safetensors, in the order of the file to be written; a vector is one row."""
    info = weights.info(name)
    short, last = info.dtype == "BF16", 1 if len(info.shape) == 1 else info.shape[0]
    held: list[Any] = []  # the tensor while its rows are read: a quantised source expands all of it

    def read(start: int, stop: int) -> Floats:
        view = held[0] if held else weights.array(name)
        held[:] = [view] if stop < last else []
        if view.ndim == 1:
            part = (view if order is None else view[order])[None]
        else:
            part = view[start:stop] if order is None else view[order[start:stop]]
        if short:
            return (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float32)

    return read


def _gguf_jobs(opened: Source, file: GgufFile, plan: Plan) -> Iterator[_Job]:
    """The tensors of a GGUF file in its order; rows stay in the order in which they are stored."""
    known = {tensor.name: tensor for tensor in opened.spec.tensors()}
    for name, stored in file.tensors.items():
        kind = stored.type.name
        if name in known and len(stored.shape) > 1:
            kind = plan.type(known[name].role, known[name].layer, stored.shape, name, kind)
        rows = file.rows(name)

        def read(start: int, stop: int, rows: Bytes = rows, kind: Any = stored.type) -> Floats:
            return expand(rows[start:stop], kind)

        def raw(start: int, stop: int, rows: Bytes = rows) -> Bytes:
            return rows[start:stop]

        yield _Job(Declared(name, kind, stored.shape), name, read, raw if kind == stored.type.name else None)


def _pieces(
    job: _Job, importance: dict[str, Floats] | None, threads: int | None, opened: Source
) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """(rows, their bytes) of a tensor, slice by slice. LoadError for a weight that is not finite or does not fit."""
    step = max(1, SLICE // max(1, job.columns))
    weights = None if importance is None else importance.get(job.declared.name)
    for start in range(0, job.rows, step):
        stop = min(start + step, job.rows)
        if job.raw is not None:
            yield stop - start, job.raw(start, stop)
            continue
        try:
            rows = job.read(start, stop)
            blocks = quantize_rows(rows, job.declared.type, weights, threads=threads, first=start)
        except ValueError as error:
            raise LoadError(str(error), file=opened.path, field=job.source) from None
        yield stop - start, blocks


def _check_importance(
    importance: dict[str, Floats] | None, jobs: list[_Job], path: str | os.PathLike[str] | None
) -> list[str]:
    """Notes on matrices without importance; LoadError for one of another width, or when no name is known."""
    if importance is None:
        return []
    shapes = {job.declared.name: job.declared.shape for job in jobs if len(job.declared.shape) > 1}
    for name, values in importance.items():
        if name in shapes and len(values) != shapes[name][-1]:
            message = f"has {len(values)} columns, but the matrix {shapes[name][-1]}"
            raise LoadError(message, file=path, field=name)
    if not importance.keys() & shapes.keys():
        raise LoadError("knows none of the model's matrices: it is of another model", file=path)
    lacking = [name for name in shapes if name not in importance and name != NAMES.embed]
    return [f"no importance is known for {len(lacking)} matrices, as {lacking[0]}"] if lacking else []


def _metadata(
    opened: Source, plan: Plan, tokenizer: bool, importance: str | os.PathLike[str] | None
) -> tuple[dict[str, Value], list[str]]:
    notes: list[str] = []
    if isinstance(opened.weights, GgufWeights):
        file = opened.weights.file
        left_out = ("general.alignment", "general.file_type", "general.quantization_version", "quantize.imatrix.")
        pairs = {
            key: value_of(value, file.types[key])
            for key, value in file.metadata.items()
            if not key.startswith(left_out) and (tokenizer or not key.startswith("tokenizer."))
        }
        coarse = sorted({t.type.name for t in file.tensors.values()} - {"F32", "F16", "BF16"})
        if coarse:
            notes.append(_TWICE.format(", ".join(coarse)))
    else:
        pairs, notes = metadata(opened.spec, opened.generation, opened.path, opened.path.resolve().name)
        if isinstance(opened.weights, QuantisedWeights):
            notes.append(_TWICE.format(opened.weights.scheme))
        made = opened.tokenizer() if tokenizer else None
        if made is not None:
            ends = opened.generation.eos_ids or opened.spec.eos_ids
            found, more = tokenizer_metadata(made, opened.spec.vocabulary, ends, opened.path)
            pairs |= found
            notes += more
        else:
            notes.append("the file has no tokenizer")
            pairs["tokenizer.ggml.model"] = Value("STRING", "none")
    pairs["general.file_type"] = Value("UINT32", plan.file_type)
    pairs["general.quantization_version"] = Value("UINT32", 2)
    if importance is not None:
        pairs["quantize.imatrix.file"] = Value("STRING", Path(importance).name)
    return pairs, notes
