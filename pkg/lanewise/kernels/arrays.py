"""What the kernels take: float32, in rows. Everything else is widened, copied or refused here."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..memory import empty

Float32: TypeAlias = NDArray[np.float32]
FLOAT32 = np.dtype(np.float32)
FLOATS = ("float32", "float16", "bfloat16")


def is_bfloat16(x: Any) -> bool:
    """Is x an ml_dtypes array? Asked by name, so that ml_dtypes is imported by those who have such arrays."""
    return x.dtype.kind == "V" and bool(x.dtype.name == "bfloat16")  # a dtype takes microseconds to name itself


def is_byte(x: NDArray[Any]) -> bool:
    """int8 or uint8"""
    return x.dtype.itemsize == 1 and x.dtype.kind in "iu"


def array(name: str, x: Any) -> NDArray[Any]:
    """x as an array of one of FLOATS, in native byte order."""
    x = np.asarray(x)
    if x.dtype.name not in FLOATS or not x.dtype.isnative:
        hint = "; convert it with .astype(numpy.float32)" if x.dtype.kind in "fiu" else ""
        got = x.dtype.name if x.dtype.isnative else f"{x.dtype.str} (not the machine's byte order)"
        raise TypeError(f"{name}: float32, float16 or bfloat16 expected, got {got}{hint}")
    checked: NDArray[Any] = x
    return checked


def float32(name: str, x: Any) -> Float32:
    """x as aligned float32; float16 and bfloat16 widen exactly, float32 stays where it is."""
    if type(x) is np.ndarray and x.dtype is FLOAT32 and x.flags.aligned:
        return x  # at once: products of a few microseconds are made through here
    x = array(name, x)
    wide: Float32 = x.astype(np.float32, copy=not x.flags.aligned)
    return wide


def vector(name: str, x: Any, n: int) -> Float32 | None:
    """An optional contiguous vector of n values."""
    if x is None:
        return None
    x = float32(name, x)
    require_shape(name, x, (n,))
    return np.ascontiguousarray(x)


def require_shape(name: str, x: NDArray[Any], shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(f"{name}: shape {list(shape)} expected, got {list(x.shape)}")


def as_rows(x: NDArray[Any], inner: int = 1) -> NDArray[Any] | None:
    """x as rows [m, n] without a copy, n over its last `inner` axes; None if it does not lie so."""
    if x.ndim == 2 and inner == 1 and x.size and x.strides == (x.shape[1] * x.itemsize, x.itemsize):
        return x
    split = x.ndim - inner
    n = math.prod(x.shape[split:])
    if x.size == 0:
        return x.reshape(math.prod(x.shape[:split]), n)
    expected = step = x.itemsize
    for length, stride in zip(x.shape[split:][::-1], x.strides[split:][::-1], strict=True):
        if length != 1 and stride != expected:
            return None
        expected *= length
    step, expected, rows = n * x.itemsize, 0, 1
    for length, stride in zip(x.shape[:split][::-1], x.strides[:split][::-1], strict=True):
        if length == 1:
            continue
        if not expected:
            step = expected = stride
            if step < n * x.itemsize or step % x.itemsize:
                return None
        elif stride != expected:
            return None
        expected *= length
        rows *= length
    return as_strided(x, (rows, n), (step, x.itemsize))


def rows(x: NDArray[Any], inner: int = 1) -> NDArray[Any]:
    """x as rows [m, n], copied if it does not lie so."""
    found = as_rows(x, inner)
    if found is None:
        found = as_rows(np.ascontiguousarray(x), inner)
        assert found is not None
    return found


def target(name: str, out: Any, shape: tuple[int, ...], inner: int = 1, dtype: Any = np.float32) -> NDArray[Any]:
    """A new array, or the caller's after all checks."""
    if out is None:
        return empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        got = out.dtype.name if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{name}: a {np.dtype(dtype).name} array expected, got {got}")
    require_shape(name, out, shape)
    if not out.flags.writeable or not out.flags.aligned:
        raise ValueError(f"{name}: the array must be {'aligned' if out.flags.writeable else 'writable'}")
    if as_rows(out, inner) is None:
        raise ValueError(
            f"{name}: rows of contiguous values expected, got strides {list(out.strides)}; pass a C-contiguous array"
        )
    return out


def overlaps(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Do they share memory? Where finding out is hard, yes."""
    if not np.may_share_memory(x, y):
        return False
    try:
        return np.shares_memory(x, y, max_work=1000)  # type: ignore[arg-type]  # numpy's stub knows two values
    except Exception as error:  # numpy's TooHardError has moved between modules
        if type(error).__name__ != "TooHardError":
            raise
        return True


def apart(x: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
    """x, or a copy of it where writing out would change it."""
    return x.copy() if overlaps(x, out) else x


def apart_or_same(x: Float32, out: Float32) -> Float32:
    """As `apart`, for kernels that may work in place: x may be out itself."""
    same = x.ctypes.data == out.ctypes.data and x.shape == out.shape and x.strides == out.strides
    return x if same else apart(x, out)
