"""Malformed GGUF files, made here and nowhere stored: `python tests/corpus/make.py FOLDER` writes them out.

A case is a small model with one thing wrong (or, for a control, nothing), the error that has to come, and the field
that its message has to name. The plain model is a Llama of one layer with a sentencepiece vocabulary of eight tokens.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lanewise.errors import LoadError

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
_PLAIN = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q",
          F64: "<d"}  # fmt: skip
TOP = 2**64 - 1
TOKENS = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a"]
T = "tokenizer.ggml."


@dataclass(frozen=True)
class Case:
    """field: what the message names; error None: a control, which has to load. tail: length of a hole behind."""

    data: Callable[[], bytes]
    field: str | None
    error: type[Exception] | None = LoadError
    tail: int = 0

    def write(self, path: Path) -> Path:
        with open(path, "wb") as file:
            file.write(self.data())
            file.truncate(file.tell() + self.tail)
        return path


def u32(n: int) -> bytes:
    return struct.pack("<I", n & 0xFFFFFFFF)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n & TOP)


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw) if length is None else length) + raw


def array(kind: int, values: list[Any], length: int | None = None) -> bytes:
    body = b"".join(text(v) if kind == STR else struct.pack(_PLAIN[kind], v) for v in values)
    return u32(kind) + u64(len(values) if length is None else length) + body


def value(kind: int, v: Any) -> bytes:
    """The type and a value; bytes are taken as they are."""
    if isinstance(v, bytes):
        return u32(kind) + v
    return u32(kind) + (text(v) if kind == STR else struct.pack(_PLAIN[kind], v))


@dataclass
class Tensor:
    """dims as in the file: the inner one first. data: zeros if None."""

    name: str | bytes
    dims: list[int]
    kind: int = 0
    nbytes: int = 0
    offset: int | None = None
    data: bytes | None = None
    rank: int | None = None
    name_length: int | None = None


@dataclass
class Gguf:
    """A file to be: pairs are (key, type and value); what is None is computed."""

    pairs: list[tuple[str | bytes, bytes]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_pairs: int | None = None
    alignment: int = 32
    cut: int = 0

    def head(self) -> bytes:
        out = [self.magic, u32(self.version)]
        out += [u64(len(self.tensors) if self.n_tensors is None else self.n_tensors)]
        out += [u64(len(self.pairs) if self.n_pairs is None else self.n_pairs)]
        out += [text(key) + v for key, v in self.pairs]
        at = 0
        for t in self.tensors:
            offset = at if t.offset is None else t.offset
            dims = b"".join(u64(n) for n in t.dims)
            rank = len(t.dims) if t.rank is None else t.rank
            out += [text(t.name, t.name_length), u32(rank), dims, u32(t.kind), u64(offset)]
            at += -(-t.nbytes // self.alignment) * self.alignment
        return b"".join(out)

    def build(self) -> bytes:
        out = bytearray(self.head())
        if self.tensors:
            out += bytes(-len(out) % self.alignment)
        for t in self.tensors:
            out += (t.data or bytes(t.nbytes)) + bytes(-t.nbytes % self.alignment)
        return bytes(out[: len(out) - self.cut])


def f32(name: str, *dims: int) -> Tensor:
    n = 4
    for d in dims:
        n *= d
    data = b"".join(struct.pack("<f", (i * 7 % 13 - 6) / 8) for i in range(n // 4)) if n < 1 << 16 else None
    return Tensor(name, list(dims), 0, n, data=data)


def layer(i: int) -> list[Tensor]:
    b = f"blk.{i}."
    return [
        f32(f"{b}attn_norm.weight", 8), f32(f"{b}attn_q.weight", 8, 8), f32(f"{b}attn_k.weight", 8, 4),
        f32(f"{b}attn_v.weight", 8, 4), f32(f"{b}attn_output.weight", 8, 8), f32(f"{b}ffn_norm.weight", 8),
        f32(f"{b}ffn_gate.weight", 8, 12), f32(f"{b}ffn_up.weight", 8, 12), f32(f"{b}ffn_down.weight", 12, 8),
    ]  # fmt: skip


def plain() -> Gguf:
    """The sound model."""
    pairs = {
        "general.architecture": value(STR, "llama"), "general.alignment": value(U32, 32),
        "llama.vocab_size": value(U32, 8), "llama.context_length": value(U32, 64),
        "llama.embedding_length": value(U32, 8), "llama.block_count": value(U32, 1),
        "llama.feed_forward_length": value(U32, 12), "llama.attention.head_count": value(U32, 2),
        "llama.attention.head_count_kv": value(U32, 1), "llama.rope.dimension_count": value(U32, 4),
        "llama.attention.layer_norm_rms_epsilon": value(F32, 1e-5), "llama.rope.freq_base": value(F32, 10000.0),
        f"{T}model": value(STR, "llama"), f"{T}tokens": value(ARR, array(STR, TOKENS)),
        f"{T}scores": value(ARR, array(F32, [0, 0, 0, -3, -4, -5, -2, -1])),
        f"{T}token_type": value(ARR, array(I32, [2, 3, 3, 1, 1, 1, 1, 1])),
        f"{T}bos_token_id": value(U32, 1), f"{T}eos_token_id": value(U32, 2),
    }  # fmt: skip
    return Gguf(list(pairs.items()), [f32("token_embd.weight", 8, 8), f32("output_norm.weight", 8), *layer(0)])


def having(**changes: bytes | None) -> Gguf:
    """The plain model with keys (dots written as __, a leading T for tokenizer.ggml) set, or left out if None."""
    made = plain()
    found = dict(made.pairs)
    for name, v in changes.items():
        key = T + name[2:] if name.startswith("T_") else name.replace("__", ".")
        found.pop(key, None)
        if v is not None:
            found[key] = v
    return replace(made, pairs=list(found.items()))


def extra(key: str | bytes, v: bytes, count: int = 1) -> Gguf:
    """The plain model with a pair more, at the end."""
    made = plain()
    return replace(made, pairs=[*made.pairs, *[(key, v)] * count])


def with_tensor(**changes: Any) -> Gguf:
    """The plain model with a tensor more, named x, F32 of 8 numbers but for the changes."""
    made = plain()
    made.tensors.append(replace(Tensor("x", [8], 0, 32), **changes))
    return made


def changed(name: str, **changes: Any) -> Gguf:
    """The plain model with one tensor changed."""
    made = plain()
    made.tensors = [replace(t, **changes) if t.name == name else t for t in made.tensors]
    return made


def cases() -> Iterator[tuple[str, Case]]:
    """Every case by name, all files."""
    from corpus import header, meaning

    yield from header.cases()
    yield from meaning.cases()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in cases():
        case.write(folder / f"{name.replace(' ', '_').replace('/', '_')}.gguf")
