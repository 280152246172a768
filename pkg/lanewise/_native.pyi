"""The binding: one class per C handle, one method per C function; see csrc/lanewise.h for what each does.

Arrays are objects with the buffer protocol (NumPy arrays), innermost dimension contiguous. A wrong dtype or number of
dimensions is a TypeError, a size out of range a ValueError, no memory a MemoryError; Ctrl-C in a running call is
KeyboardInterrupt, and the handles stay usable.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PAGE: int
SEGMENT: int
LOGITS: int
NONE: int

class Isa(NamedTuple):
    name: str
    missing: str | None

def isas() -> list[Isa]: ...
def machine() -> dict[str, Any]: ...

class Context:
    isa: str
    threads: int
    has_dot: bool
    def __init__(self, isa: str | None = None, threads: int = 0) -> None: ...
    def measure(self, what: str, nbytes: int = 0) -> tuple[float, float]: ...

def packed_size(format: str, n: int, k: int) -> int:
    """Bytes of n x k weights in a packed format. ValueError for sizes that it does not take."""

class Memory:
    """Zeros for the lines of many weights, a writable buffer; from 2 MiB on in huge pages if the system has them."""

    nbytes: int
    def __init__(self, nbytes: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Weight:
    n: int
    k: int
    format: str
    nbytes: int
    def __init__(self, format: str, n: int, k: int, lines: Any = None, order: Any = None, empty: bool = False) -> None:
        """lines: bytes of packed_size at a multiple of 64, borrowed, as the weight's own buffer has them; or, empty,
        zeros to pack into.

        order: int32[k], a permutation: what is packed as input i is input order[i]. Quantised formats only.
        """
    def __buffer__(self, flags: int, /) -> memoryview:
        """The lines, read only."""
    def checksum(self, ctx: Context) -> int: ...
    def not_finite(self, ctx: Context) -> int | None:
        """The first row of a quantised weight with a scale or minimum that is infinite or NaN."""
    def pack(self, ctx: Context, source: Any, type: str, row0: int = 0, step: int = 1) -> None: ...
    def unpack(self, row0: int, out: NDArray[np.float32]) -> None: ...

class Cache:
    page_bytes: int
    pages: int
    def __init__(self, layers: int, kv_heads: int, head_dim: int, type: str) -> None: ...
    def reserve(self, pages: int) -> None: ...
    def copy_page(self, source: int, target: int) -> None: ...

class Program:
    n_ops: int
    def __init__(self, ctx: Context, ops: Sequence[Any], slot_widths: Sequence[int]) -> None: ...
    def scratch(self, rows: int) -> int: ...
    def run(
        self,
        cache: Cache | None,
        tokens: NDArray[np.int32],
        row_starts: NDArray[np.int32],
        first_position: NDArray[np.int32],
        page_table: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        logits: NDArray[np.float32],
        op_ns: NDArray[np.int64] | None = None,
    ) -> None: ...

def gemm(
    ctx: Context,
    a: Any,
    w: Any,  # a Weight, or with plain="float32" | "float16" | "bfloat16" | "int8" an array [n, k] of any strides
    c: Any,
    bias: Any = None,
    residual: Any = None,
    exact: bool = True,
    act: str = "none",
    gated: int = 0,
    row_scale: Any = None,
    column_scale: Any = None,
    plain: str | None = None,
) -> None: ...
def multiply(
    ctx: Context,
    a: Any,
    b: Any,  # [k, n], or transposed: [n, k]; a Weight is [n, k] anyway
    c: Any,  # or None
    transposed: bool,
    exact: bool,
    scales: NDArray[np.float32] | None,
    empty: Callable[[tuple[int, int], str], NDArray[Any]],
) -> NDArray[Any] | None: ...
def rms_norm(ctx: Context, x: Any, w: Any, eps: float, y: Any) -> None: ...
def layer_norm(ctx: Context, x: Any, w: Any, b: Any, eps: float, y: Any) -> None: ...
def softmax(ctx: Context, x: Any, y: Any) -> None: ...
def activation(ctx: Context, act: str, x: Any, y: Any) -> None: ...
def mul_activation(ctx: Context, act: str, gate: Any, up: Any, y: Any) -> None: ...
def rope(
    ctx: Context, x: Any, positions: Any, inv_freq: Any, heads: int, interleaved: bool = False, factor: float = 1.0
) -> None: ...
def append(
    ctx: Context, cache: Cache, layer: int, row_starts: Any, first_position: Any, page_table: Any, k: Any, v: Any
) -> None: ...
def attend(
    ctx: Context,
    cache: Cache,
    layer: int,
    row_starts: Any,
    first_position: Any,
    page_table: Any,
    q: Any,
    out: Any,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    softcap: float = 0.0,
    causal: bool = True,
    window: tuple[int, int] = (-1, -1),
    kv_length: Any = None,
    lse: Any = None,
    exact: bool = True,
) -> None: ...
