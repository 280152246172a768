"""The packed cache: a model's packed matrices in one file, mapped on the next load instead of being packed again.

NAME.packed is never changed once it has its name: 64 bytes (magic, layout, lengths, SHA-256 of the header), a JSON
header, zeros, then the lines of each matrix in order of execution, as csrc has them in memory on any CPU of the same
byte order. The header says what the lines were made from (SHA-256 of the source files, options, the plan of all
matrices) and a checksum of each matrix. Loading checks every byte of the file, at the speed of memory; a file that is
cut off, altered, or made from something else counts as absent and is written anew. Files get a temporary name and are
renamed, so readers and writers never wait for each other, and whoever mapped an old entry keeps it.

NAME.stamp remembers which content the source files had when they had a certain size, inode and times of modification
and change, so that they are not hashed at every load. Only stamps that are SETTLED old are kept: a file that is
written twice within a tick of its file system's clock would look the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import secrets
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__, _native

MAGIC = b"LWPACKED"
LAYOUT = 1  # raise it when the bytes of any packed format change (csrc/format.h, csrc/quant.h)
SETTLED = 2.0  # seconds
ENVIRONMENT = "LANEWISE_CACHE"
_PREAMBLE = struct.Struct("<8sIIQQ")  # magic, layout, zero, bytes of JSON, where the lines begin; then SHA-256
_FIXED = 64
_HEADER_BYTES = 64 << 20
_HUGE, _PAGE = 2 << 20, 4096
_PIECE = 16 << 20  # written at once: file systems with large pages take them as they come
_HASHED = 8 << 20  # a file's digest is that of the digests of pieces of so many bytes
_ABANDONED = 3600.0  # seconds after which a temporary file is nobody's

Stamp = list[int]  # size, device, inode, times of modification and change in nanoseconds
CacheOption = bool | str | os.PathLike[str] | None


class Planned(NamedTuple):
    """A matrix that is to be packed. order: of its inputs, int32[inputs], as _native.Weight takes it."""

    format: str
    outputs: int
    inputs: int
    order: np.ndarray[Any, np.dtype[np.int32]] | None = None

    @property
    def line_bytes(self) -> int:
        return _native.packed_size(self.format, self.outputs, self.inputs)

    @property
    def nbytes(self) -> int:
        """As the packed weight's: with the order."""
        return self.line_bytes + (0 if self.order is None else self.order.nbytes)

    def said(self) -> list[str | int]:
        """In the header. The order is read from the source at each load: its digest says that the lines are in it."""
        digest = [] if self.order is None else [hashlib.sha256(self.order.astype("<i4").tobytes()).hexdigest()]
        return [self.format, self.outputs, self.inputs, *digest]


Plan = Sequence[Planned]


class _UnusableError(Exception):
    """Why an entry does not count."""


def cache_folder(cache: CacheOption) -> Path | None:
    """Where packed weights are kept, None: nowhere. cache: a folder, True: the usual one, None: see LANEWISE_CACHE."""
    if cache is None:
        value = os.environ.get(ENVIRONMENT, "")
        cache = {"": False, "0": False, "1": True}.get(value, value)
    if cache is False:
        return None
    if cache is True:
        home = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "lanewise" / "packed"
    return Path(cache).expanduser()


def stamp_of(status: os.stat_result) -> Stamp:
    return [status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def open_entry(
    cache: CacheOption, files: Sequence[tuple[Path, os.stat_result]], options: dict[str, str | None], plan: Plan
) -> Entry | None:
    """The entry of what is made from these files; None: the cache is off. See Entry and cache_folder."""
    folder = cache_folder(cache)
    if folder is None:
        return None
    return Entry(folder, [(Path(os.path.realpath(path)), stamp_of(status)) for path, status in files], options, plan)


@dataclass(slots=True)
class Entry:
    """The cache's entry of one model packed in one way.

    sources: the files that the matrices are made from, and their stamps when they were opened; options: what else
    decides the bytes; plan: of all matrices, in the order in which they are packed. state: what became of it.
    """

    folder: Path
    sources: list[tuple[Path, Stamp]]
    options: dict[str, str | None]
    plan: Plan
    state: str = "absent"
    _digest: str | None = field(default=None, init=False)

    @property
    def path(self) -> Path:
        named = json.dumps([[str(path) for path, _ in self.sources], self.options]).encode()
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", self.sources[0][0].parent.name + "-" + self.sources[0][0].stem)[-80:]
        return self.folder / f"{stem.lstrip('.')}-{hashlib.sha256(named).hexdigest()[:16]}.packed"

    # ---- reading ----

    def read(self, ctx: _native.Context) -> list[_native.Weight] | None:
        """The matrices over the mapped file, every byte of it checked; None where they have to be packed."""
        try:
            found = self._map(ctx)
        except _UnusableError as error:
            self.state = str(error)
            return None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            self.state = f"cannot be read ({error})"
            return None
        self.state = "mapped"
        return found

    def _map(self, ctx: _native.Context) -> list[_native.Weight]:
        with open(self.path, "rb", opener=_careful) as file:
            size = os.fstat(file.fileno()).st_size
            if size < _FIXED:
                raise _UnusableError("cut off")
            lines = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED"):
            with contextlib.suppress(AttributeError, OSError):
                lines.madvise(getattr(mmap, advice))
        begin, header = _read_header(lines, size)
        sums = header.pop("checksums", None)
        if header != self._header() or not isinstance(sums, list) or len(sums) != len(self.plan):
            raise _UnusableError("made from another source, by other options or another version")
        found: list[_native.Weight] = []
        view, at = memoryview(lines), begin
        for matrix, sum in zip(self.plan, sums, strict=True):
            format, n, k, order = matrix
            nbytes = matrix.line_bytes
            if nbytes > size - at:
                raise _UnusableError("cut off")
            weight = _native.Weight(format, n, k, view[at : at + nbytes], order)
            if f"{weight.checksum(ctx):016x}" != sum:
                raise _UnusableError(f"altered (matrix {len(found)})")
            found.append(weight)
            at += nbytes
        if at != size:
            raise _UnusableError("longer than its matrices")
        return found

    def _header(self) -> dict[str, Any]:
        """All of the header but the checksums."""
        made = {"lanewise": __version__, "byteorder": sys.byteorder, "options": self.options}
        return {**made, "plan": [matrix.said() for matrix in self.plan], "content": self.content()}

    def content(self) -> str:
        """SHA-256 of the source files, from the stamp if it still holds."""
        if self._digest is None:
            stamps = [stamp for _, stamp in self.sources]
            memo: Any = None
            with contextlib.suppress(OSError, ValueError, RecursionError), open(self._stamp_path, "rb") as file:
                memo = json.loads(file.read(1 << 20))
            if isinstance(memo, dict) and memo.get("stamps") == stamps and isinstance(memo.get("content"), str):
                self._digest = str(memo["content"])
            else:
                self._digest = self._hash()
                with contextlib.suppress(OSError):
                    self._remember()
        return self._digest

    def _hash(self) -> str:
        digests = hashlib.sha256()
        for path, stamp in self.sources:
            with open(path, "rb") as file:
                digests.update(_file_digest(file.fileno(), stamp[0]))
                if stamp_of(os.fstat(file.fileno())) != stamp:
                    raise _UnusableError(f"{path} changed while it was read")
        return digests.hexdigest()

    @property
    def _stamp_path(self) -> Path:
        return self.path.with_suffix(".stamp")

    def _remember(self) -> None:
        newest = max(max(stamp[3:]) for _, stamp in self.sources)
        if abs(time.time() - newest / 1e9) < SETTLED or not self.folder.is_dir():
            return
        memo = {"stamps": [stamp for _, stamp in self.sources], "content": self._digest}
        with _Temporary(self._stamp_path) as file:
            os.write(file.fd, json.dumps(memo).encode())


class Writer:
    """Takes the matrices of an entry as they are packed; `finish` gives the file its name.

    Nothing here fails: what goes wrong (no room, no permission) is the entry's state, and the file goes away.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._sums: list[str] = []
        self._file: _Temporary | None = None
        total = sum(matrix.line_bytes for matrix in entry.plan)
        said = json.dumps([entry.options, [matrix.said() for matrix in entry.plan]])
        room = _FIXED + 1024 + len(said) + 20 * len(entry.plan)
        unit = _HUGE if total > 8 * _HUGE else _PAGE  # lines in whole large pages, where the system has them
        self._begin = -(-room // unit) * unit
        with self._attempt():
            entry.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(entry.folder)
            self._file = _Temporary(entry.path)
            os.lseek(self._file.fd, self._begin, os.SEEK_SET)

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, _UnusableError) as error:
            self._entry.state = f"not written: {error}"
            self.abandon()
        except BaseException:
            self.abandon()
            raise

    def add(self, ctx: _native.Context, weight: _native.Weight) -> None:
        """The next matrix."""
        if self._file is None:
            return
        with self._attempt():
            _write(self._file.fd, memoryview(weight))
            self._sums.append(f"{weight.checksum(ctx):016x}")

    def finish(self) -> None:
        """All matrices are there: the header, then the name."""
        if self._file is None:
            return
        with self._attempt():
            entry = self._entry
            header = json.dumps({**entry._header(), "checksums": self._sums}).encode()
            if any(stamp_of(os.stat(path)) != stamp for path, stamp in entry.sources):
                raise _UnusableError("the source changed while it was read")
            head = _PREAMBLE.pack(MAGIC, LAYOUT, 0, len(header), self._begin)
            body = header + bytes(self._begin - _FIXED - len(header))
            os.lseek(self._file.fd, 0, os.SEEK_SET)
            _write(self._file.fd, memoryview(head + hashlib.sha256(head + body).digest()[: _FIXED - len(head)] + body))
            self._file.keep()
            self._file = None
            entry.state = "written"
            with contextlib.suppress(OSError):
                entry._remember()

    def abandon(self) -> None:
        """Removes what there is."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.drop()
            self._file = None


class _Temporary:
    """A new file beside `path` that takes its name by `keep`; as a context manager, when all went well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        self.fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def keep(self) -> None:
        os.close(self.fd)
        os.replace(self._name, self._path)

    def drop(self) -> None:
        os.close(self.fd)
        self._name.unlink(missing_ok=True)

    def __enter__(self) -> _Temporary:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.keep()
        else:
            self.drop()


def _careful(path: str, flags: int) -> int:
    """Opens without waiting at a pipe or following a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read_header(lines: mmap.mmap, size: int) -> tuple[int, dict[str, Any]]:
    """Where the lines begin, and the header."""
    magic, layout, zero, length, begin = _PREAMBLE.unpack_from(lines)
    if magic != MAGIC or layout != LAYOUT or zero:
        raise _UnusableError("of another version")
    if not _FIXED + length <= begin <= min(size, _HEADER_BYTES) or begin % _FIXED:
        raise _UnusableError("cut off or altered (header)")
    fixed = _PREAMBLE.size
    digest = hashlib.sha256(lines[:fixed])
    digest.update(lines[_FIXED:begin])
    if digest.digest()[: _FIXED - fixed] != lines[fixed:_FIXED]:
        raise _UnusableError("altered (header)")
    header = json.loads(lines[_FIXED : _FIXED + length])
    if not isinstance(header, dict):
        raise _UnusableError("altered (header)")
    return begin, header


def _file_digest(fd: int, size: int) -> bytes:
    """SHA-256 of the digests of the file's pieces, which threads share."""

    def piece(at: int) -> bytes:
        data = os.pread(fd, min(_HASHED, size - at), at)
        return hashlib.sha256(data).digest()

    threads = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        return hashlib.sha256(b"".join(pool.map(piece, range(0, size, _HASHED)))).digest()


def _write(fd: int, data: memoryview) -> None:
    at = 0
    while at < len(data):
        at += os.write(fd, data[at : at + _PIECE])


def _sweep(folder: Path) -> None:
    """Removes what processes that were stopped have left."""
    for entry in os.scandir(folder):
        if re.fullmatch(r"\..*\.(packed|stamp)\.[0-9a-f]{12}\.part", entry.name):
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                    os.unlink(entry.path)
