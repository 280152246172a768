"""Writer of GGUF files, version 3, little endian: the metadata first, then the tensors, one at a time.

The format (ggml/docs/gguf.md) wants the table of all tensors before the data, so sizes are declared first and the
data follow in the same order; memory holds no more than what is being written. The file has a temporary name in the
same folder until all of it is there and on the disk; then it takes the name that was asked for.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import shorten
from .gguf import ALIGNMENT, KEY_BYTES, MAGIC, NAME_BYTES, RANK, STRING_BYTES
from .gguf_types import TYPES

_VERSION = 3
_ARRAY, _STRING, _BOOL = 9, 8, 7
_NUMBERS = {  # name of a metadata type -> (its number, its form)
    "UINT8": (0, "<B"), "INT8": (1, "<b"), "UINT16": (2, "<H"), "INT16": (3, "<h"), "UINT32": (4, "<I"),
    "INT32": (5, "<i"), "FLOAT32": (6, "<f"), "BOOL": (_BOOL, "<?"), "UINT64": (10, "<Q"), "INT64": (11, "<q"),
    "FLOAT64": (12, "<d"),
}  # fmt: skip
_TENSORS = {kind.name: (number, kind) for number, kind in TYPES.items()}


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the metadata. kind: "STRING" or a name of a number's type; a list or an array of those is an array."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Declared:
    """A tensor to come. shape: rows first, as NumPy has it."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        kind = _TENSORS[self.type][1]
        elements = int(np.prod(self.shape, dtype=object))
        return elements // kind.block * kind.size


class GgufWriter:
    """Use with `with`: leaving it renames the file; leaving it by an error removes what was written.

    path: the file to be; metadata: key -> Value; tensors: in the order in which `write` will bring their data.
    Raises ValueError for what the format cannot hold, FileExistsError unless overwrite, OSError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: dict[str, Value],
        tensors: Sequence[Declared],
        *,
        alignment: int = 32,
        overwrite: bool = False,
    ) -> None:
        if alignment < 8 or alignment > ALIGNMENT or alignment & (alignment - 1):
            raise ValueError(f"the alignment must be a power of two from 8 to {ALIGNMENT}, not {alignment}")
        self.path, self._tensors, self._alignment, self._overwrite = Path(path), list(tensors), alignment, overwrite
        if not overwrite and os.path.lexists(self.path):
            raise FileExistsError(f"{self.path} is there already")
        if alignment != 32:
            metadata = {**metadata, "general.alignment": Value("UINT32", alignment)}
        header = _header(metadata, self._tensors, alignment)
        self._next, self._left = 0, self._tensors[0].nbytes if self._tensors else 0
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}.part")
        self._file: Any = open(self._temporary, "xb")  # noqa: SIM115
        try:
            self._file.write(header)
            self._pad()
        except BaseException:
            self._abandon()
            raise

    def write(self, name: str, data: np.ndarray[Any, Any]) -> None:
        """The next bytes of a tensor, as any contiguous array; a tensor may come in several pieces.

        ValueError for one that is not the tensor whose turn it is, or too many bytes.
        """
        if self._next >= len(self._tensors) or self._tensors[self._next].name != name:
            due = self._tensors[self._next].name if self._next < len(self._tensors) else "nothing"
            raise ValueError(f"{name} was written where {due} is due")
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        if len(raw) > self._left:
            raise ValueError(f"{name}: {len(raw)} bytes, but only {self._left} are left of the tensor")
        self._file.write(raw)
        self._left -= len(raw)
        if not self._left:
            self._pad()
            self._next += 1
            self._left = self._tensors[self._next].nbytes if self._next < len(self._tensors) else 0

    def __enter__(self) -> GgufWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            if self._next < len(self._tensors):
                raise ValueError(f"{self._tensors[self._next].name} was declared, but not (wholly) written")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if self._overwrite:
                os.replace(self._temporary, self.path)
            else:
                _rename_to_new(self._temporary, self.path)
        except BaseException:
            self._abandon()
            raise

    def _pad(self) -> None:
        self._file.write(bytes(-self._file.tell() % self._alignment))

    def _abandon(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _rename_to_new(old: Path, new: Path) -> None:
    """Rename, but FileExistsError if the name was taken meanwhile (where the file system can tell in one step)."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        if os.path.lexists(new):
            raise FileExistsError(f"{new} is there already") from None
        os.rename(old, new)
    else:
        os.unlink(old)


def value_of(stored: Any, kind: str) -> Value:
    """A value as gguf.GgufFile has it (metadata, types), for writing it again."""
    from .gguf_arrays import GgufArray

    if isinstance(stored, GgufArray):
        strings = stored.kind == "STRING"
        return Value(stored.kind, stored.strings() if strings else stored.numbers())
    return Value(kind, stored)


# ---- bytes ----


def _header(metadata: dict[str, Value], tensors: list[Declared], alignment: int) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        if not 0 < len(key.encode()) <= KEY_BYTES or "\0" in key:
            raise ValueError(f"{shorten(key)!r} cannot be a key")
        parts += [_text(key), *_pair(key, value)]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("two tensors have the same name")
    offset = 0
    for tensor in tensors:
        parts.append(_entry(tensor, offset))
        offset += -(-tensor.nbytes // alignment) * alignment
    return b"".join(parts)


def _entry(tensor: Declared, offset: int) -> bytes:
    if not 0 < len(tensor.name.encode()) <= NAME_BYTES or "\0" in tensor.name:
        raise ValueError(f"{shorten(tensor.name)!r} cannot be the name of a tensor: over {NAME_BYTES} bytes, or a NUL")
    if tensor.type not in _TENSORS:
        raise ValueError(f"{tensor.name}: the type {tensor.type!r} is not known")
    number, kind = _TENSORS[tensor.type]
    if not 1 <= len(tensor.shape) <= RANK or min(tensor.shape) < 1 or tensor.shape[-1] % kind.block:
        raise ValueError(f"{tensor.name}: a tensor of the shape {list(tensor.shape)} cannot be {kind.name}")
    dimensions = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
    return _text(tensor.name) + struct.pack("<I", len(tensor.shape)) + dimensions + struct.pack("<IQ", number, offset)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    if len(raw) > STRING_BYTES:
        raise ValueError(f"a string of {len(raw)} bytes is over the limit of {STRING_BYTES}")
    return struct.pack("<Q", len(raw)) + raw


def _pair(key: str, value: Value) -> list[bytes]:
    many = isinstance(value.value, list | tuple | np.ndarray)
    if value.kind != "STRING" and value.kind not in _NUMBERS:
        raise ValueError(f"{key}: the type {value.kind!r} is not known")
    number, form = (_STRING, "") if value.kind == "STRING" else _NUMBERS[value.kind]
    try:
        if not many:
            return [struct.pack("<I", number), _text(value.value) if not form else struct.pack(form, value.value)]
        head = struct.pack("<IIQ", _ARRAY, number, len(value.value))
        if not form:
            return [head, *(_text(text) for text in value.value)]
        plain = list(value.value.tolist() if isinstance(value.value, np.ndarray) else value.value)
        return [head, struct.pack(f"<{len(plain)}{form[1]}", *plain)]
    except (struct.error, AttributeError, TypeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{key}: {shorten(value.value)} cannot be written as {value.kind} ({error})") from None
