"""Matrix products by the libraries that a Python user can install, ours among them, each as it is fastest.

A library is a function (threads, isa) -> (what it is, {(format, name): make}). make(w) packs weights [n, k], where the
library can, and returns at(a), which prepares for activations [m, k] and returns run(): one product, its result [m, n].
Formats: "f32"; "bf16" (arrays are float32 that hold bfloat16 values); "int8" (a uint8 of 7 bits, w int8). Outputs are
allocated beforehand where the library takes them. Nothing is installed: a library that is not there raises ImportError.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lanewise.memory import empty  # results on cache lines, for everybody

Run = Callable[[], Any]
At = Callable[[Any], Run]
Make = Callable[[Any], At]
Library = tuple[str, dict[tuple[str, str], Make]]
_held = ExitStack()  # for as long as the process lives: a context manager that is collected is left


def bits(x: Any) -> Any:
    """The bfloat16 bits of float32 values that are bfloat16 values."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def lanewise(threads: int, isa: str | None) -> Library:
    """Through the public API. bf16: "dot" uses the CPU's bf16 dot product, "exact" multiplies float32 activations."""
    from lanewise import __version__, kernels

    _held.enter_context(kernels.threads(threads))
    if isa:
        _held.enter_context(kernels.isa(isa))

    def make(dtype: str, result: type, **options: bool) -> Make:
        def packed(w: Any) -> At:
            weight = kernels.pack(w, dtype)  # type: ignore[arg-type]

            def at(a: Any) -> Run:
                c = empty((len(a), len(w)), result)
                a = a.view(np.int8) if dtype == "int8" else a  # 7 bits, so the same values
                return partial(kernels.gemm, a, weight, out=c, **options)

            return at

        return packed

    found = {("f32", "lanewise"): make("float32", np.float32)}
    found["bf16", "lanewise exact"] = make("bfloat16", np.float32, exact=True)
    if kernels.context().has_dot:
        found["bf16", "lanewise"] = make("bfloat16", np.float32, exact=False)
    try:
        make("int8", np.int32)(np.zeros((16, 64), np.int8))(np.zeros((1, 64), np.uint8))()
        found["int8", "lanewise"] = make("int8", np.int32)
    except (TypeError, ValueError):
        pass
    what = f"lanewise {__version__}, table {kernels.context().isa}, {kernels.context().threads} threads"
    return what, found


def numpy(threads: int, isa: str | None) -> Library:
    """Its BLAS has no packed weights: the weights as they lie in a model, and transposed beforehand."""

    def plain(w: Any) -> At:
        return lambda a: partial(np.matmul, a, w.T, out=empty((len(a), len(w)), np.float32))

    def transposed(w: Any) -> At:
        wt = np.ascontiguousarray(w.T)
        return lambda a: partial(np.matmul, a, wt, out=empty((len(a), len(w)), np.float32))

    what = f"numpy {np.__version__}"
    try:
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            if pool["user_api"] == "blas":
                what += f", {pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"
                what += f" on {pool['num_threads']} threads"
    except ImportError:
        what += ", which kernel runs is not known without threadpoolctl"
    return what, {("f32", "numpy"): plain, ("f32", "numpy transposed"): transposed}


def blis(threads: int, isa: str | None) -> Library:
    import blis.py as blis_py
    from blis.about import __version__

    def plain(w: Any) -> At:
        gemm = partial(blis_py.gemm, trans2=True, beta=0.0)
        return lambda a: partial(gemm, a, w, out=empty((len(a), len(w)), np.float32))

    return f"blis {__version__}", {("f32", "blis"): plain}


class Mkl:
    """MKL through its C interface: 101 = row major, 111 = as it lies, 112 = transposed, 151 = packed, 162 = B.

    What is run names every array whose address it passes, so that they live as long as it does.
    """

    def __init__(self, threads: int) -> None:
        places = [Path(folder) for folder in (sys.prefix + "/lib", *sys.path) if folder]
        files = [file for place in places for file in sorted(place.glob("libmkl_rt.so*"))]
        if not files:
            raise ImportError("no libmkl_rt")
        self.lib = ctypes.CDLL(str(files[0]))
        self.lib.MKL_Set_Threading_Layer(0)
        self.lib.MKL_Set_Num_Threads(threads)
        text = ctypes.create_string_buffer(200)
        self.lib.MKL_Get_Version_String(text, 200)
        self.version = text.value.decode().split("Version ")[-1].split("-Product")[0]

    @staticmethod
    def at(x: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(x.ctypes.data)

    def packed(self, function: str, w: Any, m: int, scale: tuple[Any, ...]) -> Any:
        """w [n, k] packed for m rows by FUNCTION_pack; the array keeps it aligned to 64."""
        n, k = w.shape
        size = getattr(self.lib, f"{function}_pack_get_size")
        size.restype = ctypes.c_size_t
        memory = np.empty(size(162, m, n, k) + 64, np.uint8)
        memory = memory[-memory.ctypes.data % 64 :]
        getattr(self.lib, f"{function}_pack")(101, 162, 112, m, n, k, *scale, self.at(w), k, self.at(memory))
        return memory

    def sgemm(self, w: Any) -> At:
        n, k = w.shape

        def at(a: Any) -> Run:
            c, one, zero = empty((len(a), n), np.float32), ctypes.c_float(1), ctypes.c_float(0)
            left = (101, 111, 112, len(a), n, k, one, self.at(a), k, self.at(w), k, zero, self.at(c), n)
            return lambda: (self.lib.cblas_sgemm(*left), c, a)[1]

        return at

    def sgemm_packed(self, w: Any) -> At:
        n, k = w.shape

        def at(a: Any) -> Run:
            c, one, zero = empty((len(a), n), np.float32), ctypes.c_float(1), ctypes.c_float(0)
            b = self.packed("cblas_sgemm", w, len(a), (one,))
            left = (101, 111, 151, len(a), n, k, self.at(a), k, self.at(b), n, zero, self.at(c), n)
            return lambda: (self.lib.cblas_sgemm_compute(*left), c, a, b)[1]

        return at

    def bf16(self, w: Any) -> At:
        n, k = w.shape
        wb = bits(w)

        def at(a: Any) -> Run:
            ab, c = bits(a), empty((len(a), n), np.float32)
            one, zero = ctypes.c_float(1), ctypes.c_float(0)
            b = self.packed("cblas_gemm_bf16bf16f32", wb, len(a), ())
            left = (101, 111, 151, len(a), n, k, one, self.at(ab), k, self.at(b), n, zero, self.at(c), n)
            return lambda: (self.lib.cblas_gemm_bf16bf16f32_compute(*left), c, ab, b)[1]

        return at

    def int8(self, w: Any) -> At:
        n, k = w.shape

        def at(a: Any) -> Run:
            c, offset = empty((len(a), n), np.int32), np.zeros(1, np.int32)
            one, zero, none = ctypes.c_float(1), ctypes.c_float(0), ctypes.c_int8(0)
            b = self.packed("cblas_gemm_s8u8s32", w, len(a), ())
            left = (101, 111, 151, 173, len(a), n, k, one, self.at(a), k, none, self.at(b), n, none, zero)
            left += (self.at(c), n, self.at(offset))  # type: ignore[assignment]
            return lambda: (self.lib.cblas_gemm_s8u8s32_compute(*left), c, a, b, offset)[1]

        return at


def mkl(threads: int, isa: str | None) -> Library:
    found = Mkl(threads)
    return f"MKL {found.version}", {
        ("f32", "mkl"): found.sgemm, ("f32", "mkl packed"): found.sgemm_packed, ("bf16", "mkl packed"): found.bf16,
        ("int8", "mkl packed"): found.int8,
    }  # fmt: skip


def torch(threads: int, isa: str | None) -> Library:
    """oneDNN; "packed" is what torch.compile's constant folding makes of a linear layer. bf16 results are bfloat16."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import warnings

    import torch as t

    warnings.filterwarnings("ignore", message=".*quantized tensor creation.*")
    t.set_num_threads(threads)
    t.set_grad_enabled(False)
    t.inference_mode().__enter__()
    t.backends.quantized.engine = "onednn"

    def plain(kind: Any) -> Make:
        def make(w: Any) -> At:
            tw = t.from_numpy(w).to(kind)
            return lambda a: partial(t.nn.functional.linear, t.from_numpy(a).to(kind), tw)

        return make

    def packed(kind: Any) -> Make:
        def make(w: Any) -> At:
            tw = t.from_numpy(w).to(kind)

            def at(a: Any) -> Run:
                ta, b = t.from_numpy(a).to(kind), t.ops.mkldnn._reorder_linear_weight(tw, len(a))
                linear = t.ops.mkldnn._linear_pointwise
                return lambda: linear(ta, b, None, "none", [], "")

            return at

        return make

    def int8(w: Any) -> At:
        tw, scale, zero = t.from_numpy(w), t.ones(len(w)), t.zeros(len(w), dtype=t.int64)

        def at(a: Any) -> Run:
            ta, b = t.from_numpy(a), t.ops.onednn.qlinear_prepack(tw, list(a.shape))
            linear = t.ops.onednn.qlinear_pointwise
            return lambda: linear(ta, 1.0, 0, b, scale, zero, None, 1.0, 0, t.float32, "none", [], "")

        return at

    def dynamic(w: Any) -> At:
        b = t.ops.quantized.linear_prepack(t._make_per_tensor_quantized_tensor(t.from_numpy(w), 1.0, 0), None)
        linear = t.ops.quantized.linear_dynamic
        return lambda a: partial(linear, t.from_numpy(a).float(), b)

    return f"torch {t.__version__}, oneDNN", {
        ("f32", "torch"): plain(t.float32), ("f32", "torch packed"): packed(t.float32),
        ("bf16", "torch"): plain(t.bfloat16), ("bf16", "torch packed"): packed(t.bfloat16),
        ("int8", "torch packed"): int8, ("int8", "torch dynamic"): dynamic,
    }  # fmt: skip


def onnxruntime(threads: int, isa: str | None) -> Library:
    """MLAS, in models of one node: constant weights are packed when the session is made; results are bound."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8,
             np.dtype(np.int32): TensorProto.INT32}  # fmt: skip

    def session(node: str, w: Any, source: type, result: type, constants: tuple[Any, ...], domain: str) -> Any:
        names = [f"x{i}" for i in range(len(constants))]
        held = [numpy_helper.from_array(np.asarray(x), name) for x, name in zip(constants, names, strict=True)]
        graph = helper.make_graph(
            [helper.make_node(node, ["a", "w", *names], ["c"], domain=domain)],
            "product",
            [helper.make_tensor_value_info("a", types[np.dtype(source)], ["m", w.shape[1]])],
            [helper.make_tensor_value_info("c", types[np.dtype(result)], ["m", len(w)])],
            [numpy_helper.from_array(np.ascontiguousarray(w.T), "w"), *held],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def make(node: str, source: type, result: type, constants: tuple[Any, ...] = (), domain: str = "") -> Make:
        def packed(w: Any) -> At:
            held = session(node, w, source, result, constants, domain)

            def at(a: Any) -> Run:
                a, c = np.ascontiguousarray(a, source), empty((len(a), len(w)), result)
                bound = held.io_binding()
                bound.bind_cpu_input("a", a)
                bound.bind_output("c", "cpu", 0, result, c.shape, c.ctypes.data)
                return lambda: (held.run_with_iobinding(bound), c, a)[1]

            return at

        return packed

    dynamic = make("DynamicQuantizeMatMul", np.float32, np.float32, (np.float32(1), np.int8(0)), "com.microsoft")
    return f"onnxruntime {ort.__version__}, MLAS", {
        ("f32", "mlas"): make("MatMul", np.float32, np.float32),
        ("int8", "mlas"): make("MatMulInteger", np.uint8, np.int32),
        ("int8", "mlas dynamic"): dynamic,
    }  # fmt: skip


LIBRARIES: dict[str, Callable[[int, str | None], Library]] = {
    "lanewise": lanewise, "numpy": numpy, "mkl": mkl, "blis": blis, "torch": torch, "onnxruntime": onnxruntime,
}  # fmt: skip
OURS = "lanewise"
