/* gemm_amx.h - products on tile registers (AMX): 16 lines of a panel are one operand as they lie, activations are rows.
 *
 * Up to 16 rows: the sums of four panels side by side (tmm0 to 3). Up to 32: two times two (0, 1 | 2, 3), panel pair after panel
 * pair, so that each operand that is loaded is used twice. Activations are in tmm4 and 5, weights in 6 and 7. What
 * is left of k beyond whole blocks of 16 lines runs on a copy of its lines filled up with zeros: nothing behind a panel is read.
 *
 * A line is asked for once and no more: requests of software occupy the buffers that tiles are loaded through.
 *
 * Registers are configured once for a task and number of rows (lw_tile.held) and released behind it: both take hundreds of cycles.
 * Bits: a block of 32 values of k is two chains (even, odd), added, added to the sum. Blocks begin at multiples of 32
 * of the k of the whole product, so these sums depend on nothing else, but differ from those of vdpbf16ps. */
#ifndef LW_KERNELS_GEMM_AMX_H
#define LW_KERNELS_GEMM_AMX_H

enum { AMX_ROWS = 32, AMX_PANELS = 4, AMX_BLOCK = 16 * LW_LINE };
typedef enum amx_kind { AMX_DOT, AMX_INT8 } amx_kind;

#define AMX_MULTIPLY(kind, c, a, b)           \
    do {                                      \
        if ((kind) == AMX_DOT) tmm_bf16(c, a, b); \
        else tmm_int8(c, a, b);               \
    } while (0)

/* Where a tile stands. step, ldb, ldc in bytes; step: of the activations, from 64 bytes of k to the next. */
typedef struct amx_at {
    const char *a, *b, *next, *out;
    char *c;
    ptrdiff_t step, ldb, ldc, ahead, pace, ldo, out_bytes;
    int left, out_rows;                                            /* rows of out to be asked for, so many with each block */
} amx_at;

static void amx_open(int rows, int *held) {
    if (held && *held == rows) return;
    if (held) *held = rows;
    const int low = rows < 16 ? rows : 16, high = rows > 16 ? rows - 16 : low;
    tmm_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = LW_LINE;
        config.rows[i] = (uint8_t)(i >= 6 ? 16 : i == 2 || i == 3 || i == 5 ? high : low);
    }
    tmm_configure(&config);
}

/* sums += 16 lines: R groups of 16 rows, P panels */
ALWAYS_INLINE void amx_block(amx_kind kind, const int R, const int P, const char *a, const char *b, ptrdiff_t ldb) {
    tmm_stream(4, a, LW_LINE);
    tmm_stream(6, b, LW_LINE);
    AMX_MULTIPLY(kind, 0, 4, 6);
    if (P > 1) {
        tmm_stream(7, b + ldb, LW_LINE);
        AMX_MULTIPLY(kind, 1, 4, 7);
    }
    if (R == 2) {
        tmm_stream(5, a + 16 * LW_LINE, LW_LINE);
        AMX_MULTIPLY(kind, 2, 5, 6);
        if (P > 1) AMX_MULTIPLY(kind, 3, 5, 7);
        return;
    }
    if (P > 2) {
        tmm_stream(6, b + 2 * ldb, LW_LINE);
        AMX_MULTIPLY(kind, 2, 4, 6);
    }
    if (P > 3) {
        tmm_stream(7, b + 3 * ldb, LW_LINE);
        AMX_MULTIPLY(kind, 3, 4, 7);
    }
}

/* The sums of tmm i, if it is in use, and where they are in c. */
#define AMX_USED(i) (R == 2 ? i % 2 < P : i < P)
#define AMX_SUMS(i) (at->c + (R == 2 ? i / 2 * 16 * at->ldc + i % 2 * LW_LINE : i * LW_LINE))
#define AMX_ZERO(i) if (AMX_USED(i)) tmm_zero(i);
#define AMX_LOAD(i) if (AMX_USED(i)) tmm_load(i, AMX_SUMS(i), at->ldc);
#define AMX_STORE(i) if (AMX_USED(i)) tmm_store(i, AMX_SUMS(i), at->ldc);
#define AMX_EACH(X) X(0) X(1) X(2) X(3)

/* The first `bytes` of each panel. */
ALWAYS_INLINE void amx_fetch(const int P, const char *line, ptrdiff_t ldb, ptrdiff_t bytes) {
    V_UNROLL for (int p = 0; p < P; p++, line += ldb) {
        V_OPAQUE(line);                                            /* or there would be a register for each panel */
        for (ptrdiff_t i = 0; i < bytes; i += LW_LINE) __builtin_prefetch(line + i, 0, 2);
    }
}

/* Some rows of where the results go. What is left is kept in memory: the registers do not last. */
ALWAYS_INLINE void amx_fetch_out(amx_at *at) {
    for (int i = at->out_rows; i > 0 && at->left > 0; i--, at->left--) {
        const char *out = at->out;
        for (ptrdiff_t o = 0; o < at->out_bytes; o += LW_LINE) __builtin_prefetch(out + o, 1, 3);
        at->out = out + at->ldo;
    }
}

ALWAYS_INLINE void amx_body(amx_kind kind, const int R, const int P, amx_at *at, int lines, int accumulate) {
    const char *a = at->a, *b = at->b, *next = at->next;
    const ptrdiff_t step = at->step, ldb = at->ldb;
    if (accumulate) {
        AMX_EACH(AMX_LOAD)
    } else {
        AMX_EACH(AMX_ZERO)
    }
    for (int n = lines / 16; n > 0; n--) {
        amx_block(kind, R, P, a, b, ldb);
        amx_fetch_out(at);
        const ptrdiff_t share = 16 * at->pace, ahead = at->ahead;  /* read again: the registers do not last */
        if (LW_LIKELY(share)) amx_fetch(P, next, ldb, share);
        if (LW_LIKELY(ahead)) amx_fetch(P, b + ahead, ldb, AMX_BLOCK);
        next += share;
        a += step, b += AMX_BLOCK;
    }
    if (lines % 16) {
        ALIGN(64) char tail[AMX_PANELS * AMX_BLOCK];
        const size_t some = (size_t)(lines % 16) * LW_LINE;
        for (int p = 0; p < P; p++) {
            memcpy(tail + p * AMX_BLOCK, b + p * ldb, some);
            memset(tail + p * AMX_BLOCK + some, 0, AMX_BLOCK - some);
        }
        amx_block(kind, R, P, a, tail, AMX_BLOCK);
    }
    AMX_EACH(AMX_STORE)
}

typedef void amx_fn(amx_at *at, int lines, int accumulate);
#define AMX_SHAPES(X, name, kind) \
    X(name, kind, 1, 1) X(name, kind, 1, 2) X(name, kind, 1, 3) X(name, kind, 1, 4) X(name, kind, 2, 1) X(name, kind, 2, 2)
#define AMX_DEFINE(name, kind, r, p) \
    static void name##_##r##x##p(amx_at *at, int n, int accumulate) { amx_body(kind, r, p, at, n, accumulate); }
#define AMX_ENTRY(name, kind, r, p) [kind][r][p] = name##_##r##x##p,
AMX_SHAPES(AMX_DEFINE, amxdot, AMX_DOT)
AMX_SHAPES(AMX_DEFINE, amxint8, AMX_INT8)
static amx_fn *const amx_shapes[2][3][AMX_PANELS + 1] = {AMX_SHAPES(AMX_ENTRY, amxdot, AMX_DOT)
                                                         AMX_SHAPES(AMX_ENTRY, amxint8, AMX_INT8)};

/* The sums of a tile -> c, rows `ldc` floats apart, all columns of its panels. */
static void amx_sums(amx_kind kind, const lw_tile *t, float *c, ptrdiff_t ldc) {
    const int R = t->rows > 16 ? 2 : 1, step = R == 2 ? 2 : AMX_PANELS;
    const int lines = (t->k + (kind == AMX_DOT ? 1 : 3)) / (kind == AMX_DOT ? 2 : 4);
    LW_ASSERT(t->rows >= 1 && t->rows <= AMX_ROWS && t->panels >= 1 && t->panels <= AMX_PANELS && !t->skip);
    const int out_rows = (int)lw_ceil_div(t->rows, lw_max(lines / 16, 1));
    amx_open(t->rows, t->held);
    for (int p = 0; p < t->panels; p += step) {
        const int panels = (int)lw_min(step, t->panels - p);
        amx_at at = {.a = t->a, .b = (const char *)t->b + p * t->ldb, .c = (char *)(c + 16 * p), .step = t->rows * LW_LINE,
                     .ldb = t->ldb, .ldc = ldc * 4, .ahead = t->ahead, .pace = t->pace, .ldo = t->ldo,
                     .next = t->pace ? (const char *)t->next + p * t->ldb : NULL, .left = t->out ? t->rows : 0,
                     .out = t->out ? (const char *)t->out + p * t->out_line : NULL, .out_rows = out_rows,
                     .out_bytes = panels * t->out_line};
        amx_shapes[kind][R][panels](&at, lines, kind == AMX_DOT && t->accumulate);
    }
    if (!t->held) tmm_release();
}
static void amx_release(void) { tmm_release(); }

static void amx_dot(const lw_tile *t) {
    const int width = 16 * t->panels;
    if (LW_LIKELY(t->columns == width && !t->bias && !t->residual)) {
        amx_sums(AMX_DOT, t, t->c, t->ldc);
        return;
    }
    ALIGN(64) float sums[AMX_ROWS * AMX_PANELS * 16];
    for (int r = 0; t->accumulate && r < t->rows; r++) {
        memset(sums + r * width, 0, sizeof(float) * (size_t)width);
        memcpy(sums + r * width, t->c + r * t->ldc, sizeof(float) * (size_t)t->columns);
    }
    amx_sums(AMX_DOT, t, sums, width);
    tile_finish(t, sums, width);
}

static void amx_int8(const lw_tile *t) {
    ALIGN(64) float sums[AMX_ROWS * AMX_PANELS * 16];
    const int width = 16 * t->panels;
    amx_sums(AMX_INT8, t, sums, width);
    for (int r = 0; r < t->rows; r++) {
        const i32x16 start = vi_set1((uint32_t)t->start[r]);
        for (int i = 0; i < t->columns; i += 16) {
            const int n = (int)lw_min(16, t->columns - i);
            i32x16 sum = vi_add(vi_load(sums + r * width + i), start);
            if (t->offsets) sum = vi_add(sum, vi_load(t->offsets + i));
            f32x16 v = v_float(sum);
            if (t->column_scale) {
                v = v_mul(v_mul(vi_float(sum), v_loadn(t->column_scale + i, n)), v_set1(t->row_scale[r]));
                if (t->bias) v = v_add(v, v_loadn(t->bias + i, n));
            }
            v_storen(t->c + r * t->ldc + i, v, n);
        }
    }
}

/* ---- the limits of the tile registers ------------------------------------------------------------------------------- */
ALWAYS_INLINE double amx_peak(amx_kind kind, long iterations) {
    ALIGN(64) uint32_t ones[256];
    for (int i = 0; i < 256; i++) ones[i] = 0x3f803f80;   /* 1.0 twice, or any bytes */
    amx_open(AMX_ROWS, NULL);
    tmm_load(4, ones, LW_LINE);
    tmm_load(5, ones, LW_LINE);
    tmm_load(6, ones, LW_LINE);
    tmm_load(7, ones, LW_LINE);
    tmm_zero(0);
    tmm_zero(1);
    tmm_zero(2);
    tmm_zero(3);
    for (long i = 0; i < iterations; i++) {
        AMX_MULTIPLY(kind, 0, 4, 6);
        AMX_MULTIPLY(kind, 1, 4, 7);
        AMX_MULTIPLY(kind, 2, 5, 6);
        AMX_MULTIPLY(kind, 3, 5, 7);
    }
    tmm_store(0, ones, LW_LINE);
    tmm_release();
    return 4.0 * 2.0 * 16 * 16 * (kind == AMX_DOT ? 32 : 64) * (double)iterations + 0.0 * ones[0];
}
static double amx_peak_bf16(long iterations) { return amx_peak(AMX_DOT, iterations); }
static double amx_peak_int8(long iterations) { return amx_peak(AMX_INT8, iterations); }
#endif
