# Packed weights: a part of _native.pyx, which includes it.


def packed_size(str format, int64_t n, int64_t k):
    cdef int64_t size = lw_weight_size(_named(_FORMATS, format, "format"), n, k)
    _require(size >= 0, f"{n} x {k} weights cannot be packed as {format}")
    return size


cdef class Memory:
    cdef void *data
    cdef readonly size_t nbytes

    def __cinit__(self, size_t nbytes):
        _check(lw_memory_alloc(nbytes, &self.data))
        self.nbytes = nbytes

    def __dealloc__(self):
        lw_memory_free(self.data, self.nbytes)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, 0, flags)


cdef class Weight:
    cdef lw_weight *h
    cdef _View lines

    def __cinit__(self, str format, int64_t n, int64_t k, lines=None, order=None, bint empty=False):
        cdef int64_t size = packed_size(format, n, k)
        cdef _View inputs = _i32(order, 1) if order is not None else None
        _require(inputs is None or inputs.n(0) == k, f"an order of {k} inputs expected")
        if lines is None:
            _check(lw_weight_create(_FORMATS[format], n, k, &self.h))
        else:
            self.lines = _View(lines, "B", 1, empty)
            _require(self.lines.n(0) == size, f"{size} bytes of lines expected, got {self.lines.n(0)}")
            _check(lw_weight_place(_FORMATS[format], n, k, self.lines.b.buf, &self.h) if empty else
                   lw_weight_borrow(_FORMATS[format], n, k, self.lines.b.buf, &self.h))
        if inputs is not None:
            _check(lw_weight_set_order(self.h, <int32_t *>inputs.b.buf))

    def __dealloc__(self):
        lw_weight_free(self.h)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>lw_weight_lines(self.h),
                          lw_weight_size(lw_weight_format(self.h), self.n, self.k), 1, flags)

    @property
    def n(self):
        return lw_weight_n(self.h)

    @property
    def k(self):
        return lw_weight_k(self.h)

    @property
    def nbytes(self):
        return lw_weight_bytes(self.h)

    @property
    def format(self):
        return _FORMAT_NAMES[lw_weight_format(self.h)]

    def pack(self, Context ctx not None, source, str type, int64_t row0=0, int step=1):
        cdef _View v = _View(source, _BUFFERS.get(type, ""), 2, False, type != "blocks")
        cdef lw_source s
        cdef int64_t wanted = lw_weight_row_bytes(self.h) if type == "blocks" else self.k
        _require(v.n(1) == wanted, f"rows of {wanted} {'bytes' if type == 'blocks' else 'values'} expected, got {v.n(1)}")
        s.data, s.type, s.rows = v.b.buf, _named(_TYPES, type, "type"), v.n(0)
        s.row_stride, s.col_stride = v.b.strides[0], v.b.strides[1]
        cdef lw_status status
        with nogil:
            status = lw_weight_pack(ctx.h, self.h, row0, step, &s)
        _check(status)

    def unpack(self, int64_t row0, out):
        cdef _View v = _f32(out, 2, True)
        _require(v.n(1) == self.k and v.ld() == self.k, "packed rows of k values expected")
        _check(lw_weight_unpack(self.h, row0, v.n(0), <float *>v.b.buf))

    def not_finite(self, Context ctx not None):
        cdef int64_t row = -1
        cdef lw_status status
        with nogil:
            status = lw_weight_finite(ctx.h, self.h, &row)
        _check(status)
        return None if row < 0 else row

    def checksum(self, Context ctx not None):
        cdef uint64_t sum = 0
        cdef lw_status status
        with nogil:
            status = lw_weight_checksum(ctx.h, self.h, &sum)
        _check(status)
        return sum
