"""Reading files that may be hostile: which path a name inside a model folder may lead to, and JSON within limits.

Rule for links. A model folder is what the user named; the folder itself may be a link. A file in it may be a link
only to a place inside the folder or, when the folder is `snapshots/<revision>` of a Hugging Face cache entry, into
that entry's own `blobs/` (the normal form of a downloaded model). Anything else is refused, so that an unpacked
archive cannot make lanewise read files elsewhere.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LoadError, shorten

JSON_BYTES = 128 << 20
CONFIG_BYTES = 16 << 20
JSON_DEPTH = 64
_BLOCK = 1 << 20


def member(folder: Path, name: str) -> Path:
    """The real path of `name`, a plain file name in `folder`.

    Raises LoadError when the name is not a plain one, the file is missing or not a regular file, or a link leads
    out of the folder (see the rule above).
    """
    if not is_plain_name(name):
        raise LoadError(f"{shorten(name)!r} is not a plain file name", file=folder)
    root = Path(os.path.realpath(folder))
    path = root / name
    try:
        real = Path(os.path.realpath(path, strict=True))
        regular = stat.S_ISREG(real.stat().st_mode)
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot be opened ({_why(error)})", file=path) from None
    if not regular:
        raise LoadError("is not a regular file", file=path)
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise LoadError(
            f"is a link that leads out of the model folder (to {shorten(str(real))}); copy the file into the folder, "
            "or name the folder that it lies in",
            file=path,
        )
    return real


def has(folder: Path, name: str) -> bool:
    """Whether `folder` has an entry `name` (a broken link counts: it should be reported, not passed over)."""
    return os.path.lexists(folder / name)


def is_plain_name(name: str) -> bool:
    """True for a base name: no separator of any system, no drive, not `.` or `..`, nothing unprintable."""
    return 0 < len(name) <= 255 and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\:")


def read_bytes(path: Path, limit: int = JSON_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises LoadError."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise LoadError("is not a regular file", file=path)
            if status.st_size > limit:
                raise LoadError(f"has {status.st_size} bytes, over the limit of {limit}", file=path)
            return file.read(limit)
    except OSError as error:
        raise LoadError(f"cannot be read ({_why(error)})", file=path) from None


def read_object(path: Path, limit: int = CONFIG_BYTES, depth: int = JSON_DEPTH) -> dict[str, Any]:
    """The JSON object in `path`. Raises LoadError: too long, too deep, not UTF-8, not JSON, a key twice, no object."""
    value = parse_json(read_bytes(path, limit), file=path, depth=depth, pairs=lambda found: unique(found, path))
    if not isinstance(value, dict):
        raise LoadError("is not a JSON object", file=path)
    return value


def parse_json(data: bytes, *, file: Path, depth: int, pairs: Any) -> Any:
    """`data` as JSON, at most `depth` deep; `pairs` is called with the pairs of each object. Raises LoadError."""
    if too_deep(data, depth):
        raise LoadError(f"JSON is nested deeper than {depth}", file=file)
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise LoadError(f"is not UTF-8 (byte {error.start})", file=file) from None
    except (ValueError, RecursionError) as error:
        raise LoadError(f"is not valid JSON ({shorten(str(error))})", file=file) from None


def unique(found: list[tuple[str, Any]], file: Path) -> dict[str, Any]:
    """A dict of `found`; LoadError when a key comes twice, since readers differ in which one they take."""
    result = dict(found)
    if len(result) != len(found):
        seen: set[str] = set()
        for key, _ in found:
            if key in seen:
                raise LoadError("the key comes twice", file=file, field=key)
            seen.add(key)
    return result


def too_deep(data: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest deeper than `limit`, found without recursion in O(len(data)).

    Before parsing, because the parser recurses: how deep it can go depends on the interpreter's settings.
    """
    inside, depth = False, 0
    carry = b""
    for start in range(0, len(data), _BLOCK):
        block = carry + data[start : start + _BLOCK]
        # An escape that the block's end cuts in two goes to the next block whole.
        odd = (len(block) - len(block.rstrip(b"\\"))) % 2
        carry = block[len(block) - odd :]
        block = block[: len(block) - odd].replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        codes = np.frombuffer(block, np.uint8)
        if codes.size == 0:
            continue
        within = np.logical_xor.accumulate(codes == ord('"')) ^ inside
        low = codes | 0x20  # '[' and '{' differ in one bit, so do ']' and '}'
        step = ((low == ord("{")).astype(np.int8) - (low == ord("}")).astype(np.int8))[~within]
        step = step[step != 0]
        if step.size:
            depths = np.cumsum(step, dtype=np.int64) + depth
            if int(depths.max()) > limit:
                return True
            depth = int(depths[-1])
        inside = bool(within[-1])
    return False


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
