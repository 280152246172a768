# cython: language_level=3, boundscheck=False
"""The binding: one class per C handle, one method per C function, no logic (`multiply` looks at its
arrays itself, for speed). _native.pyi documents it."""
from collections import namedtuple
from cpython.buffer cimport (PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release,
                             PyObject_GetBuffer)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

include "_native.pxi"

PAGE = LW_PAGE
SEGMENT = LW_SEGMENT
LOGITS = LW_LOGITS
NONE = LW_NONE
Isa = namedtuple("Isa", ["name", "missing"])

_TYPES = {"float32": LW_F32, "float16": LW_F16, "bfloat16": LW_BF16, "int8": LW_I8, "blocks": LW_BLOCKS}
_CODES = {"f": LW_F32, "H": LW_BF16, "b": LW_I8, "B": LW_U8, "i": LW_I32}
_BUFFERS = {"float32": "f", "float16": "e", "bfloat16": "H", "int8": "b", "blocks": "B"}
_FORMATS = {"float32": LW_P32, "bfloat16": LW_P16, "int8": LW_P8, "q4_0": LW_Q4_0, "q4_1": LW_Q4_1, "q5_0": LW_Q5_0,
            "q5_1": LW_Q5_1, "q8_0": LW_Q8_0, "q2_k": LW_Q2_K, "q3_k": LW_Q3_K, "q4_k": LW_Q4_K, "q5_k": LW_Q5_K,
            "q6_k": LW_Q6_K, "iq4_nl": LW_IQ4_NL, "iq4_xs": LW_IQ4_XS, "mxfp4": LW_MXFP4, "iq2_w": LW_IQ2_W,
            "iq3_xxs_w": LW_IQ3_XXS_W, "iq3_s_w": LW_IQ3_S_W}
_FORMAT_NAMES = {code: name for name, code in _FORMATS.items()}
_ACTS = {"none": LW_ACT_NONE, "silu": LW_ACT_SILU, "gelu": LW_ACT_GELU, "gelu_tanh": LW_ACT_GELU_TANH,
         "relu2": LW_ACT_RELU2, "tanh": LW_ACT_TANH, "exp": LW_ACT_EXP}
_OPS = {"embed": LW_OP_EMBED, "angles": LW_OP_ANGLES, "norm": LW_OP_NORM, "linear": LW_OP_LINEAR, "rope": LW_OP_ROPE,
        "append": LW_OP_APPEND, "attend": LW_OP_ATTEND, "add": LW_OP_ADD,
        "last": LW_OP_LAST}
_PEAKS = {"float32": LW_PEAK_F32, "bfloat16": LW_PEAK_BF16, "int8": LW_PEAK_INT8, "read": LW_PEAK_READ,
          "barrier": LW_PEAK_BARRIER}


cdef int _poll(void *unused) noexcept with gil:
    """Ctrl-C: the handler's exception is set here and raised when the C call returns."""
    try:
        PyErr_CheckSignals()
        return 0
    except BaseException as error:
        _pending.append(error)
        return 1


_pending = []


cdef int _check(lw_status status) except -1:
    if status == LW_OK:
        return 0
    text = lw_status_text(status).decode()
    if status == LW_E_CANCELLED:
        raise _pending.pop() if _pending else KeyboardInterrupt(text)
    if status == LW_E_MEMORY:
        raise MemoryError(text)
    if status in (LW_E_ARGUMENT, LW_E_ISA):
        raise ValueError(text)
    raise OSError(text)


cdef _named(table, name, what):
    try:
        return table[name]
    except KeyError:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}") from None


cdef class _View:
    """A borrowed array: dtype, dimensions and an innermost contiguous axis checked; released with the object."""
    cdef Py_buffer b
    cdef bint held

    def __cinit__(self, obj, str formats, int ndim, bint writable=False, bint strided=False):
        PyObject_GetBuffer(obj, &self.b, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
        self.held = True
        if self.code() not in formats:
            raise TypeError(f"array of format {formats!r} expected, got {self.code()!r}")
        if self.b.ndim != ndim:
            raise TypeError(f"array of {ndim} dimensions expected, got {self.b.ndim}")
        if ndim and not strided and self.b.shape[ndim - 1] > 1 and self.b.strides[ndim - 1] != self.b.itemsize:
            raise ValueError("the innermost axis must be contiguous")
        if ndim == 2 and not strided and self.b.shape[0] > 1 and self.b.strides[0] % self.b.itemsize:
            raise ValueError("the stride of rows must be a whole number of elements")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.b)

    cdef str code(self):
        return (<bytes>self.b.format).decode().lstrip("@=<") if self.b.format else "B"

    cdef Py_ssize_t n(self, int axis) noexcept:
        return self.b.shape[axis]

    cdef int64_t ld(self) noexcept:
        """Elements from row to row; rows that do not exist or repeat count as packed."""
        return self.b.strides[0] // self.b.itemsize if self.b.shape[0] > 1 else self.b.shape[1]


cdef _View _f32(obj, int ndim, bint writable=False):
    return _View(obj, "f", ndim, writable)


cdef _View _i32(obj, int ndim):
    return _View(obj, "i", ndim)


cdef _View _maybe(obj, Py_ssize_t n):
    """An optional float32 vector of at least n values."""
    if obj is None:
        return None
    cdef _View v = _f32(obj, 1)
    _require(v.n(0) >= n, f"vector of {n} values expected, got {v.n(0)}")
    return v


cdef int _require(bint ok, message) except -1:
    if not ok:
        raise ValueError(message)
    return 0


cdef const float *_ptr(_View v) noexcept:
    return <const float *>v.b.buf if v is not None else NULL


def isas():
    return [Isa(lw_isa_name(i).decode(), lw_isa_missing(i).decode() if lw_isa_missing(i) != NULL else None)
            for i in range(lw_isa_count())]


def machine():
    cdef lw_machine m
    lw_machine_query(&m)
    return {"brand": (<bytes>m.brand).decode("ascii", "replace"), "logical": m.logical, "physical": m.physical,
            "affinity": m.affinity, "quota": m.quota, "threads": m.threads, "l1d": m.l1d, "l2": m.l2, "l3": m.l3,
            "huge_pages": ("never", "madvise", "always")[m.huge_pages]}


cdef class Context:
    cdef lw_ctx *h

    def __cinit__(self, isa=None, int threads=0):
        cdef lw_options options
        cdef bytes name = isa.encode() if isa is not None else b""
        options.isa = <const char *>name if isa is not None else NULL
        options.threads = threads
        _check(lw_ctx_create(&options, &self.h))
        lw_ctx_set_poll(self.h, _poll, NULL)

    def __dealloc__(self):
        lw_ctx_free(self.h)

    @property
    def isa(self):
        return lw_ctx_isa(self.h).decode()

    @property
    def threads(self):
        return lw_ctx_threads(self.h)

    @property
    def has_dot(self):
        return bool(lw_ctx_has_dot(self.h))

    def measure(self, str what, size_t nbytes=0):
        cdef double work = 0, seconds = 0
        cdef lw_peak peak = _named(_PEAKS, what, "what")
        cdef lw_status status
        with nogil:
            status = lw_measure(self.h, peak, nbytes, &work, &seconds)
        _check(status)
        return work, seconds


include "_native_weight.pxi"


cdef class Cache:
    cdef lw_cache *h

    def __cinit__(self, int layers, int kv_heads, int head_dim, str type):
        cdef lw_cache_shape shape
        shape.layers, shape.kv_heads, shape.head_dim, shape.type = layers, kv_heads, head_dim, _named(_TYPES, type, "type")
        _check(lw_cache_create(&shape, &self.h))

    def __dealloc__(self):
        lw_cache_free(self.h)

    @property
    def page_bytes(self):
        return lw_cache_page_bytes(self.h)

    @property
    def pages(self):
        return lw_cache_pages(self.h)

    def reserve(self, int64_t pages):
        _check(lw_cache_reserve(self.h, pages))

    def copy_page(self, int32_t source, int32_t target):
        _check(lw_cache_copy_page(self.h, source, target))


cdef class _Sequences:
    """The arrays of lw_sequences, held for one call."""
    cdef lw_sequences s
    cdef _View starts, first, table

    def __cinit__(self, row_starts, first_position, page_table):
        self.starts, self.first, self.table = _i32(row_starts, 1), _i32(first_position, 1), _i32(page_table, 2)
        cdef Py_ssize_t count = self.first.n(0)
        _require(self.starts.n(0) == count + 1, "row_starts needs one entry more than first_position")
        _require(self.table.n(0) == count and self.table.ld() == self.table.n(1), "page_table must be packed, a row a sequence")
        self.s.count = <int>count
        self.s.row_starts, self.s.first_position = <int32_t *>self.starts.b.buf, <int32_t *>self.first.b.buf
        self.s.page_table, self.s.table_width = <int32_t *>self.table.b.buf, <int>self.table.n(1)

    cdef int rows(self) noexcept:
        return self.s.row_starts[self.s.count]


cdef class Program:
    cdef lw_program *h
    cdef object keep
    cdef Context ctx
    cdef readonly int n_ops

    def __cinit__(self, Context ctx not None, ops, slot_widths):
        cdef int n = len(ops), n_slots = len(slot_widths), i
        cdef lw_op *list_ = <lw_op *>calloc(n + 1, sizeof(lw_op))
        cdef int32_t *widths = <int32_t *>calloc(n_slots + 1, sizeof(int32_t))
        self.ctx, self.n_ops, self.keep = ctx, n, []
        try:
            if list_ == NULL or widths == NULL:
                raise MemoryError
            for i in range(n_slots):
                widths[i] = slot_widths[i]
            for i in range(n):
                self._fill(&list_[i], ops[i])
            _check(lw_program_create(ctx.h, list_, n, widths, n_slots, &self.h))
        finally:
            free(list_)
            free(widths)

    cdef _vector(self, obj):
        if obj is None:
            return None
        cdef _View v = _f32(obj, 1)
        self.keep.append(v)
        return v

    cdef int _fill(self, lw_op *op, o) except -1:
        cdef _View vec = self._vector(o.vec), bias = self._vector(o.bias)
        cdef Weight w = o.weight
        op.kind, op.in_, op.in2, op.out = _named(_OPS, o.kind, "op"), o.in_, o.in2, o.out
        op.column, op.column2, op.width, op.groups, op.pairs = o.column, o.column2, o.width, o.groups, o.pairs
        op.variant = _ACTS[o.variant] if isinstance(o.variant, str) else o.variant
        op.layer, op.exact, op.eps, op.scale = o.layer, o.exact, o.eps, o.scale
        op.in_dot, op.out_dot = o.in_dot, o.out_dot
        if w is not None:
            op.w = w.h
            self.keep.append(w)
        op.vec, op.bias = _ptr(vec), _ptr(bias)
        if o.attention is not None:
            _shape(&op.attention, o.attention)
        return 0

    def __dealloc__(self):
        lw_program_free(self.h)

    def scratch(self, int64_t rows):
        return lw_program_scratch(self.h, rows)

    def run(self, Cache cache, tokens, row_starts, first_position, page_table, logit_rows, logits, op_ns=None):
        cdef _View t = _i32(tokens, 1), r = _i32(logit_rows, 1), out = _f32(logits, 2, True)
        cdef _View ns = _View(op_ns, "lq", 1, True) if op_ns is not None else None
        cdef _Sequences s = _Sequences(row_starts, first_position, page_table)
        cdef lw_batch b
        _require(out.n(0) == r.n(0), "logits needs a row for every entry of logit_rows")
        _require(s.rows() == t.n(0), "row_starts must end at the number of tokens")
        _require(ns is None or ns.n(0) >= self.n_ops, "op_ns needs an entry for every op")
        b.rows, b.tokens, b.sequences = <int>t.n(0), <int32_t *>t.b.buf, s.s
        b.n_logits, b.logit_rows = <int>r.n(0), <int32_t *>r.b.buf
        b.logits, b.ld_logits = <float *>out.b.buf, out.ld()
        b.op_ns = <int64_t *>ns.b.buf if ns is not None else NULL
        cdef lw_cache *c = cache.h if cache is not None else NULL
        cdef lw_status status
        with nogil:
            status = lw_run(self.h, c, &b)
        _check(status)


cdef int _shape(lw_attention_shape *shape, o) except -1:
    shape.heads, shape.kv_heads, shape.scale, shape.softcap = o.heads, o.kv_heads, o.scale, o.softcap
    shape.causal, (shape.window_left, shape.window_right) = o.causal, o.window
    return 0


include "_native_kernels.pxi"
