"""Arrays among the metadata of a GGUF file, of numbers or strings: where the vocabulary and the merges are."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LoadError
from .gguf_fields import Bytes

if TYPE_CHECKING:
    from .gguf import GgufFile

# number of a value's type -> (name, NumPy type)
STRING, ARRAY, BOOL = 8, 9, 7
VALUES: dict[int, tuple[str, str]] = {
    0: ("UINT8", "u1"), 1: ("INT8", "i1"), 2: ("UINT16", "<u2"), 3: ("INT16", "<i2"), 4: ("UINT32", "<u4"),
    5: ("INT32", "<i4"), 6: ("FLOAT32", "<f4"), BOOL: ("BOOL", "u1"), STRING: ("STRING", ""), ARRAY: ("ARRAY", ""),
    10: ("UINT64", "<u8"), 11: ("INT64", "<i8"), 12: ("FLOAT64", "<f8"),
}  # fmt: skip
_JOINED = 16 << 20  # bytes of strings that are taken apart at once


class GgufArray:
    """An array among the metadata, left in the file until it is asked for. `kind`: the name of its elements' type."""

    def __init__(self, file: GgufFile, key: str, kind: int, length: int, start: int, end: int) -> None:
        self._file, self._key, self._kind, self._length, self._start = file, key, kind, length, start
        self._end = end
        self.kind = VALUES[kind][0]

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"an array of {self._length} {self.kind}"

    def numbers(self) -> np.ndarray[Any, Any]:
        """A copy as a NumPy array. LoadError when the elements are strings, or booleans other than 0 and 1."""
        dtype = VALUES[self._kind][1]
        if not dtype:
            raise LoadError("is an array of strings, not of numbers", file=self._file.path, field=self._key)
        values = np.frombuffer(self._file.map, dtype, self._length, self._start).copy()
        if self._kind == BOOL and self._length:
            if values.max() > 1:
                raise LoadError("has a boolean that is neither 0 nor 1", file=self._file.path, field=self._key)
            values = values.astype(bool)
        return values

    def joined(self) -> bytes | None:
        """The elements with a NUL after each; None where that cannot be had quickly, or one of them has a NUL in it."""
        if self._kind != STRING or not self._length or self._end - self._start > _JOINED:
            return None
        raw = np.frombuffer(self._file.map, np.uint8, self._end - self._start, self._start)
        ends = string_ends(raw, self._length)
        if len(ends) != self._length or ends[-1] != len(raw):
            return None
        kept = np.ones(len(raw) + 1, bool)  # the length before a string goes, but for its last byte, the NUL
        kept[:8] = False
        for byte in range(7):
            kept[ends[:-1] + byte] = False
        text = np.append(raw, np.uint8(0))[kept].tobytes()
        return text if text.count(0) == self._length else None

    def strings(self) -> list[str]:
        """The elements. LoadError when they are not strings or not UTF-8."""
        if self._kind != STRING:
            raise LoadError(f"is {self!r}, not of strings", file=self._file.path, field=self._key)
        text = self.joined()
        if text is not None:
            with contextlib.suppress(UnicodeDecodeError):  # below it is said where
                return text[:-1].decode("utf-8").split("\0")
        data, at = self._file.map[self._start : self._end], 0
        found: list[str] = []
        unpack = struct.Struct("<Q").unpack_from
        try:
            for _ in range(self._length):
                begin = at + 8
                at = begin + unpack(data, at)[0]
                found.append(data[begin:at].decode("utf-8"))
        except UnicodeDecodeError as error:
            message = f"string {len(found)} is not UTF-8 (at byte {self._start + begin + error.start})"
            raise LoadError(message, file=self._file.path, field=self._key) from None
        return found


def string_ends(data: Bytes, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where strings end that lie in `data` one after another from its start: `count`, or as many as are found quickly.

    Each follows the 8 bytes of its length, so a walk takes a step of Python for each of half a million. But what ends
    with five zeros before something else is nearly always such a length; where every one leads to the next, all are.
    """
    zero = data[: len(data) - 1] == 0
    run = zero[4:] & zero[3:-1] & zero[2:-2] & zero[1:-3] & zero[:-4] & (data[5:] != 0)
    starts = np.flatnonzero(run[3:])[:count]  # of the lengths, whose last byte ends the zeros
    lengths = np.ndarray((max(len(data) - 7, 0),), "<u8", data, strides=(1,))[starts].astype(np.int64)
    ends = starts + 8 + lengths
    wrong = np.flatnonzero(starts != np.concatenate(([0], ends[:-1])))
    ends = ends[: wrong[0]] if len(wrong) else ends
    return ends[ends <= len(data)]
