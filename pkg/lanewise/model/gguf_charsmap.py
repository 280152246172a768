"""The table by which a sentencepiece vocabulary normalises characters, checked before a library reads it.

Four bytes of length, a trie of so many bytes as a double array of 32-bit units (Darts: bits 0-7 the label, 8 whether a
value follows, 9 and 10-30 the offset; bit 31 marks a value), then the replacements, each ended by a NUL.
"""

from __future__ import annotations

import numpy as np

from .gguf import GgufFile
from .gguf_arrays import GgufArray
from .gguf_vocab import error

_NAME = "precompiled_charsmap"
_BYTES = 16 << 20


def check_charsmap(file: GgufFile, found: object) -> bytes:
    """The table's bytes. LoadError unless every walk through the trie stays inside and ends at a replacement."""
    if not isinstance(found, GgufArray) or found.kind not in ("UINT8", "INT8"):
        raise error(file, _NAME, "is not an array of bytes")
    if not 4 <= len(found) <= _BYTES:
        raise error(file, _NAME, f"has {len(found)} bytes, not 4 to {_BYTES}")
    data: bytes = found.numbers().tobytes()
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 4 <= size < len(data) - 4:
        raise error(file, _NAME, f"says that its trie has {size} bytes, which is not possible in {len(data)}")
    units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
    texts = data[4 + size :]
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise error(file, _NAME, f"has replacements that are not UTF-8 (byte {4 + size + failure.start})") from None
    if texts[-1:] != b"\0":
        raise error(file, _NAME, "has a replacement without an end")
    _walk(file, units, texts)
    return data


def _walk(file: GgufFile, units: np.ndarray[tuple[int], np.dtype[np.int64]], texts: bytes) -> None:
    """Every node that can be reached from the root, level by level; each is looked at once."""
    labels = np.arange(1, 256, dtype=np.int64)
    seen = np.zeros(len(units), bool)
    level = _offsets(units[:1])
    while level.size:
        children = (level[:, None] ^ labels).reshape(-1)
        if int(children.max()) >= len(units):
            raise error(file, _NAME, "has a trie with a node outside of it")
        wanted = np.broadcast_to(labels, (len(level), 255)).reshape(-1)
        children = np.unique(children[(units[children] & (1 << 31 | 0xFF)) == wanted])
        children = children[~seen[children]]
        seen[children] = True
        nodes = units[children]
        level = children ^ _offsets(nodes)
        ends = level[(nodes >> 8 & 1) == 1]
        if ends.size:
            if int(ends.max()) >= len(units):
                raise error(file, _NAME, "has a trie with a value outside of it")
            values = units[ends] & (1 << 31) - 1
            if int(values.max()) >= len(texts):
                raise error(file, _NAME, "has a trie whose value lies behind the replacements")
            if (np.frombuffer(texts, np.uint8)[values] & 0xC0 == 0x80).any():
                raise error(file, _NAME, "has a trie whose value lies inside a character")
        level = np.unique(level)


def _offsets(units: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return (units >> 10 & (1 << 21) - 1) << ((units & (1 << 9)) >> 6)
