"""Reader of safetensors files: mapped, zero-copy, and checked as a whole before the first tensor is touched.

The format (https://huggingface.co/docs/safetensors, section "Format"): 8 bytes of header length, little endian; the
header, a JSON object of name -> {dtype, shape, data_offsets}; the tensors' bytes, without holes, to the end of the
file. Limits beyond the format's own are the constants below. A file that shrinks while it is mapped cannot be
guarded against: the system then stops the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ..errors import LoadError, UnsupportedError, shorten
from . import files

HEADER_BYTES = 100_000_000
HEADER_DEPTH = 8
TENSORS = 1_000_000
RANK = 16
SHARDS = 10_000
# Header text beyond the tensors' own: what `__metadata__` may add, counted in quotes and commas.
_SPARE = 1_000_000

# name -> (bits of one element, NumPy type of the view; None where NumPy has none and bytes are given)
DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "?"), "U8": (8, "u1"), "I8": (8, "i1"), "U16": (16, "<u2"), "I16": (16, "<i2"),
    "U32": (32, "<u4"), "I32": (32, "<i4"), "U64": (64, "<u8"), "I64": (64, "<i8"),
    "F16": (16, "<f2"), "BF16": (16, "<u2"), "F32": (32, "<f4"), "F64": (64, "<f8"), "C64": (64, "<c8"),
    "F8_E4M3": (8, "u1"), "F8_E5M2": (8, "u1"), "F8_E8M0": (8, "u1"),
    "F8_E4M3FNUZ": (8, "u1"), "F8_E5M2FNUZ": (8, "u1"),
    "F4": (4, None), "F6_E2M3": (6, None), "F6_E3M2": (6, None),
}  # fmt: skip

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_TO_CONVERT = (
    "no safetensors here, only pickled weights, which lanewise does not read because unpickling runs code from the "
    'file. Convert them where you trust them: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('FOLDER', dtype='auto').save_pretrained('NEW_FOLDER')\""
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `start` counts bytes from the beginning of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    start: int


class _Entry(NamedTuple):
    """A header entry, kept small: a hostile header has many."""

    dtype: str
    shape: tuple[Any, ...]
    offsets: tuple[Any, ...]


class _Shard:
    """One mapped file and what it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.status = os.fstat(file.fileno())
                size = self.status.st_size
                self.tensors, self.data_start = _read_header(path, file, size)
                self.map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise LoadError(f"cannot be opened ({error.strerror})", file=path) from None

    def close(self) -> None:
        with contextlib.suppress(BufferError):  # an array still looks at the mapping, which goes when the array does
            self.map.close()


class Weights:
    """The tensors of a model, by name. Arrays are read-only views of the mapped files."""

    def __init__(self, shards: list[_Shard]) -> None:
        self._shards = shards
        self._where = {name: shard for shard in shards for name in shard.tensors}

    def names(self) -> list[str]:
        """The tensors' names, in the order of the files."""
        return list(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    @property
    def files(self) -> list[Path]:
        """The files that the tensors come from."""
        return [shard.path for shard in self._shards]

    @property
    def statuses(self) -> list[os.stat_result]:
        """Of `files`, when they were opened."""
        return [shard.status for shard in self._shards]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(shard.tensors[name].nbytes for name, shard in self._where.items())

    def info(self, name: str) -> TensorInfo:
        """What the header says of `name`. LoadError when there is none."""
        return self._shard(name).tensors[name]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor as a read-only view of the file, not copied; valid while something refers to it.

        BF16 comes as uint16, 8-bit floats as uint8, both in the tensor's shape; types under 8 bits as flat uint8.
        The format does not promise alignment: a view may be unaligned. LoadError when there is no such tensor.
        """
        shard = self._shard(name)
        info = shard.tensors[name]
        view = DTYPES[info.dtype][1]
        shape = info.shape if view is not None else (info.nbytes,)
        # frombuffer, not ndarray(buffer=): it keeps the mapping from being closed under the array.
        raw = np.frombuffer(shard.map, np.uint8, info.nbytes, info.start)
        return raw.view(view or "u1").reshape(shape)

    def blocks_format(self, name: str) -> str | None:
        """The packed format that takes this tensor's quantised blocks as they are; None: there is none."""
        return None

    def blocks(self, name: str) -> np.ndarray[Any, Any]:
        """The rows of a tensor that has a blocks_format, uint8[rows, bytes]."""
        raise LoadError("holds no quantised blocks", file=self._shard(name).path, field=name)

    def blocks_order(self, name: str) -> np.ndarray[Any, Any] | None:
        """The input that stands in each place of `blocks`, int32[k], a permutation; None: each in its own."""
        return None

    def release(self, name: str) -> None:
        """Tell the system that the pages which hold only `name` are not needed now; reading them again maps them again.

        Keeps the peak low while weights are packed one after another. Whole pages only.
        """
        shard = self._shard(name)
        info = shard.tensors[name]
        first = -(-info.start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (info.start + info.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            shard.map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Unmap the files (those that arrays still look at: when the last array goes)."""
        for shard in self._shards:
            shard.close()
        self._shards, self._where = [], {}

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shard(self, name: str) -> _Shard:
        try:
            return self._where[name]
        except KeyError:
            raise LoadError("there is no such tensor", field=name) from None


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Map the weights of a model folder (one file, or shards with an index), or one .safetensors file.

    Raises LoadError, naming file and tensor, for anything that is not as the format says; UnsupportedError for a
    folder that has only GGUF files.
    """
    path = Path(path)
    if path.is_file():
        return _open([path])
    if not path.is_dir():
        raise LoadError("there is no such file or folder", file=path)
    if files.has(path, SINGLE):  # first, as transformers does
        return _open([files.member(path, SINGLE)])
    if files.has(path, INDEX):
        return _open_sharded(path)
    found = sorted(entry.name for entry in os.scandir(path))
    if any(name.endswith(".safetensors") for name in found):
        raise LoadError(f"has safetensors files, but neither {SINGLE} nor {INDEX}; name the file itself", file=path)
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in found):
        raise LoadError(_TO_CONVERT, file=path)
    if any(name.endswith(".gguf") for name in found):
        raise UnsupportedError("has GGUF files only; name one of them", file=path)
    raise LoadError(f"has neither {SINGLE} nor {INDEX}", file=path)


def _open(paths: list[Path]) -> Weights:
    shards: list[_Shard] = []
    try:
        for path in paths:
            shards.append(_Shard(path))
    except BaseException:
        for shard in shards:
            shard.close()
        raise
    return Weights(shards)


def _open_sharded(folder: Path) -> Weights:
    """Open what the index names; every tensor must be where the index says, and nowhere else."""
    index_path = files.member(folder, INDEX)
    index = files.read_object(index_path, files.JSON_BYTES)
    index_path = folder / INDEX  # what the user knows it by
    where = index.get("weight_map")
    if not isinstance(where, dict) or not where:
        raise LoadError("is not a non-empty object", file=index_path, field="weight_map")
    for tensor, name in where.items():
        if not isinstance(name, str) or not files.is_plain_name(name):
            raise LoadError(f"the shard is {shorten(name)!r}, not a plain file name", file=index_path, field=tensor)
    names = list(dict.fromkeys(where.values()))
    if len(names) > SHARDS:
        raise LoadError(f"names {len(names)} files, over the limit of {SHARDS}", file=index_path, field="weight_map")
    weights = _open([files.member(folder, name) for name in names])
    try:
        for name, shard in zip(names, weights._shards, strict=True):
            for tensor in shard.tensors:
                if where.get(tensor, name) != name:
                    raise LoadError(
                        f"is in this file, but the index says {where[tensor]}", file=folder / name, field=tensor
                    )
        held = dict(zip(names, weights._shards, strict=True))
        for tensor, name in where.items():
            if tensor not in held[name].tensors:
                raise LoadError(f"the index says {name}, which does not have it", file=index_path, field=tensor)
    except BaseException:
        weights.close()
        raise
    return weights


def _read_header(path: Path, file: Any, size: int) -> tuple[dict[str, TensorInfo], int]:
    """Parse and check the header of `file` (`size` bytes long): the tensors, and where their data starts."""
    if size < 8:
        raise LoadError(f"has {size} bytes, too few for a header", file=path, field="header length")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > HEADER_BYTES:
        raise LoadError(f"is {length}, over the limit of {HEADER_BYTES}", file=path, field="header length")
    if length > size - 8:
        raise LoadError(f"is {length}, but only {size - 8} bytes follow", file=path, field="header length")
    header = file.read(length)
    if not header.startswith(b"{"):
        raise LoadError(f"does not start with '{{' (a header of {length} bytes)", file=path, field="header")
    # Cheap bounds on what parsing can cost, before it costs: a tensor has one brace and ten quotes.
    braces = header.count(b"{")
    if braces > TENSORS + 2:
        raise LoadError(f"has over {TENSORS} tensors", file=path, field="header")
    if header.count(b'"') > 10 * braces + _SPARE or header.count(b",") > (3 + RANK) * braces + _SPARE:
        raise LoadError("has far more text than its tensors need", file=path, field="header")
    entries = files.parse_json(header, file=path, depth=HEADER_DEPTH, pairs=lambda found: _entry(found, path))
    del header
    if not isinstance(entries, dict):
        raise LoadError("is not a JSON object of tensors", file=path, field="header")
    _check_metadata(entries.pop("__metadata__", None), path)
    return _check_tensors(entries, path, size, 8 + length), 8 + length


def _entry(found: list[tuple[str, Any]], path: Path) -> dict[str, Any] | _Entry:
    """A JSON object of the header as _Entry if it looks like one, else as a dict; called for each, so be quick."""
    fields = dict(found)
    if len(fields) != len(found):
        files.unique(found, path)
    if len(fields) == 3:
        dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if type(dtype) is str and type(shape) is list and type(offsets) is list:
            return _Entry(dtype, tuple(shape), tuple(offsets))
    return fields


def _check_metadata(metadata: Any, path: Path) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise LoadError("is not an object of strings", file=path, field="__metadata__")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise LoadError(f"{shorten(key)!r} is not a string", file=path, field="__metadata__")


def _check_tensors(entries: dict[str, Any], path: Path, size: int, data_start: int) -> dict[str, TensorInfo]:
    sizes = {name: _check_entry(name, entry, path) for name, entry in entries.items()}
    expected, last = 0, "the first tensor"
    for name in sorted(entries, key=lambda name: entries[name].offsets):
        begin, end = entries[name].offsets
        if begin != expected:
            what = "overlaps" if begin < expected else "leaves a hole after"
            at = f"data_offsets start at {begin}, expected {expected}"
            raise LoadError(f"{what} {shorten(last)} ({at})", file=path, field=name)
        expected, last = end, name
    if expected != size - data_start:
        what = "is cut short" if expected > size - data_start else "has bytes after the last tensor"
        raise LoadError(f"{what}: {size - data_start} bytes of data, the header says {expected}", file=path, field=last)
    return {
        name: TensorInfo(name, entry.dtype, entry.shape, sizes[name], path, data_start + entry.offsets[0])
        for name, entry in entries.items()
    }


def _check_entry(name: str, entry: Any, path: Path) -> int:
    """Check one entry by itself; its size in bytes."""
    if not isinstance(entry, _Entry):
        raise LoadError("is not {dtype: string, shape: list, data_offsets: list}", file=path, field=name)
    dtype, shape, offsets = entry
    if dtype not in DTYPES:
        raise LoadError(f"dtype {shorten(dtype)!r} is not known", file=path, field=name)
    if len(shape) > RANK:
        raise LoadError(f"shape has {len(shape)} dimensions, over the limit of {RANK}", file=path, field=name)
    bits = DTYPES[dtype][0]
    for number in shape:
        if type(number) is not int or not 0 <= number < 2**63:
            raise LoadError(f"shape has {shorten(number)}, not an integer from 0 on", file=path, field=name)
        bits *= number or 1  # a zero must not hide an overflow: NumPy, too, multiplies the others
    if (
        len(offsets) != 2
        or not (type(offsets[0]) is type(offsets[1]) is int)
        or not 0 <= min(offsets) <= max(offsets) < 2**63
    ):
        raise LoadError("data_offsets are not two integers from 0 on", file=path, field=name)
    bits = 0 if 0 in shape and bits < 2**63 else bits
    if bits >= 2**63 or bits % 8:
        raise LoadError(f"shape {list(shape)} of {dtype} is no whole number of bytes below 2^60", file=path, field=name)
    if offsets[1] - offsets[0] != bits // 8:
        raise LoadError(
            f"data_offsets {list(offsets)} do not hold the {bits // 8} bytes of {dtype} {list(shape)}",
            file=path,
            field=name,
        )
    return bits // 8
