"""Mutations that know where the numbers of a GGUF file and the values of a JSON text lie, so that what is behind an
altered field is still reached. Anything that cannot be parsed is left to libFuzzer's own mutations."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass, field
from typing import Any

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 2**15, 2**16 - 1, 2**16, 2**20,
           2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 32,
           2**64 - 1]  # fmt: skip
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-5, 1e4, 1e30, -1e30, 1e308, float("inf"), float("-inf"), float("nan")]
TEXTS = ["", "a", "<unk>", "<0x41>", "<0xZZ>", "▁", "▁a b", "\0", "\ud7ff", "k" * 63, "k" * 70, "llama", "qwen2",
         "gpt2", "bert", "t5", "default", "{{ messages }}", "{% for x in y %}", "a b", "a  b",
         "\U0010ffff"]  # fmt: skip


@dataclass
class Places:
    """Where things lie in a GGUF file, as far as it can be walked. numbers: (at, bytes)."""

    numbers: list[tuple[int, int]] = field(default_factory=list)
    texts: list[tuple[int, int]] = field(default_factory=list)  # of the length, of the end
    pairs: list[tuple[int, int]] = field(default_factory=list)
    tensors: list[tuple[int, int]] = field(default_factory=list)
    end: int = 24
    whole: bool = False


def places(data: bytes) -> Places:
    found = Places()
    try:
        _walk(data, found)
        found.whole = True
    except (struct.error, IndexError):
        pass
    return found


def _walk(data: bytes, found: Places) -> None:
    n_tensors, n_pairs = struct.unpack_from("<QQ", data, 8)
    found.numbers += [(4, 4), (8, 8), (16, 8)]
    at = 24

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(data):
            raise IndexError
        found.numbers.append((at, size))
        at += size
        return int.from_bytes(data[at - size : at], "little")

    def text() -> None:
        nonlocal at
        start = at
        length = number(8)
        if length > len(data) - at:
            raise IndexError
        at += length
        found.texts.append((start, at))

    for _ in range(min(n_pairs, 200)):
        start = at
        text()
        kind = number(4)
        if kind == 9:
            kind, count = number(4), number(8)
            for _ in range(min(count, 1000)):
                text() if kind == 8 else number(SIZES.get(kind, 1 << 60))
        elif kind == 8:
            text()
        else:
            number(SIZES.get(kind, 1 << 60))
        found.pairs.append((start, at))
        found.end = at
    for _ in range(min(n_tensors, 200)):
        start = at
        text()
        for _ in range(min(number(4), 8)):
            number(8)
        number(4), number(8)
        found.tensors.append((start, at))
        found.end = at


def gguf(data: bytes, rng: random.Random) -> bytes | None:
    """A changed file, or None if there is nothing to hold on to."""
    if len(data) < 24 or data[:4] != b"GGUF":
        return None
    at = places(data)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        move = rng.random()
        if move < 0.6 and at.numbers:
            where, size = rng.choice(at.numbers)
            _set(out, where, size, at, rng)
        elif move < 0.75 and at.texts:
            start, stop = rng.choice(at.texts)
            other = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
            if rng.random() < 0.3 and at.texts:
                low, high = rng.choice(at.texts)
                other = bytes(data[low + 8 : high])
            return _spliced(bytes(out), at, start, stop, struct.pack("<Q", len(other)) + other)
        elif move < 0.95 and (at.pairs or at.tensors):
            return _entries(out, at, rng)
        else:
            cut = rng.randrange(len(out))
            del out[cut:]
            break
    return bytes(out)


def _set(out: bytearray, where: int, size: int, at: Places, rng: random.Random) -> None:
    old = int.from_bytes(out[where : where + size], "little")
    kind = rng.random()
    if kind < 0.4:
        value = rng.choice(NUMBERS)
    elif kind < 0.6:
        value = old + rng.choice((-32, -8, -1, 1, 8, 32))
    elif kind < 0.7:
        value = rng.choice((len(out), len(out) - where, len(out) - at.end)) + rng.choice((-1, 0, 1))
    elif kind < 0.8:
        other, wide = rng.choice(at.numbers)
        value = int.from_bytes(out[other : other + wide], "little")
    elif kind < 0.9 and size in (4, 8):
        try:
            packed = struct.pack("<f" if size == 4 else "<d", rng.choice(FLOATS))
        except OverflowError:
            packed = struct.pack("<f", 3e38)
        value = int.from_bytes(packed, "little")
    else:
        value = rng.randrange(48)  # a type
    out[where : where + size] = (value % (1 << (8 * size))).to_bytes(size, "little")


def _entries(out: bytearray, at: Places, rng: random.Random) -> bytes:
    """A pair or a tensor dropped, doubled or moved, the count following it most of the time."""
    group, count = (at.pairs, 16) if at.pairs and (rng.random() < 0.6 or not at.tensors) else (at.tensors, 8)
    start, stop = rng.choice(group)
    entry = bytes(out[start:stop])
    change = rng.choice((-1, 1, 0))
    if rng.random() < 0.9:
        out[count : count + 8] = struct.pack("<Q", (struct.unpack_from("<Q", out, count)[0] + change) % 2**64)
    if change < 0:
        return _spliced(bytes(out), at, start, stop, b"")
    if change > 0:
        into = rng.choice(group)[0]
        return _spliced(bytes(out), at, into, into, entry)
    low, high = rng.choice(group)
    if low > start:
        (start, stop), (low, high) = (low, high), (start, stop)
    if low == start:
        return bytes(out)
    first, second = bytes(out[low:high]), bytes(out[start:stop])
    return _spliced(bytes(out), at, low, stop, second + bytes(out[high:start]) + first)


def _spliced(data: bytes, at: Places, start: int, stop: int, new: bytes) -> bytes:
    """`new` in place of start:stop of the header; the tensors' data follow it at the next multiple of 32."""
    head = data[:start] + new + data[stop : at.end]
    if not at.whole:
        return head + data[at.end :]
    return head + bytes(-len(head) % 32) + data[at.end + -at.end % 32 :]


# ---- JSON ----


def tree(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A changed copy of parsed JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        found = dict(value)
        key = rng.choice(list(found))
        move = rng.random()
        if move < 0.7:
            found[key] = tree(found[key], rng, depth + 1)
        elif move < 0.8:
            del found[key]
        elif move < 0.9:
            found[rng.choice([*found, rng.choice(TEXTS)])] = found[key]
        else:
            found[rng.choice(TEXTS)] = found.pop(key)
        return found
    if isinstance(value, list) and value and rng.random() < 0.8:
        items = list(value)
        i = rng.randrange(len(items))
        move = rng.random()
        if move < 0.6:
            items[i] = tree(items[i], rng, depth + 1)
        elif move < 0.75:
            del items[i]
        elif move < 0.9:
            items.insert(i, items[rng.randrange(len(items))])
        else:
            items *= 3
        return items
    return _value(value, rng)


def _value(value: Any, rng: random.Random) -> Any:
    move = rng.random()
    if type(value) is int and move < 0.4:
        return value + rng.choice((-32, -8, -1, 1, 8, 32))
    if type(value) is int and move < 0.5:
        return -value
    if type(value) is bool and move < 0.4:
        return not value
    kinds = (rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), None, True, False, [], {}, [value],
             {"a": value}, -1, -rng.choice(NUMBERS), float(rng.choice(NUMBERS)))  # fmt: skip
    return rng.choice(kinds)


def text(data: bytes, rng: random.Random) -> bytes | None:
    """A changed JSON text; None if it cannot be parsed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = tree(value, rng)
    made = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    if rng.random() < 0.05 and b'":' in made:  # a key twice
        cut = made.index(b'":')
        start = made.rindex(b'"', 0, cut)
        made = made[:start] + made[start:cut] + b'":0,' + made[start:]
    return made


def safetensors(data: bytes, rng: random.Random) -> bytes | None:
    """A changed file: mostly its header, whose length follows most of the time."""
    if len(data) < 8:
        return None
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], bytearray(data[8 + length :])
    move = rng.random()
    if move < 0.1:
        return rng.choice(NUMBERS).to_bytes(8, "little") + data[8:]
    if move < 0.2 and body:
        body[rng.randrange(len(body))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        return data[: 8 + length] + bytes(body)
    if move < 0.25:
        return data[: rng.randrange(len(data))] if rng.random() < 0.5 else data + bytes(rng.randrange(1, 64))
    made = text(header, rng)
    if made is None:
        return None
    if rng.random() < 0.5:
        made, body = _placed(made, body)
    return len(made).to_bytes(8, "little") + made + bytes(body)


def _placed(header: bytes, body: bytearray) -> tuple[bytes, bytearray]:
    """The offsets made to follow each other, and the data to have their length, where the header allows it."""
    widths = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4,
              "F32": 4, "I64": 8, "F64": 8}  # fmt: skip
    value = json.loads(header)
    if not isinstance(value, dict):
        return header, body
    at = 0
    for name, entry in value.items():
        if name == "__metadata__" or not isinstance(entry, dict):
            continue
        size, shape = widths.get(str(entry.get("dtype")), 1), entry.get("shape")
        for n in shape if isinstance(shape, list) else []:
            size *= n if type(n) is int and 0 <= n < 1 << 16 else 1
        size = min(size, 1 << 14)
        entry["data_offsets"] = [at, at + size]
        at += size
    body = (body + bytes(max(0, at - len(body))))[:at]
    return json.dumps(value).encode(), body
