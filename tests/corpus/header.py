"""Cases of the container: header, pairs, table of tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from corpus.make import (  # fmt: skip
    ARR,
    BOOL,
    I32,
    STR,
    TOP,
    U32,
    U64,
    Case,
    Gguf,
    Tensor,
    array,
    extra,
    f32,
    having,
    plain,
    text,
    u32,
    u64,
    value,
    with_tensor,
)


def cases() -> Iterator[tuple[str, Case]]:
    yield from _header()
    yield from _pairs()
    yield from _tensors()
    yield from _places()


def _sound(made: Gguf) -> Case:
    return Case(made.build, None, None)


def _header() -> Iterator[tuple[str, Case]]:
    yield "G00 sound", _sound(plain())
    yield "G00 sound, version 2", _sound(replace(plain(), version=2))
    yield "G01 empty", Case(bytes, "header")
    whole = plain().build()
    for n in range(1, 24):
        yield f"G02 {n} bytes", Case(lambda n=n: whole[:n], "header")  # type: ignore[misc]
    yield "G03 GGML", Case(replace(plain(), magic=b"GGML").build, "header")
    yield "G03 FUGG", Case(replace(plain(), magic=b"FUGG").build, "header")
    for name, version in (("G04", 0), ("G05", 1), ("G06", 4), ("G07 big endian", 3 << 24)):
        yield f"{name} version {version}", Case(replace(plain(), version=version).build, "version")
    yield "G08 tensors 2^64-1", Case(replace(plain(), n_tensors=TOP).build, "tensor_count")
    yield "G09 tensors 2^40", Case(Gguf(n_tensors=2**40).build, "tensor_count")
    yield "G09 tensors 60,000 in 24 bytes", Case(Gguf(n_tensors=60_000).build, "tensor_count")
    yield "G10 keys 2^63", Case(replace(plain(), n_pairs=2**63).build, "metadata_kv_count")
    yield "G11 keys 10^9", Case(replace(plain(), n_pairs=10**9).build, "metadata_kv_count")
    yield "G12 nothing in it", Case(Gguf().build, "general.architecture")
    yield "G12 no tensors", Case(replace(plain(), tensors=[]).build, "token_embd.weight")


def _pairs() -> Iterator[tuple[str, Case]]:
    def raw(key: bytes) -> Gguf:
        """A first key whose bytes, length included, are given."""
        return _Raw(Gguf(n_pairs=1).head() + key + value(U32, 1) + bytes(64))

    last = "key 18"
    yield "K01 key of 0 bytes", Case(extra("", value(U32, 1)).build, last)
    yield "K02 key of 2^64-1 bytes", Case(raw(u64(TOP)).build, "key 0")
    yield "K03 key of 65,536 bytes", Case(extra("k" * 65536, value(U32, 1)).build, last)
    yield "K03 key of 65,535 bytes", _sound(extra("k" * 65535, value(U32, 1)))
    yield "K04 key beyond the end", Case(raw(u64(1000) + b"k").build, "key 0")
    yield "K05 key not UTF-8", Case(extra(b"\xff\xfe", value(U32, 1)).build, last)
    yield "K06 key with NUL", Case(extra("a\0b", value(U32, 1)).build, last)
    yield "K07 key twice", Case(extra("a", value(U32, 1), 2).build, "a")
    yield "K07 key twice, of the model", Case(extra("llama.block_count", value(U32, 1)).build, "llama.block_count")
    yield "K08 5,000,000 keys", Case(lambda: _many_keys(5_000_000), "metadata_kv_count", tail=85_000_000)
    yield "K08 65,536 keys", Case(lambda: _many_keys(65_536), "general.architecture")
    yield "K09 type 13", Case(extra("x", value(13, bytes(8))).build, "x")
    yield "K10 type -1", Case(extra("x", value(-1, bytes(8))).build, "x")
    yield "K11 bool 2", Case(extra("x", value(BOOL, 2)).build, "x")
    yield "K12 string of 2^64-1", Case(extra("x", value(STR, text("a", TOP))).build, "x")
    yield "K13 string one too long", Case(_one_too_long, "x")
    yield "K13 string not UTF-8", Case(extra("x", value(STR, text(b"\xc3("))).build, "x")
    nested = array(ARR, [], 1) + array(U32, [1])
    yield "K14 nested array", Case(extra("x", value(ARR, nested)).build, "x")
    yield "K15 nested twice", Case(extra("x", value(ARR, array(ARR, [], 1) + nested)).build, "x")
    yield "K16 nested 10,000 deep", Case(extra("x", value(ARR, array(ARR, [], 1) * 10_000 + nested)).build, "x")
    yield "K17 array of 2^63 in 43 bytes", Case(_Raw(Gguf(n_pairs=1).head()[:24] + text("x")[:9] + u32(ARR) + u32(STR)
                                                     + u64(2**63)[:6]).build, "x")  # fmt: skip
    yield "K17 array of 2^63", Case(extra("x", value(ARR, array(U32, [1], 2**63))).build, "x")
    yield "K18 length wraps to 4 bytes", Case(extra("x", value(ARR, array(U32, [1], 2**62 + 1))).build, "x")
    yield "K18 over the limit", Case(extra("x", value(ARR, array(BOOL, [1], 16_777_217))).build, "x")
    long = array(U64, [2**40] * 4).replace(u32(U64), u32(STR), 1)
    yield "K19 strings of 2^40", Case(extra("x", value(ARR, long)).build, "x")
    yield "K20 array of 0", _sound(extra("x", value(ARR, array(U32, []))))
    yield "K20 array of 0 strings", _sound(extra("x", value(ARR, array(STR, []))))
    yield "K21 more strings than bytes", Case(extra("x", value(ARR, array(STR, ["a"], 1 << 20))).build, "x")
    strange = array(U32, [1]).replace(u32(U32), u32(77), 1)
    yield "K21 array of unknown type", Case(extra("x", value(ARR, strange)).build, "x")
    kinds = [(0, U32), (3, U32), (13, U32), (2**31, U32), (2**63, U64), (32, I32), ("32", STR), (2**21, U32)]
    for i, (n, kind) in enumerate(kinds):
        made = having(general__alignment=value(kind, n))
        yield f"K{22 + i} alignment {n} of type {kind}", Case(made.build, "general.alignment")
    yield "K30 alignment twice", Case(extra("general.alignment", value(U32, 32)).build, "general.alignment")
    for alignment in (1, 8, 4096):
        made = replace(having(general__alignment=value(U32, alignment)), alignment=alignment)
        yield f"K31 alignment {alignment}", _sound(made)


class _Raw(Gguf):
    """Bytes as they are."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    def build(self) -> bytes:
        return self.body


def _many_keys(count: int) -> bytes:
    """So many keys promised, 65,536 written."""
    keys = b"".join(u64(4) + struct.pack("<I", 0x21212121 + (i % 90) + (i // 90 % 90 << 8) + (i // 8100 << 16))
                   + u32(0) + b"\1" for i in range(65_536))  # fmt: skip
    return b"GGUF" + u32(3) + u64(0) + u64(count) + keys


def _one_too_long() -> bytes:
    made = Gguf([("x", value(STR, text("abc", 4)))])
    return made.build()


def _tensors() -> Iterator[tuple[str, Case]]:
    last = "tensor 11"
    yield "T01 name of 64 bytes", Case(with_tensor(name="n" * 64).build, last)
    yield "T02 name of 2^32 bytes", Case(with_tensor(name_length=2**32).build, last)
    yield "T03 name of 0 bytes", Case(with_tensor(name="").build, last)
    yield "T04 name twice", Case(with_tensor(name="output_norm.weight").build, "output_norm.weight")
    yield "T05 name with NUL", Case(with_tensor(name="a\0b").build, last)
    yield "T05 name not UTF-8", Case(with_tensor(name=b"\xff").build, last)
    for n in (0, 5, 2**32 - 1):
        yield f"T06 {n} dimensions", Case(with_tensor(rank=n, dims=[1] * min(n, 5)).build, "x")
    for name, dims in {
        "T09 dim -1": [-1], "T10 dim 0": [0], "T11 dim 2^63-1": [2**63 - 1], "T12 product 2^63": [2**32, 2**31],
        "T13 product wraps to 4 MB": [2**32, 2**32, 2**20 + 0], "T13 wraps to 0": [2**32, 2**32],
        "T14 row of 2^62-1": [2**62 - 1], "T14 overflow beside a zero": [2**62, 2**62, 0],
        "T14 2^63 beside a zero": [2**63, 0],
    }.items():  # fmt: skip
        yield name, Case(with_tensor(dims=dims, nbytes=32).build, "x")
    yield "T14 bytes overflow beside a zero", Case(with_tensor(dims=[0, 2**60], nbytes=0).build, "x")
    huge = with_tensor(dims=[0x7FFFFFFFFFFFFFC0], kind=24)
    huge.tensors.append(replace(huge.tensors[-1], name="y", offset=0x7FFFFFFFFFFFFFC0))
    yield "T15 sizes whose sum wraps", Case(huge.build, "x")
    for kind, n in ((2, 33), (8, 16), (12, 128), (14, 288), (39, 31)):
        yield f"T16 type {kind} in rows of {n}", Case(with_tensor(dims=[n], kind=kind, nbytes=400).build, "x")
    for kind in (255, 2**32 - 1, 42):
        yield f"T18 type {kind}", Case(with_tensor(kind=kind).build, "x")
    for kind in (4, 5, 31, 32, 33, 36, 37, 38):
        yield f"T19 removed type {kind}", Case(with_tensor(kind=kind).build, "x")


def _places() -> Iterator[tuple[str, Case]]:
    size = len(plain().build())
    yield "T27 offset unaligned", Case(with_tensor(offset=8).build, "x")
    yield "T28 offset 2^64-1", Case(with_tensor(offset=TOP).build, "x")
    yield "T28 offset 2^64-32", Case(with_tensor(offset=TOP - 31).build, "x")
    yield "T29 offset and size wrap", Case(with_tensor(offset=2**63, dims=[2**61]).build, "x")
    yield "T30 offset is the file's size", Case(with_tensor(offset=-(-size // 32) * 32).build, "x")
    yield "T31 offset beyond the file", Case(with_tensor(offset=2**40).build, "x")
    one = replace(having(general__alignment=value(U32, 1)), alignment=1)
    total = sum(t.nbytes for t in one.tensors)
    overlap = replace(one, tensors=[*one.tensors, Tensor("x", [8], 0, 32, offset=total - 1)])
    yield "T32 overlap by a byte", Case(overlap.build, "x")
    same = [Tensor(f"t{i}", [8], 0, 0, offset=0) for i in range(60_000)]
    yield "T33 60,000 tensors in one place", Case(lambda: replace(plain(), tensors=same).build() + bytes(64), "t1")
    more = [replace(t, name=f"u{i}") for i, t in enumerate(same[:50_000])]
    yield "T33 110,000 tensors", Case(lambda: replace(plain(), tensors=same + more).build() + bytes(64), "tensor_count")
    yield "T34 hole", Case(with_tensor(offset=sum(t.nbytes for t in plain().tensors) + 64, nbytes=128).build, "x")
    yield "T35 cut by a byte", Case(replace(plain(), cut=1).build, "blk.0.ffn_down.weight")
    yield "T35 cut by half", Case(replace(plain(), cut=900).build, "")
    yield "T36 a byte behind", Case(lambda: plain().build() + b"\0", "blk.0.ffn_down.weight")
    yield "T36 1 GiB behind", Case(plain().build, "blk.0.ffn_down.weight", tail=1 << 30)
    yield "T37 tensors in another order", _sound(_shuffled())


def _shuffled() -> Gguf:
    """Offsets are those of the data, which the table names backwards."""
    made, at = plain(), 0
    for t in made.tensors:
        t.offset = at
        at += -(-t.nbytes // 32) * 32
    data = b"".join((t.data or b"") + bytes(-t.nbytes % 32) for t in made.tensors)
    head = replace(made, tensors=made.tensors[::-1]).head()
    return _Raw(head + bytes(-len(head) % 32) + data)


__all__ = ["cases", "f32"]
