"""Reader of GGUF files: mapped, zero-copy, and checked as a whole before the first tensor is touched.

The format (ggml/docs/gguf.md; versions 2 and 3, little endian): magic, version, two counts; the metadata, pairs of a
key and a typed value; what each tensor is called, its dimensions, its type and offset; the tensors' bytes, each start
aligned, to the end of the file. Limits beyond the format's own are the constants below. Numbers from the file are
Python integers here, so that no sum or product of them can wrap. A file that shrinks while it is mapped cannot be
guarded against: the system then stops the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import LoadError, UnsupportedError, shorten
from .gguf_arrays import ARRAY, BOOL, STRING, VALUES, GgufArray, string_ends
from .gguf_fields import Bytes
from .gguf_types import REMOVED, TYPES, TensorType, expand

MAGIC = b"GGUF"
TENSORS = 65_536
KEYS = 65_536
KEY_BYTES = 65_535
STRING_BYTES = 64 << 20
ARRAY_LENGTH = 16_777_216
NAME_BYTES = 63
RANK = 4
ELEMENTS = 2**60 - 1  # of 8 bytes at most, so that the bytes, too, stay below 2^63
ALIGNMENT = 1 << 20
METADATA_BYTES = 512 << 20  # of keys and strings, which are decoded when the file is opened; arrays are not
_HEADER = 24
_WINDOW, _FEW = 1 << 20, 64  # bytes in which the ends of strings are looked for at once, and for how many it pays
_ALIGNMENT_KEY = "general.alignment"

_FORMATS = {"u1": "<B", "i1": "<b", "<u2": "<H", "<i2": "<h", "<u4": "<I", "<i4": "<i", "<f4": "<f", "<u8": "<Q",
            "<i8": "<q", "<f8": "<d"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies: `start` counts bytes from the beginning of the file. shape: rows first, as NumPy has it."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    nbytes: int
    start: int


class GgufFile:
    """One open file. metadata: key -> a number, bool, str or GgufArray; types: key -> the name of its type."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # before opening, which waits at a pipe
                raise LoadError("is not a regular file", file=path)
            with open(path, "rb") as file:
                self.status = os.fstat(file.fileno())
                self.size = self.status.st_size
                if self.size < _HEADER:
                    message = f"has {self.size} bytes, too few for a header of {_HEADER}"
                    raise LoadError(message, file=path, field="header")
                self.map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise LoadError(f"cannot be opened ({error.strerror})", file=path) from None
        self.metadata: dict[str, Any] = {}
        self.types: dict[str, str] = {}
        self.tensors: dict[str, GgufTensor] = {}
        self.vocabulary: Any = None  # gguf_vocab keeps it here from when the spec is read to when the tokenizer is
        try:
            _Parser(self).read()
        except BaseException:
            self.map.close()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def tensor(self, name: str) -> GgufTensor:
        """What the file says of `name`. LoadError when there is none."""
        if name not in self.tensors:
            raise LoadError("there is no such tensor", file=self.path, field=name)
        return self.tensors[name]

    def rows(self, name: str) -> Bytes:
        """The tensor's bytes, a row after another: a read-only view uint8[rows, bytes of a row] of the file."""
        tensor = self.tensor(name)
        raw = np.frombuffer(self.map, np.uint8, tensor.nbytes, tensor.start)
        width = tensor.shape[-1] // tensor.type.block * tensor.type.size
        return raw.reshape(-1, width) if width else raw.reshape(int(np.prod(tensor.shape[:-1])), 0)

    def array(self, name: str, order: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """The tensor as numbers, in its shape; `order` says which row comes where.

        Types of plain numbers come as a read-only view of the file (BF16 as uint16) unless there is an order, all
        others expanded to float32. LoadError when there is no such tensor; UnsupportedError for a type that is not
        expanded.
        """
        tensor, rows = self.tensor(name), self.rows(name)
        if tensor.type.view is not None:
            return (rows if order is None else rows[order]).view(tensor.type.view).reshape(tensor.shape)
        if tensor.type.values is None:
            raise UnsupportedError(f"tensors of type {tensor.type.name} cannot be read", file=self.path, field=name)
        return expand(rows, tensor.type, order).reshape(tensor.shape)

    def release(self, name: str) -> None:
        """Tell the system that the pages which hold only `name` are not needed now (see safetensors.Weights)."""
        tensor = self.tensor(name)
        first = -(-tensor.start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (tensor.start + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Unmap the file (if arrays still look at it: when the last one goes)."""
        with contextlib.suppress(BufferError):
            self.map.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Map a GGUF file and check all of its header. LoadError names file and key or tensor; nothing stays open then."""
    return GgufFile(Path(path))


class _Parser:
    """Walks the header once, from front to back. `field` is what is being read, for messages."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.map, self.size = file, file.map, file.size
        self.at = 0
        self.field = "header"
        self.heap = 0

    def read(self) -> None:
        n_tensors, n_keys = self.header()
        for i in range(n_keys):
            self.pair(i)
        alignment = self.alignment()
        offsets: dict[str, int] = {}
        for i in range(n_tensors):
            self.tensor(i, offsets, alignment)
        self.place(offsets, alignment)

    # ---- pieces ----

    def error(self, message: str, at: int | None = None) -> LoadError:
        where = "" if at is None else f" (at byte {at})"
        return LoadError(message + where, file=self.file.path, field=self.field)

    def take(self, n: int, what: str) -> int:
        """Go over n bytes; where they start."""
        at = self.at
        if n > self.size - at:
            raise self.error(f"{what} needs {n} bytes, but only {self.size - at} are left", at)
        self.at += n
        return at

    def number(self, format: str, what: str) -> Any:
        return struct.unpack_from(format, self.map, self.take(struct.calcsize(format), what))[0]

    def text(self, what: str, low: int, high: int) -> str:
        """A string of low to high bytes, UTF-8, without NUL."""
        begin = self.at
        length = self.number("<Q", f"the length of {what}")
        if not low <= length <= high:
            raise self.error(f"{what} has {length} bytes, not {low} to {high}", begin)
        self.heap += length
        if self.heap > METADATA_BYTES:
            raise self.error(f"keys and strings take over {METADATA_BYTES} bytes", begin)
        at = self.take(length, what)
        try:
            text = self.map[at : at + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", at + error.start) from None
        return text

    # ---- parts ----

    def header(self) -> tuple[int, int]:
        """The counts of tensors and keys."""
        magic = self.map[:4]
        if magic != MAGIC:
            raise self.error(f"does not start with {MAGIC!r} but with {magic!r}: this is no GGUF file", 0)
        self.at = 4
        self.field = "version"
        version = self.number("<I", "the version")
        if version in (1 << 24, 2 << 24, 3 << 24):
            raise self.error("the file is big endian; lanewise reads little endian", 4)
        if version not in (2, 3):
            raise self.error(f"is {version}; lanewise reads versions 2 and 3", 4)
        counts = []
        for self.field, limit, least in (("tensor_count", TENSORS, 24), ("metadata_kv_count", KEYS, 12)):
            at = self.at
            count = self.number("<Q", "the count")
            if count > limit:
                raise self.error(f"is {count}, over the limit of {limit}", at)
            if count * least > self.size - _HEADER:
                raise self.error(f"is {count}, too many for a file of {self.size} bytes", at)
            counts.append(count)
        return counts[0], counts[1]

    def pair(self, i: int) -> None:
        """One key and its value."""
        self.field, begin = f"key {i}", self.at
        key = self.text("the key", 1, KEY_BYTES)
        if "\0" in key:
            raise self.error(f"the key {shorten(key)!r} has a NUL in it", begin)
        self.field = key
        if key in self.file.metadata:
            raise self.error("the key comes twice", begin)
        at = self.at
        kind = self.number("<I", "the type")
        if kind not in VALUES:
            raise self.error(f"the type is {kind}, which is not known", at)
        self.file.types[key] = VALUES[kind][0]
        self.file.metadata[key] = self.array(key) if kind == ARRAY else self.scalar(kind)

    def scalar(self, kind: int) -> Any:
        if kind == STRING:
            return self.text("the string", 0, STRING_BYTES)
        at = self.at
        value = self.number(_FORMATS[VALUES[kind][1]], "the value")
        if kind == BOOL:
            if value > 1:
                raise self.error(f"is a boolean of value {value}, neither 0 nor 1", at)
            return value == 1
        return value

    def array(self, key: str) -> GgufArray:
        """Go over an array; its strings' lengths are checked, nothing is decoded."""
        at = self.at
        kind = self.number("<I", "the type of the elements")
        if kind == ARRAY:
            raise self.error("is an array of arrays, which is not allowed", at)
        if kind not in VALUES:
            raise self.error(f"the type of the elements is {kind}, which is not known", at)
        at = self.at
        length = self.number("<Q", "the length of the array")
        if length > ARRAY_LENGTH:
            raise self.error(f"has {length} elements, over the limit of {ARRAY_LENGTH}", at)
        least = np.dtype(VALUES[kind][1]).itemsize if kind != STRING else 8
        if length * least > self.size - self.at:
            raise self.error(f"has {length} elements, but only {self.size - self.at} bytes are left", at)
        start = self.at
        self.at = start + length * least if kind != STRING else self.skip_strings(length)
        return GgufArray(self.file, key, kind, length, start, self.at)

    def skip_strings(self, count: int) -> int:
        """Where `count` strings end."""
        unpack: Callable[..., tuple[int]] = struct.Struct("<Q").unpack_from
        at, size, data, done = self.at, self.size, self.map, 0
        while count - done > _FEW:
            ends = string_ends(np.frombuffer(data, np.uint8, min(_WINDOW, size - at), at), count - done)
            if not len(ends):
                break
            at, done = at + int(ends[-1]), done + len(ends)
        for i in range(done, count):
            if size - at < 8:
                raise self.error(f"string {i} of {count} begins behind the end of the file", at)
            (length,) = unpack(data, at)
            if length > STRING_BYTES or length > size - at - 8:
                most = min(STRING_BYTES, size - at - 8)
                raise self.error(f"string {i} of {count} has {length} bytes; at most {most} are possible", at)
            at += 8 + length
        return at

    def alignment(self) -> int:
        self.field = _ALIGNMENT_KEY
        if self.field not in self.file.metadata:
            return 32
        value, kind = self.file.metadata[self.field], self.file.types[self.field]
        if kind != "UINT32":
            raise self.error(f"has the type {kind}, not UINT32")
        if not 0 < value <= ALIGNMENT or value & (value - 1):
            raise self.error(f"is {value}, not a power of two up to {ALIGNMENT}")
        return int(value)

    def tensor(self, i: int, offsets: dict[str, int], alignment: int) -> None:
        """One entry of the table of tensors, checked by itself."""
        self.field, begin = f"tensor {i}", self.at
        name = self.text("the name", 1, NAME_BYTES)
        if "\0" in name:
            raise self.error(f"the name {name!r} has a NUL in it", begin)
        self.field = name
        if name in self.file.tensors:
            raise self.error("the name comes twice", begin)
        at = self.at
        rank = self.number("<I", "the number of dimensions")
        if not 1 <= rank <= RANK:
            raise self.error(f"has {rank} dimensions, not 1 to {RANK}", at)
        shape = [self.number("<Q", "a dimension") for _ in range(rank)]
        elements = 1
        for n in shape:
            elements *= n or 1  # a zero must not hide an overflow: NumPy, too, multiplies the others
        if elements > ELEMENTS:
            raise self.error(f"dimensions {shape}: their product is over {ELEMENTS}", at)
        at = self.at
        number = self.number("<I", "the type")
        if number in REMOVED:
            message = f"has type {number} ({REMOVED[number]}), which was removed from the format; convert the file anew"
            raise self.error(message, at)
        if number not in TYPES:
            raise self.error(f"has type {number}, which is not known", at)
        kind = TYPES[number]
        if shape[0] % kind.block:
            raise self.error(f"has rows of {shape[0]}, no whole number of {kind.name} blocks of {kind.block}", at)
        nbytes = 0 if 0 in shape else elements // kind.block * kind.size
        at = self.at
        offset = self.number("<Q", "the offset")
        if offset % alignment:
            raise self.error(f"the offset {offset} is no multiple of the alignment {alignment}", at)
        if max(offset, nbytes) > self.size or offset + nbytes > self.size:
            raise self.error(f"offset {offset} and {nbytes} bytes of data lie outside of the file", at)
        offsets[name] = offset
        self.file.tensors[name] = GgufTensor(name, kind, tuple(reversed(shape)), nbytes, 0)

    def place(self, offsets: dict[str, int], alignment: int) -> None:
        """Check the tensors against each other and the file: no overlap, no hole, nothing behind the last."""
        start = _aligned(self.at, alignment)
        tensors, last, expected = self.file.tensors, "the header", 0
        for name in sorted(offsets, key=lambda name: (offsets[name], tensors[name].nbytes)):
            self.field = name
            tensor, offset = tensors[name], offsets[name]
            if offset != expected:
                what = "overlaps" if offset < expected else "leaves a hole after"
                raise self.error(f"{what} {shorten(last)}: its offset is {offset}, expected {expected}")
            end = start + offset + tensor.nbytes
            if end > self.size:
                raise self.error(f"is cut short: its data ends at byte {end}, the file at {self.size}")
            tensors[name] = GgufTensor(name, tensor.type, tensor.shape, tensor.nbytes, start + offset)
            last, expected = name, _aligned(offset + tensor.nbytes, alignment)
        if self.size > start + expected:
            self.field = last if offsets else "header"
            raise self.error(f"has {self.size - start - expected} bytes after the last tensor", start + expected)


def _aligned(n: int, to: int) -> int:
    return -(-n // to) * to
