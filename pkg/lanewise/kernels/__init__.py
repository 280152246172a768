"""The kernels on NumPy arrays: no model needed.

    from lanewise import kernels as k
    w = k.pack(weights)                     # once: [n, k], rows are outputs
    c = k.gemm(a, w, bias=b, activation="silu")
    o = k.attention(q, key, value, causal=True)
    with k.threads(2), k.isa("avx2"):
        c = k.gemm(a, w)                    # the same bits

Arrays are float32, or bfloat16 (ml_dtypes) and float16, which are widened exactly; results are float32. `gemm` also
takes int8 and uint8, with exact int32 sums. float64 is refused: rounding is the caller's to choose. Inputs may have any
strides; those that the kernels cannot walk are copied.
`out=` must be a writable float32 array of the result's shape that can be seen as rows of contiguous values; it may
overlap the inputs. Any thread may call anything here; calls for the same table and thread count take turns.
"""

from .arrays import Float32
from .attend import attention
from .contexts import context, isa, tables, threads
from .packed import QUANTISED, PackedMatrix, pack, pack_blocks, pack_gated
from .products import gemm
from .quantised import dequantize, quantize
from .rows import (
    exp,
    gelu,
    gelu_mul,
    gelu_tanh,
    layer_norm,
    relu2,
    rms_norm,
    rope,
    silu,
    silu_mul,
    softmax,
    tanh,
)

__all__ = [
    "QUANTISED", "Float32", "PackedMatrix", "attention", "context", "dequantize", "exp", "gelu", "gelu_mul",
    "gelu_tanh", "gemm", "isa", "layer_norm", "pack", "pack_blocks", "pack_gated", "quantize", "relu2", "rms_norm",
    "rope", "silu", "silu_mul", "softmax", "tables", "tanh", "threads",
]  # fmt: skip
