/* gemm_whole_amx.h - products of quantised weights with integer sub-scales on tile registers (AMX): `whole` in ../quant.h.
 *
 * Codes times sub-scales are integers of up to 15 bits. As two tiles, of high and of low bytes, they are multiplied over all 256 k of a
 * superblock, where codes alone would give sums for each block that vectors had to scale: of K formats that was two thirds of the time.
 *
 * A step multiplies a panel's superblock with two units of rows. Between its products the sums of the step before are put together, scaled
 * and added up. Steps go from units to panels to superblocks, so that both operands stay in L1. */
#ifndef LW_KERNELS_GEMM_WHOLE_AMX_H
#define LW_KERNELS_GEMM_WHOLE_AMX_H
#include "gemm_quant_amx.h"

/* One unit of a step: its sums (high bytes, then low bytes), what they are scaled by, and where they go. */
typedef struct amxw_unit {
    const int32_t *dots;
    const char *group;
    const unsigned char *head;
    const float *before;
    float *after;
    ptrdiff_t before_ld, after_ld;
    int panel, unit;
    int there, aside;                    /* aside: finished from `after`: the last superblock, but not as it is to c */
} amxw_unit;

/* Eight rows from `row` on. pairs: of minima. */
ALWAYS_INLINE void amxw_add(const int pairs, const amxw_unit *u, int row) {
    const int32_t *const dots = u->dots + LW_LANES * row;
    const char *const group = u->group + 4 * row;
    const float *before = u->before + row * u->before_ld;
    float *after = u->after + row * u->after_ld;
    const vreg d = vr_load(u->head);
    ireg min[8];
    vreg dmin = vr_zero();
    if (pairs) dmin = vr_bits(ir_xor(ir_load(u->head + LW_LINE), ir_const(0x80000000u)));
    V_UNROLL for (int j = 0; j < pairs; j++) min[j] = ir_load(u->head + LW_LINE * (2 + j));
    V_UNROLL for (int r = 0; r < 8; r++) {
        const ireg high = ir_load(dots + LW_LANES * r), low = ir_load(dots + AMXQ_SUMS + LW_LANES * r);
        vreg begin = vr_zero();
        if (pairs) {
            ireg dot = ir_zero();
            V_UNROLL for (int j = 0; j < pairs; j++) dot = ir_dot2(dot, min[j], ir_set1(group + 4 * (LW_MATRIX_UNIT * (1 + j) + r)));
            begin = vr_mul(ir_float(dot), dmin);
        }
        const vreg sum = vr_fma(ir_float(ir_add(ir_sll(high, 8), low)), d, begin);
        vr_store(after, vr_fma(sum, vr_set1((const void *)(group + 4 * r)), vr_load(before)));
        before += u->before_ld;
        after += u->after_ld;
    }
}

/* Where a step is: superblock, panel, first of up to two units. */
typedef struct amxw_at {
    int k, panel, unit;
    const char *group;                   /* of the superblock's first unit */
    const unsigned char *head;           /* of the first panel's superblock */
} amxw_at;

ALWAYS_INLINE void amxw_place(const lw_quant_matrix *t, const amxw_at *at, int h, int64_t bytes, const int32_t *dots, amxw_unit *u) {
    static const ALIGN(64) float zeros[LW_LANES];
    const int unit = at->unit + h, first = t->first && at->k == 0, last = t->last && at->k + LW_SUPER >= t->k;
    const int plain = amxq_as_is(t, at->panel, unit);
    float *held = amxq_held(t, at->panel, unit);
    *u = (amxw_unit){.panel = at->panel, .unit = unit, .there = 1, .dots = dots + 2 * h * AMXQ_SUMS,
                     .group = at->group + unit * bytes, .head = at->head + at->panel * t->ldb,
                     .before = first ? zeros : held, .before_ld = first ? 0 : LW_LANES,
                     .after = last && plain ? amxq_out(t, at->panel, unit) : held, .after_ld = last && plain ? t->ldc : LW_LANES,
                     .aside = last && !plain};
}

/* The first of a step's products finds the sums of the step before in its register. They are stored just there, not all four before:
 * a store that waits for its products keeps the loads behind it out. */
#define AMXW_STEP(c, multiply)                                                \
    if (j == 0) {                                                              \
        if (i) tmm_store(c, from + c * AMXQ_SUMS, LW_LINE);                    \
        tmm_zero(c);                                                           \
    }                                                                          \
    multiply;
ALWAYS_INLINE void amxw_body(const int pairs, const lw_quant_matrix *t) {
    const int header = LW_LINE * (pairs ? 2 + pairs : 1), units = (int)lw_ceil_div(t->rows, LW_MATRIX_UNIT);
    const int64_t words = 4 * LW_MATRIX_UNIT * (1 + pairs), bytes = words + LW_MATRIX_UNIT * LW_SUPER;
    const int tile = LW_MATRIX_UNIT * LW_MATRIX_K;
    const ptrdiff_t pace = lw_ceil_div(t->coming, (units + 1) / 2 * lw_ceil_div(t->k, LW_SUPER) * (LW_SUPER / LW_MATRIX_K));
    ptrdiff_t fetched[2] = {0};
    ALIGN(64) int32_t ring[2][4 * AMXQ_SUMS];
    amxw_at next = {.group = t->a, .head = t->b};
    amxw_unit due[2] = {{0}, {0}}, later = {0};   /* the second unit of the step before the last and the first of the last; its second */
    amxq_open(LW_MATRIX_K, t->held);
    for (int i = 0, more = 1; more || due[0].there || due[1].there; i++) {
        const int two = next.unit + 1 < units;
        const char *a = next.group + next.unit * bytes + words;
        const unsigned char *b = next.head + next.panel * t->ldb + header;
        int32_t *to = ring[i & 1], *from = ring[(i + 1) & 1];
        for (int j = 0; j < LW_SUPER / LW_MATRIX_K; j++, a += tile, b += 2 * tile) {
            if (more) {
                tmm_load(4, a, LW_LINE);
                tmm_load(6, b, LW_LINE);
                AMXW_STEP(0, tmm_signed(0, 4, 6))
                tmm_load(7, b + tile, LW_LINE);
                AMXW_STEP(1, tmm_int8(1, 4, 7))
                if (two) tmm_load(5, a + bytes, LW_LINE);
                AMXW_STEP(2, if (two) tmm_signed(2, 5, 6))
                AMXW_STEP(3, if (two) tmm_int8(3, 5, 7))
            } else if (j == 0 && due[1].there) {
                tmm_store(0, from, LW_LINE);
                tmm_store(1, from + AMXQ_SUMS, LW_LINE);
                tmm_store(2, from + 2 * AMXQ_SUMS, LW_LINE);
                tmm_store(3, from + 3 * AMXQ_SUMS, LW_LINE);
            }
            if (more && pace) {
                amxq_fetch(t, next.panel, fetched[next.panel], pace);
                fetched[next.panel] += pace;
            }
            if (due[j / 2].there) amxw_add(pairs, &due[j / 2], j % 2 * 8);
        }
        for (int h = 0; h < 2; h++)
            if (due[h].aside) amxq_finish(t, due[h].panel, due[h].unit, due[h].after);
        due[0] = later;
        due[1] = later = (amxw_unit){0};
        if (more) amxw_place(t, &next, 0, bytes, to, &due[1]);
        if (more && two) amxw_place(t, &next, 1, bytes, to, &later);
        if (next.unit + 2 < units) {
            next.unit += 2;
        } else if (next.panel + 1 < t->panels) {
            next.panel++;
            next.unit = 0;
        } else if (next.k + LW_SUPER < t->k) {
            next.k += LW_SUPER;
            next.panel = next.unit = 0;
            next.group += units * bytes;
            next.head += header + 2 * LW_SUPER * LW_LANES;
        } else {
            more = 0;
        }
    }
    if (!t->held) tmm_release();
}

#ifdef QUANT_ROLLED
static void amx_whole(int pairs, const lw_quant_matrix *t) { amxw_body(pairs, t); }
#else
#define AMXW_DEFINE(pairs) static __attribute__((noinline)) void amxw_##pairs(const lw_quant_matrix *t) { amxw_body(pairs, t); }
AMXW_DEFINE(0)
AMXW_DEFINE(4)
AMXW_DEFINE(8)
static void amx_whole(int pairs, const lw_quant_matrix *t) { (pairs == 0 ? amxw_0 : pairs == 4 ? amxw_4 : amxw_8)(t); }
#endif

static void amx_quant(const lw_quant_matrix *t) {
    const lw_quant *const x = &lw_quants[t->form];
    LW_ASSERT(t->rows >= 1 && t->rows <= LW_MATRIX_QUANT_ROWS && t->panels >= 1 && t->panels <= 2);
    if (x->whole) amx_whole(x->minima ? (int)lw_quant_terms(x, LW_SUPER) : 0, t);
    else amx_blocks(t);
}
#endif
