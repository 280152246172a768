/* gemm_amx.h - products on tile registers (AMX): 16 lines of a panel are one operand as they lie, activations are rows.
 *
 * Up to 16 rows: the sums of four panels side by side (tmm0 to 3). Up to 32: two times two (0, 1 | 2, 3), panel pair after panel
 * pair, so that each operand that is loaded is used twice. Activations are in tmm4 and 5, weights in 6 and 7. What
 * is left of k beyond whole blocks of 16 lines runs on a copy of its lines filled up with zeros: nothing behind a panel is read.
 *
 * What bounds a tile is how many lines may be on their way to the L1 cache at once. So what is read once goes past it; of panels that are
 * read again at once as many lines as fit (AMX_KEPT blocks of 16) stay; and a line is asked for once and no more, since
 * requests of software wait in the same buffers.
 *
 * Vectors finish an earlier tile's sums meanwhile (lw_tile.due), a row every few blocks.
 *
 * Registers are configured once for a task and number of rows (lw_tile.held) and released behind it: both take hundreds of cycles.
 * Bits: a block of 32 values of k is two chains (even, odd), added, added to the sum. Blocks begin at multiples of 32
 * of the k of the whole product, so these sums depend on nothing else, but differ from those of vdpbf16ps. */
#ifndef LW_KERNELS_GEMM_AMX_H
#define LW_KERNELS_GEMM_AMX_H

enum { AMX_ROWS = 32, AMX_PANELS = 4, AMX_BLOCK = 16 * LW_LINE, AMX_KEPT = 32 };
/* How rows that are due are finished. By far the most are in line: calls, and what they store, fill what lets tiles run ahead. */
typedef enum amx_due { DUE_NONE, DUE_LINES, DUE_SILU, DUE_CALL } amx_due;
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
    int kept;                                                      /* blocks of weights that the next tile reads again */
    int left, out_rows;                                            /* rows of out to be asked for, so many with each block */
    const lw_finish *due;
    int due_row, due_rows, due_blocks, owed;                       /* so many rows of due in so many blocks; owed: times due_blocks */
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

/* sums += 16 lines: R groups of 16 rows, P panels. kept: the weights stay in L1. */
#define AMX_WEIGHTS(t, b) if (kept) tmm_load(t, b, LW_LINE); else tmm_stream(t, b, LW_LINE)
ALWAYS_INLINE void amx_block(amx_kind kind, const int R, const int P, const int kept, const char *a, const char *b, ptrdiff_t ldb) {
    tmm_stream(4, a, LW_LINE);
    AMX_WEIGHTS(6, b);
    AMX_MULTIPLY(kind, 0, 4, 6);
    if (P > 1) {
        AMX_WEIGHTS(7, b + ldb);
        AMX_MULTIPLY(kind, 1, 4, 7);
    }
    if (R == 2) {
        tmm_stream(5, a + 16 * LW_LINE, LW_LINE);
        AMX_MULTIPLY(kind, 2, 5, 6);
        if (P > 1) AMX_MULTIPLY(kind, 3, 5, 7);
        return;
    }
    if (P > 2) {
        AMX_WEIGHTS(6, b + 2 * ldb);
        AMX_MULTIPLY(kind, 2, 4, 6);
    }
    if (P > 3) {
        AMX_WEIGHTS(7, b + 3 * ldb);
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
        for (ptrdiff_t o = 0; o < at->out_bytes; o += LW_LINE) tmm_ask(out + o);
        at->out = out + at->ldo;
    }
}

/* Rows that a tile is asked to finish: whole lines, two at a time (of a gate, 32 sums each), or by a call. */
static amx_due amx_due_of(amx_kind kind, const lw_finish *f) {
    if (!f || !f->rows) return DUE_NONE;
    if (f->columns % 16 || f->integers != (kind == AMX_INT8)) return DUE_CALL;
    if (f->gated) {
        const int plain = !f->integers && !f->column_scale && !f->row_scale && !f->bias && !f->residual;
        return plain && f->type == LW_BF16 && f->dot && f->act == LW_ACT_SILU ? DUE_SILU : DUE_CALL;
    }
    return f->act == LW_ACT_NONE && f->columns % 32 == 0 ? DUE_LINES : DUE_CALL;
}

ALWAYS_INLINE void amx_finish(amx_kind kind, amx_due due, const lw_finish *f, int row) {
    if (due == DUE_CALL) {
        finish_row(f, row);
        return;
    }
    for (int i = 0; i < f->columns; i += 16) {
        const float *sums = f->sums + row * f->ld + 2 * i;
        if (due == DUE_SILU) v_store_bf16((uint16_t *)f->c + row * f->ldc + i, v_mul(v_silu(v_load(sums)), v_load(sums + 16)));
        else if (kind == AMX_INT8 && f->type == LW_I32) v_store((float *)f->c + row * f->ldc + i, v_float(finish_integers(f, row, i)));
        else finish_values(LW_ACT_NONE, 0, f, row, i, 16);
    }
}

/* n blocks; at->a, b and next move on. */
ALWAYS_INLINE void amx_run(amx_kind kind, const int R, const int P, const int kept, const amx_due due, amx_at *at, int n) {
    const char *a = at->a, *b = at->b, *next = at->next;
    const ptrdiff_t step = at->step, ldb = at->ldb;
    int owed = at->owed, row = at->due_row;
    for (; n > 0; n--) {
        amx_block(kind, R, P, kept, a, b, ldb);
        amx_fetch_out(at);
        if (due) for (owed += at->due_rows; owed >= at->due_blocks; owed -= at->due_blocks) amx_finish(kind, due, at->due, row++);
        const ptrdiff_t share = 16 * at->pace, ahead = at->ahead;  /* read again: the registers do not last */
        if (LW_LIKELY(share)) amx_fetch(P, next, ldb, share);
        if (LW_LIKELY(ahead)) amx_fetch(P, b + ahead, ldb, AMX_BLOCK);
        next += share;
        a += step, b += AMX_BLOCK;
    }
    at->a = a, at->b = b, at->next = next, at->owed = owed, at->due_row = row;
}

ALWAYS_INLINE void amx_body(amx_kind kind, const int R, const int P, const amx_due due, amx_at *at, int lines, int accumulate) {
    if (accumulate) {
        AMX_EACH(AMX_LOAD)
    } else {
        AMX_EACH(AMX_ZERO)
    }
    const int kept = (int)lw_min(at->kept / P, lines / 16);
    amx_run(kind, R, P, 1, due, at, kept);
    amx_run(kind, R, P, 0, due, at, lines / 16 - kept);
    if (lines % 16) {
        ALIGN(64) char tail[AMX_PANELS * AMX_BLOCK];
        const size_t some = (size_t)(lines % 16) * LW_LINE;
        for (int p = 0; p < P; p++) {
            memcpy(tail + p * AMX_BLOCK, at->b + p * at->ldb, some);
            memset(tail + p * AMX_BLOCK + some, 0, AMX_BLOCK - some);
        }
        amx_block(kind, R, P, 0, at->a, tail, AMX_BLOCK);
    }
    AMX_EACH(AMX_STORE)
}

typedef void amx_fn(amx_at *at, int lines, int accumulate);
#define AMX_SHAPES(X, name, kind) \
    X(name, kind, 1, 1) X(name, kind, 1, 2) X(name, kind, 1, 3) X(name, kind, 1, 4) X(name, kind, 2, 1) X(name, kind, 2, 2)
#define AMX_FUNCTION(name, kind, due, r, p) \
    static void name##_##due##_##r##x##p(amx_at *at, int n, int accumulate) { amx_body(kind, r, p, due, at, n, accumulate); }
#define AMX_DEFINE(name, kind, r, p)                 \
    AMX_FUNCTION(name, kind, DUE_NONE, r, p)         \
    AMX_FUNCTION(name, kind, DUE_CALL, r, p)
#define AMX_ENTRY(name, kind, r, p) [kind][r][p] = {name##_DUE_NONE_##r##x##p, name##_DUE_CALL_##r##x##p},
AMX_SHAPES(AMX_DEFINE, amxdot, AMX_DOT)
AMX_SHAPES(AMX_DEFINE, amxint8, AMX_INT8)
AMX_FUNCTION(amxdot, AMX_DOT, DUE_LINES, 2, 2)
AMX_FUNCTION(amxdot, AMX_DOT, DUE_SILU, 2, 2)
AMX_FUNCTION(amxint8, AMX_INT8, DUE_LINES, 2, 2)
static amx_fn *const amx_shapes[2][3][AMX_PANELS + 1][2] = {AMX_SHAPES(AMX_ENTRY, amxdot, AMX_DOT)
                                                            AMX_SHAPES(AMX_ENTRY, amxint8, AMX_INT8)};
/* In line in the tiles that nearly all are; in others, and what is rare, by a call. */
static amx_fn *amx_function(amx_kind kind, int R, int panels, amx_due due) {
    if (R == 2 && panels == 2 && due == DUE_LINES) return kind == AMX_DOT ? amxdot_DUE_LINES_2x2 : amxint8_DUE_LINES_2x2;
    if (R == 2 && panels == 2 && due == DUE_SILU && kind == AMX_DOT) return amxdot_DUE_SILU_2x2;
    return amx_shapes[kind][R][panels][due != DUE_NONE];
}

ALWAYS_INLINE void amx_tile(amx_kind kind, const lw_tile *t) {
    const int R = t->rows > 16 ? 2 : 1, step = R == 2 ? 2 : AMX_PANELS, per_line = kind == AMX_DOT ? 2 : 4;
    const int lines = (t->k + per_line - 1) / per_line, due = t->due ? t->due->rows : 0;
    LW_ASSERT(t->rows >= 1 && t->rows <= AMX_ROWS && t->panels >= 1 && t->panels <= AMX_PANELS && !t->skip);
    amx_at at = {.step = t->rows * LW_LINE, .ldb = t->ldb, .ldc = t->ldc * 4, .ahead = t->ahead, .pace = t->pace, .ldo = t->ldo,
                 .out_rows = (int)lw_ceil_div(t->rows, lw_max(lines / 16, 1)), .kept = t->again ? AMX_KEPT : 0,
                 .due = t->due, .due_rows = due, .due_blocks = lw_max(lines / 16 * (int)lw_ceil_div(t->panels, step), 1)};
    const amx_due way = amx_due_of(kind, t->due);
    amx_open(t->rows, t->held);
    for (int p = 0; p < t->panels; p += step) {
        const int panels = (int)lw_min(step, t->panels - p);
        at.a = t->a, at.b = (const char *)t->b + p * t->ldb, at.c = (char *)(t->c + 16 * p);
        if (t->pace) at.next = (const char *)t->next + p * t->ldb;
        if (t->out) at.out = (const char *)t->out + p * t->out_line, at.out_bytes = panels * t->out_line, at.left = t->rows;
        amx_function(kind, R, panels, way)(&at, lines, kind == AMX_DOT && t->accumulate);
    }
    if (way) finish_next(t->due, at.due_row);
    if (!t->held) tmm_release();
}
static void amx_dot(const lw_tile *t) { amx_tile(AMX_DOT, t); }
static void amx_int8(const lw_tile *t) { amx_tile(AMX_INT8, t); }
static void amx_release(void) { tmm_release(); }

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
