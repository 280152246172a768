# The kernels on plain arrays: the second half of _native.pyx, which includes it.


cdef _scales(obj, Py_ssize_t n):
    """An optional float32 vector of exactly n values."""
    cdef _View v = _maybe(obj, n)
    _require(v is None or v.n(0) == n, f"vector of {n} values expected")
    return v


def gemm(Context ctx not None, a, w, c, bias=None, residual=None, bint exact=True, str act="none", int64_t gated=0,
         row_scale=None, column_scale=None, str plain=None):
    cdef _View va = _View(a, "fbBH", 2), vc = _View(c, "fHi", 2, True), vw = None
    cdef lw_gemm_args g
    cdef lw_source b
    cdef Py_ssize_t n, k
    memset(&g, 0, sizeof(g))
    if plain is None:
        g.w = (<Weight?>w).h
        n, k = lw_weight_n(g.w), lw_weight_k(g.w)
    else:
        vw = _View(w, _BUFFERS.get(plain, ""), 2, False, True)
        n, k = vw.n(0), vw.n(1)
        b.data, b.type, b.rows, b.row_stride, b.col_stride = vw.b.buf, _TYPES[plain], n, vw.b.strides[0], vw.b.strides[1]
        g.plain, g.k = &b, k
    cdef Py_ssize_t columns = gated if gated else n
    cdef _View vb = _maybe(bias, n), vr = _f32(residual, 2) if residual is not None else None
    cdef _View vs = _maybe(row_scale, va.n(0)), vt = _maybe(column_scale, n)
    _require(va.n(1) == k and vc.n(1) == columns and vc.n(0) == va.n(0), "a[m, k], w[n, k] and c[m, n] do not fit together")
    _require(vr is None or (vr.n(0) == va.n(0) and vr.n(1) == columns), "residual must have the shape of c")
    g.a, g.a_type, g.lda = va.b.buf, _CODES[va.code()], va.ld()
    g.c, g.c_type, g.ldc, g.m = vc.b.buf, _CODES[vc.code()], vc.ld(), va.n(0)
    g.row_scale, g.column_scale, g.bias, g.residual = _ptr(vs), _ptr(vt), _ptr(vb), _ptr(vr)
    g.ldr, g.act, g.gated, g.exact = (vr.ld() if vr is not None else 0), _named(_ACTS, act, "act"), gated, exact
    cdef lw_status status
    with nogil:
        status = lw_gemm(ctx.h, &g)
    _check(status)


cdef bint _lent(obj, Py_buffer *v, int flags):
    """Does obj lend its memory? NumPy's extension types, for example, cannot say what they are."""
    try:
        PyObject_GetBuffer(obj, v, PyBUF_STRIDES | PyBUF_FORMAT | flags)
        return True
    except (BufferError, TypeError, ValueError):
        return False


cdef bint _is_matrix(const Py_buffer *v, char code) noexcept:
    """Elements of `code` at whole multiples of their size?"""
    return (v.ndim == 2 and v.format != NULL and v.format[0] == code and v.format[1] == 0 and
            (<size_t>v.buf | <size_t>v.strides[0] | <size_t>v.strides[1]) % <size_t>v.itemsize == 0)


cdef bint _packed_rows(const Py_buffer *v) noexcept:
    return v.strides[1] == v.itemsize and v.strides[0] == v.shape[1] * v.itemsize


cdef bint _may_overlap(const Py_buffer *x, const Py_buffer *y) noexcept:
    """By the first and the last byte; with a negative stride, yes."""
    cdef size_t x0 = <size_t>x.buf, y0 = <size_t>y.buf
    if x.strides[0] < 0 or x.strides[1] < 0 or y.strides[0] < 0 or y.strides[1] < 0:
        return True
    return (x0 < y0 + (y.shape[0] - 1) * y.strides[0] + (y.shape[1] - 1) * y.strides[1] + y.itemsize and
            y0 < x0 + (x.shape[0] - 1) * x.strides[0] + (x.shape[1] - 1) * x.strides[1] + x.itemsize)


def multiply(Context ctx not None, a, b, c, bint transposed, bint exact, scales, empty):
    """gemm where nothing needs a copy or an explanation, else None; c None: empty(shape, type) makes it."""
    cdef Py_buffer va, vb, vc
    cdef bint plain = not isinstance(b, Weight), given = c is not None
    cdef int held = 0
    cdef Py_ssize_t n, k
    cdef lw_gemm_args g
    cdef lw_source source
    cdef lw_status status
    cdef _View vs = None
    memset(&g, 0, sizeof(g))
    try:
        if not _lent(a, &va, 0):
            return None
        held = 1
        if plain:
            if not _lent(b, &vb, 0):
                return None
            held = 2
            if not _is_matrix(&vb, b"f"):
                return None
            source.data, source.type = vb.buf, LW_F32
            n, k = vb.shape[not transposed], vb.shape[transposed]
            source.rows, source.row_stride, source.col_stride = n, vb.strides[not transposed], vb.strides[transposed]
            g.plain, g.k = &source, k
        else:
            g.w = (<Weight>b).h
            n, k = lw_weight_n(g.w), lw_weight_k(g.w)
        if _is_matrix(&va, b"f"):
            g.a_type = LW_F32
        elif not plain and lw_weight_format(g.w) == LW_P8 and (_is_matrix(&va, b"b") or _is_matrix(&va, b"B")):
            g.a_type = LW_I8 if va.format[0] == b"b" else LW_U8
        else:
            return None
        if va.shape[1] != k or not va.shape[0] or not k or not n or not _packed_rows(&va):
            return None
        if scales is not None:
            vs = _f32(scales, 1)
            _require(vs.n(0) >= n, "scales: one for each column expected")
        g.c_type = LW_I32 if g.a_type != LW_F32 and vs is None else LW_F32
        if not given:
            c = empty((va.shape[0], n), "f" if g.c_type == LW_F32 else "i")
        if not _lent(c, &vc, PyBUF_WRITABLE):
            return None
        held |= 4
        if not _is_matrix(&vc, b"f" if g.c_type == LW_F32 else b"i") or vc.shape[0] != va.shape[0] or vc.shape[1] != n:
            return None
        if not _packed_rows(&vc) or (given and (_may_overlap(&va, &vc) or (plain and _may_overlap(&vb, &vc)))):
            return None
        g.a, g.lda, g.c, g.ldc, g.m, g.exact = va.buf, k, vc.buf, n, va.shape[0], exact
        g.column_scale = _ptr(vs)
        with nogil:
            status = lw_gemm(ctx.h, &g)
        _check(status)
        return c
    finally:
        if held & 4:
            PyBuffer_Release(&vc)
        if held & 3:
            PyBuffer_Release(&va)
        if held & 2:
            PyBuffer_Release(&vb)


def rms_norm(Context ctx not None, x, w, float eps, y):
    cdef _View vx = _f32(x, 2), vy = _f32(y, 2, True), vw = _maybe(w, vx.n(1))
    _require(vx.n(0) == vy.n(0) and vx.n(1) == vy.n(1), "x and y must have the same shape")
    _check(lw_rms_norm(ctx.h, vx.n(0), vx.n(1), _ptr(vx), vx.ld(), _ptr(vw), eps, <float *>vy.b.buf, vy.ld()))


def layer_norm(Context ctx not None, x, w, b, float eps, y):
    cdef _View vx = _f32(x, 2), vy = _f32(y, 2, True), vw = _maybe(w, vx.n(1)), vb = _maybe(b, vx.n(1))
    _require(vx.n(0) == vy.n(0) and vx.n(1) == vy.n(1), "x and y must have the same shape")
    _check(lw_layer_norm(ctx.h, vx.n(0), vx.n(1), _ptr(vx), vx.ld(), _ptr(vw), _ptr(vb), eps, <float *>vy.b.buf, vy.ld()))


def softmax(Context ctx not None, x, y):
    cdef _View vx = _f32(x, 2), vy = _f32(y, 2, True)
    _require(vx.n(0) == vy.n(0) and vx.n(1) == vy.n(1), "x and y must have the same shape")
    _check(lw_softmax(ctx.h, vx.n(0), vx.n(1), _ptr(vx), vx.ld(), <float *>vy.b.buf, vy.ld()))


def activation(Context ctx not None, str act, x, y):
    cdef _View vx = _f32(x, 1), vy = _f32(y, 1, True)
    _require(vx.n(0) == vy.n(0), "x and y must have the same length")
    _check(lw_activation(ctx.h, _named(_ACTS, act, "act"), vx.n(0), _ptr(vx), <float *>vy.b.buf))


def mul_activation(Context ctx not None, str act, gate, up, y):
    cdef _View vg = _f32(gate, 1), vu = _f32(up, 1), vy = _f32(y, 1, True)
    _require(vg.n(0) == vu.n(0) == vy.n(0), "gate, up and y must have the same length")
    _check(lw_mul_activation(ctx.h, _named(_ACTS, act, "act"), vg.n(0), _ptr(vg), _ptr(vu), <float *>vy.b.buf))


def rope(Context ctx not None, x, positions, inv_freq, int heads, bint interleaved=False, float factor=1.0):
    cdef _View vx = _f32(x, 2, True), vp = _i32(positions, 1), vf = _f32(inv_freq, 1)
    cdef lw_rope_args r
    _require(heads > 0 and vx.n(1) % heads == 0, "a row of x must hold `heads` heads")
    _require(vp.n(0) == vx.n(0), "positions needs one entry per row of x")
    r.x, r.ldx, r.tokens, r.heads, r.head_dim = <float *>vx.b.buf, vx.ld(), vx.n(0), heads, <int>(vx.n(1) // heads)
    r.pairs, r.interleaved, r.positions, r.inv_freq, r.factor = <int>vf.n(0), interleaved, <int32_t *>vp.b.buf, _ptr(vf), factor
    _check(lw_rope(ctx.h, &r))


def append(Context ctx not None, Cache cache not None, int layer, row_starts, first_position, page_table, k, v):
    cdef _Sequences s = _Sequences(row_starts, first_position, page_table)
    cdef _View vk = _f32(k, 2), vv = _f32(v, 2)
    _require(vk.n(0) >= s.rows() and vv.n(0) >= s.rows(), "k and v need a row for every row of the batch")
    _check(lw_cache_append(ctx.h, cache.h, layer, &s.s, _ptr(vk), vk.ld(), _ptr(vv), vv.ld()))


def attend(Context ctx not None, Cache cache not None, int layer, row_starts, first_position, page_table, q, out, *,
           int heads, int kv_heads, float scale, float softcap=0.0, bint causal=True, window=(-1, -1), kv_length=None,
           lse=None, bint exact=True):
    cdef _Sequences s = _Sequences(row_starts, first_position, page_table)
    cdef _View vq = _f32(q, 2), vo = _f32(out, 2, True)
    cdef _View vl = _f32(lse, 2, True) if lse is not None else None
    cdef _View vk = _i32(kv_length, 1) if kv_length is not None else None
    cdef lw_attend_args a
    _require(vq.n(0) >= s.rows() and vo.n(0) >= s.rows(), "q and out need a row for every row of the batch")
    _require(vl is None or (vl.n(0) >= s.rows() and vl.n(1) == heads and vl.ld() == heads), "lse must be packed [rows, heads]")
    _require(vk is None or vk.n(0) == s.s.count, "kv_length needs an entry for every sequence")
    a.q, a.ldq, a.out, a.ldo = _ptr(vq), vq.ld(), <float *>vo.b.buf, vo.ld()
    a.lse = <float *>vl.b.buf if vl is not None else NULL
    a.kv_length = <int32_t *>vk.b.buf if vk is not None else NULL
    a.layer, a.exact = layer, exact
    a.shape.heads, a.shape.kv_heads, a.shape.scale, a.shape.softcap = heads, kv_heads, scale, softcap
    a.shape.causal, a.shape.window_left, a.shape.window_right = causal, window[0], window[1]
    cdef lw_status status
    with nogil:
        status = lw_attend(ctx.h, cache.h, &s.s, &a)
    _check(status)
