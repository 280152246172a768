/* gemm_int8.h - tiles of bytes: int32 sums of unsigned weights and signed activations, exact.
 *
 * Weights are stored as q + 128, so a chain starts at -128 times the sum of its row and nothing else is needed. With VNNI
 * one instruction takes four products; without it both operands are widened to 16 bits, the weights here, the
 * activations once when they are staged (vpmaddubsw would saturate). Integers wrap, so any order gives the same bits. */
#ifndef LW_KERNELS_GEMM_INT8_H
#define LW_KERNELS_GEMM_INT8_H

/* acc[row][register] += four values of k */
ALWAYS_INLINE void tile_quad(const int R, const int Q, const tile_at *at, ireg *acc) {
#ifdef LW_HAS_VNNI
    if (R <= 3) {                                     /* up to three rows are held, else the weights */
        ireg x[3];
        V_UNROLL for (int r = 0; r < R; r++) x[r] = ir_set1(tile_a(at, r));
        V_UNROLL for (int q = 0; q < Q; q++) {
            ireg w = ir_load(tile_line(at, q));
            V_UNROLL for (int r = 0; r < R; r++) acc[r * Q + q] = ir_dot4(acc[r * Q + q], w, x[r]);
        }
        return;
    }
    ireg w[4];
    V_UNROLL for (int q = 0; q < Q; q++) w[q] = ir_load(tile_line(at, q));
    V_UNROLL for (int r = 0; r < R; r++) {
        ireg x = ir_set1(tile_a(at, r));
        V_UNROLL for (int q = 0; q < Q; q++) acc[r * Q + q] = ir_dot4(acc[r * Q + q], w[q], x);
    }
#else
    /* Sums, one product and perhaps a mask are there anyway: weights are held, or rows, or neither where neither fits. */
    enum { REGISTERS = V_REGS == 1 ? 32 : 16, TAKEN = V_REGS == 1 ? 3 : 2 };
    const int hold_weights = R * Q + Q + TAKEN <= REGISTERS, hold_rows = R * Q + R + TAKEN <= REGISTERS;
    V_UNROLL for (int half = 0; half < 2; half++) {
        ireg x[TILE_ROWS], w[TILE_MAX_LINES * V_REGS];
        V_FORGET;                                     /* lines are loaded again for their other half */
        if (hold_weights) {
            V_UNROLL for (int q = 0; q < Q; q++) {
                w[q] = ir_load(tile_line(at, q));
                w[q] = half ? ir_high(w[q]) : ir_low(w[q]);
            }
            V_UNROLL for (int r = 0; r < R; r++) {
                x[r] = ir_set1(at->a0 + half * R + r);
                V_UNROLL for (int q = 0; q < Q; q++) acc[r * Q + q] = ir_dot2(acc[r * Q + q], w[q], x[r]);
            }
            continue;
        }
        V_UNROLL for (int q = 0; q < Q; q++) {
            if (!hold_rows) V_FORGET;
            w[q] = ir_load(tile_line(at, q));
            w[q] = half ? ir_high(w[q]) : ir_low(w[q]);
            V_UNROLL for (int r = 0; r < R; r++) {
                x[r] = ir_set1(at->a0 + half * R + r);
                acc[r * Q + q] = ir_dot2(acc[r * Q + q], w[q], x[r]);
            }
        }
    }
#endif
}

ALWAYS_INLINE void tile_int8_body(const lw_tile *t, const int R, const int P) {
    const int Q = P * V_REGS;
    ireg acc[TILE_MAX_LINES * V_REGS];
    tile_at at = {.lace = 1, .stream = R > 4 || V_REGISTERS == 32,       /* AVX2 has no register left in some of the smaller */
                  .twice = TILE_TWICE && INT8_QUAD == 4 && R > 4};
    tile_point(t, &at);
    V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = ir_set1(t->start + i / Q);
    if (t->offsets) {
        V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = ir_add(acc[i], ir_load(t->offsets + 16 / V_REGS * (i % Q)));
    }
    int n = t->k / 4;
    for (; at.twice && n > 1; n -= 2) {
        tile_quad(R, Q, &at, acc);
        tile_past(&at, R, 1);
        tile_quad(R, Q, &at, acc);
        tile_past(&at, R, 0);
        tile_advance(R, P, &at, 2, 2);
    }
    for (; n > 0; n--) {
        tile_quad(R, Q, &at, acc);
        tile_advance(R, P, &at, INT8_QUAD / 4, 1);
    }
    if (!t->column_scale) {
        V_UNROLL for (int i = 0; i < R * Q; i++) ir_store(t->c + i / Q * t->ldc + 16 / V_REGS * (i % Q), acc[i]);
        return;
    }
    V_UNROLL for (int q = 0; q < Q; q++) {
        const int column = 16 / V_REGS * q;
        vreg scale = vr_load(t->column_scale + column);
        V_UNROLL for (int r = 0; r < R; r++) {
            vreg v = vr_mul(vr_mul(ir_float(acc[r * Q + q]), scale), vr_set1(t->row_scale + r));
            if (t->bias) v = vr_add(v, vr_load(t->bias + column));
            vr_store(t->c + r * t->ldc + column, v);
        }
    }
}
#define TILE_INT8_DEFINE(r, p) TILE_DEFINE(int8, r, p)
#define TILE_INT8_ENTRY(r, p) [r][p] = int8_##r##x##p,
TILES(TILE_INT8_DEFINE)
static tile_fn *const tiles_int8[TILE_ROWS + 1][TILE_MAX_PANELS + 1] = {TILES(TILE_INT8_ENTRY)};

static void tile_int8(const lw_tile *t) {
    tile_fn *run = tiles_int8[t->rows][t->panels];
    LW_ASSERT(run && t->columns >= 1 && t->columns <= 16 * t->panels && t->k % 4 == 0);
    if (LW_LIKELY(t->columns == 16 * t->panels)) {
        run(t);
        return;
    }
    ALIGN(64) float sums[TILE_MAX_LINES * 16];
    lw_tile whole = *t;
    whole.c = sums;
    whole.ldc = 16 * t->panels;
    whole.column_scale = NULL;
    run(&whole);
    const lw_finish f = {.sums = sums, .ld = whole.ldc, .integers = 1, .rows = t->rows, .columns = t->columns,
                         .row_scale = t->row_scale, .column_scale = t->column_scale, .bias = t->bias, .c = t->c,
                         .ldc = t->ldc, .type = t->column_scale ? LW_F32 : LW_I32};
    finish(&f);
}

/* ---- activations -------------------------------------------------------------------------------------------------- */
static int32_t to_quads(size_t n, const void *a, int flip, uint32_t *out) {
    enum { BYTES = 64 / V_REGS };
    const uint32_t ones = 0x01010101, halves = 0x00010001, sign = flip ? 0x80808080u : 0;
    const ireg s = ir_set1(&sign);
    ireg sum = ir_zero();
    for (size_t i = 0; i < n; i += BYTES) {
        uint32_t words[BYTES / 4] = {0};
        const size_t some = n - i < BYTES ? n - i : BYTES, quads = (some + 3) / 4;
        const char *from = (const char *)a + i;
        if (some < BYTES) {                           /* the tail is zero once flipped */
            memcpy(words, &sign, sizeof sign);
            for (size_t j = 1; j < BYTES / 4; j++) words[j] = sign;
            from = memcpy(words, from, some);
        }
        ireg x = ir_xor(ir_load(from), s);
#ifdef LW_HAS_VNNI
        (void)halves;
        sum = ir_dot4(sum, ir_set1(&ones), x);
        if (some == BYTES) {
            ir_store(out + i / 4, x);
        } else {
            ir_store(words, x);
            memcpy(out + i / 4, words, 4 * quads);
        }
#else
        (void)ones;
        uint32_t low[BYTES / 4], high[BYTES / 4];
        ir_store(low, ir_slow(x));
        ir_store(high, ir_shigh(x));
        sum = ir_dot2(ir_dot2(sum, ir_set1(&halves), ir_slow(x)), ir_set1(&halves), ir_shigh(x));
        for (size_t j = 0; j < quads; j++) {
            out[i / 2 + 2 * j] = low[j];
            out[i / 2 + 2 * j + 1] = high[j];
        }
#endif
    }
    uint32_t parts[BYTES / 4], total = 0;
    ir_store(parts, sum);
    for (size_t j = 0; j < BYTES / 4; j++) total += parts[j];
    return (int32_t)total;
}
#endif
