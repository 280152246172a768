/* gemm_quant_amx.h - products of quantised weights on tile registers (AMX): the formula of gemm_quant.h, and its bits.
 *
 * A block of 32 k is one instruction: 16 rows x 16 outputs of integer sums. They go through memory, the only way from tiles to
 * vectors, and are multiplied by their scales and added up there, in 16 registers. Where scales are integers: gemm_whole_amx.h.
 *
 * Tiles and vectors work at the same time: the blocks of one chunk (four) are multiplied while the sums of the chunk before are
 * added, and are stored two blocks after the products that they wait for. Chunks follow each other within a group of k, from panel to
 * panel, from unit to unit, from group to group: a unit is read again at once, the panels' lines stay in L1, and only the ends of a call
 * do not overlap. */
#ifndef LW_KERNELS_GEMM_QUANT_AMX_H
#define LW_KERNELS_GEMM_QUANT_AMX_H
#include "quant_planes.h"

enum { AMXQ_CHUNK = 4, AMXQ_SUMS = LW_MATRIX_UNIT * LW_LANES };

/* Where a chunk is: its group of k, panel and unit, what the tiles read, and what their sums are multiplied by. */
typedef struct amxq_at {
    int k, size, at, panel, unit;        /* group: begins at k, has `size` values; the chunk begins `at` values on */
    const char *group, *codes;           /* of the activations */
    const unsigned char *head, *lines;   /* of the panel's superblock */
} amxq_at;

ALWAYS_INLINE void amxq_unit(const int X, const lw_quant_matrix *t, amxq_at *at) {
    at->at = 0;
    at->codes = at->group + 4 * lw_matrix_words(&lw_quants[X], at->size);
    at->lines = at->head + at->panel * t->ldb + lw_quants[X].header + (at->k & (LW_SUPER - 1)) * LW_LANES;
}
/* The next chunk; past the last one it stays there. */
ALWAYS_INLINE void amxq_next(const int X, const lw_quant_matrix *t, int units, amxq_at *at) {
    const lw_quant *const x = &lw_quants[X];
    const int step = AMXQ_CHUNK * x->block;
    if (at->at + step < at->size) {
        at->at += step;
        at->codes += step * LW_MATRIX_UNIT;
        at->lines += step * LW_LANES;
        return;
    }
    const int bytes = (int)lw_matrix_group_bytes(x, at->size);
    if (at->panel + 1 < t->panels) {
        at->panel++;
    } else if (at->unit + 1 < units) {
        at->unit++;
        at->panel = 0;
        at->group += bytes;
    } else if (at->k + at->size < t->k) {
        at->k += at->size;
        at->size = (int)lw_min(t->group, t->k - at->k);
        at->panel = at->unit = 0;
        at->group += bytes;
        if (!(at->k & (LW_SUPER - 1))) at->head += x->header + LW_SUPER / LW_PIECE * x->piece;
    } else {
        return;
    }
    amxq_unit(X, t, at);
}

/* sums += those of block j of a chunk times scales. b: the block's index in the superblock, in_group: in the group.
 * With `fine` scales are float16. Where they are finite, a scaled sum needs no conversion: the integer, below 2^22, is added to the bits
 * of 1.5 * 2^23, and that times the scale less 1.5 * 2^23 times the scale, which is exact, is rounded once. */
ALWAYS_INLINE void amxq_add(const int X, const int finite, const int32_t *dots, const lw_quant_matrix *t, const amxq_at *at, int b,
                            int in_group, vreg *sum) {
    const lw_quant *const x = &lw_quants[X];
    const int with_min = x->minima == LW_MIN_FLOAT;
    const ireg magic = ir_const(0x4b400000u);
    const unsigned char *head = at->head + at->panel * t->ldb;
    const vreg scale = vr_load(head + 64 * b), min = with_min ? vr_load(head + 512 + 64 * b) : vr_zero();
    const vreg less = vr_mul(scale, vr_bits(ir_xor(magic, ir_const(0x80000000u))));
    const char *fine = at->group + 4 * LW_MATRIX_UNIT * in_group;
    const char *terms = at->group + 4 * LW_MATRIX_UNIT * (1 + in_group);
    V_UNROLL for (int r = 0; r < LW_MATRIX_UNIT; r++) {
        const ireg dot = ir_load(dots + LW_LANES * r);
        if (x->fine) {
            const vreg scaled = finite ? vr_fma(vr_bits(ir_add(dot, magic)), scale, less) : vr_mul(ir_float(dot), scale);
            sum[r] = vr_fma(scaled, vr_set1((const void *)(fine + 4 * r)), sum[r]);
        } else {
            sum[r] = vr_fma(ir_float(dot), scale, sum[r]);
            if (with_min) sum[r] = vr_fma(vr_set1((const void *)(terms + 4 * r)), min, sum[r]);
        }
    }
}

/* Where the sums of a unit and a panel are kept, and whether they go to c as they are. */
ALWAYS_INLINE float *amxq_held(const lw_quant_matrix *t, int panel, int unit) {
    return t->sums + (panel * (LW_MATRIX_QUANT_ROWS / LW_MATRIX_UNIT) + unit) * AMXQ_SUMS;
}
ALWAYS_INLINE int amxq_as_is(const lw_quant_matrix *t, int panel, int unit) {
    return t->columns - panel * LW_LANES >= LW_LANES && t->rows - unit * LW_MATRIX_UNIT >= LW_MATRIX_UNIT && !t->bias && !t->residual;
}
ALWAYS_INLINE float *amxq_out(const lw_quant_matrix *t, int panel, int unit) {
    return t->c + unit * LW_MATRIX_UNIT * t->ldc + panel * LW_LANES;
}

/* A unit and a panel are finished: bias and residual, each rounded once, in this order. */
static __attribute__((noinline)) void amxq_finish(const lw_quant_matrix *t, int panel, int unit, const float *sums) {
    const int column = panel * LW_LANES, row = unit * LW_MATRIX_UNIT, n = t->columns - column, rows = t->rows - row;
    float *c = amxq_out(t, panel, unit);
    for (int r = 0; r < lw_min(LW_MATRIX_UNIT, rows); r++) {
        const int some = (int)lw_min(LW_LANES, n);
        f32x16 v = v_load(sums + r * LW_LANES);
        if (t->bias) v = v_add(v, v_loadn(t->bias + column, some));
        if (t->residual) v = v_add(v, v_loadn(t->residual + (row + r) * t->ldr + column, some));
        v_storen(c + r * t->ldc, v, some);
    }
}

static void amxq_open(int block, int *held) {
    if (held && *held == block) return;
    if (held) *held = block;
    tmm_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = (uint16_t)(i == 4 || i == 5 ? block : LW_LINE);
        config.rows[i] = (uint8_t)(i < 6 ? LW_MATRIX_UNIT : block / 4);
    }
    tmm_configure(&config);
}

/* Of the next weights of a panel the lines that begin in `bytes` bytes. */
ALWAYS_INLINE void amxq_fetch(const lw_quant_matrix *t, int panel, ptrdiff_t from, ptrdiff_t bytes) {
    const unsigned char *next = t->next + panel * t->ldn + from;
    for (ptrdiff_t i = -(uintptr_t)next & (LW_LINE - 1); i < bytes; i += LW_LINE) __builtin_prefetch(next + i, 0, 2);
}

ALWAYS_INLINE void amxq_body(const int X, const int finite, const lw_quant_matrix *t) {
    const lw_quant *const x = &lw_quants[X];
    const int block = x->block, step = AMXQ_CHUNK * block, units = (int)lw_ceil_div(t->rows, LW_MATRIX_UNIT);
    ALIGN(64) int32_t ring[2][AMXQ_CHUNK][AMXQ_SUMS];
    const ptrdiff_t pace = lw_ceil_div(t->coming, units * lw_ceil_div(t->k, step));
    ptrdiff_t fetched[2] = {0};
    amxq_at next = {.size = (int)lw_min(t->group, t->k), .group = t->a, .head = t->b}, at;
    vreg sum[LW_MATRIX_UNIT];
    amxq_open(block, t->held);
    amxq_unit(X, t, &next);
    at = next;
    V_UNROLL for (int r = 0; r < LW_MATRIX_UNIT; r++) sum[r] = vr_zero();
    for (int i = -1, more = 1; more; i++) {
        /* Blocks that the last chunk of a group does not have are multiplied as its first one, and not used. */
        const int there = next.size - next.at, blocks = i < 0 ? 0 : at.size - at.at;
        const int in_group = at.at / block, b = (at.k & (LW_SUPER - 1)) / block + in_group;
        int32_t(*to)[AMXQ_SUMS] = ring[(i + 1) & 1], (*from)[AMXQ_SUMS] = ring[i & 1];
        float *held = amxq_held(t, at.panel, at.unit);
        const float *before = t->first && at.k == 0 ? NULL : held;
        if (blocks && pace) {
            amxq_fetch(t, at.panel, fetched[at.panel], pace);
            fetched[at.panel] += pace;
        }
        if (blocks && at.at == 0) {
            const int goes_on = x->fine && before;
            V_UNROLL for (int r = 0; r < LW_MATRIX_UNIT; r++) sum[r] = goes_on ? vr_load(before + r * LW_LANES) : vr_zero();
        }
#define AMXQ_STEP(j, a, w, late, slot)                                                                                \
        do {                                                                                                          \
            const int source = j * block < there ? j * block : 0;                                                     \
            tmm_load(a, next.codes + source * LW_MATRIX_UNIT, block);                                                 \
            tmm_load(w, next.lines + source * LW_LANES, LW_LINE);                                                     \
            tmm_zero(j);                                                                                              \
            tmm_signed(j, a, w);                                                                                      \
            tmm_store(late, slot, LW_LINE);                                                                           \
            if (j * block < blocks) amxq_add(X, finite, from[j], t, &at, b + j, in_group + j, sum);                    \
        } while (0)
        AMXQ_STEP(0, 4, 6, 2, from[2]);
        AMXQ_STEP(1, 5, 7, 3, from[3]);
        AMXQ_STEP(2, 4, 6, 0, to[0]);
        AMXQ_STEP(3, 5, 7, 1, to[1]);
#undef AMXQ_STEP
        if (blocks && blocks <= step) {
            if (!x->fine) {
                V_UNROLL for (int r = 0; r < LW_MATRIX_UNIT; r++) {
                    const vreg by = vr_set1((const void *)(at.group + 4 * r));
                    sum[r] = vr_fma(sum[r], by, before ? vr_load(before + r * LW_LANES) : vr_zero());
                }
            }
            const int last = t->last && at.k + at.size >= t->k, plain = amxq_as_is(t, at.panel, at.unit);
            float *c = last && plain ? amxq_out(t, at.panel, at.unit) : held;
            const ptrdiff_t ld = last && plain ? t->ldc : LW_LANES;
            V_UNROLL for (int r = 0; r < LW_MATRIX_UNIT; r++) vr_store(c + r * ld, sum[r]);
            if (last && !plain) amxq_finish(t, at.panel, at.unit, held);
        }
        more = i < 0 || next.codes != at.codes || next.lines != at.lines;
        at = next;
        amxq_next(X, t, units, &next);
    }
    if (!t->held) tmm_release();
}

#ifdef QUANT_ROLLED
static void amx_blocks(const lw_quant_matrix *t) { amxq_body(t->form, t->finite, t); }
#else
#define AMXQ_DEFINE(name, X, finite) \
    static __attribute__((noinline)) void amxq_##name(const lw_quant_matrix *t) { amxq_body(X, finite, t); }
AMXQ_DEFINE(plain, LW_X32_0, 0)
AMXQ_DEFINE(fine, LW_X32_FINE, 1)
AMXQ_DEFINE(fine_any, LW_X32_FINE, 0)
AMXQ_DEFINE(minima, LW_X32F_2, 0)
static void amx_blocks(const lw_quant_matrix *t) {
    const lw_quant *const x = &lw_quants[t->form];
    if (x->minima) amxq_minima(t);
    else if (x->fine) (t->finite ? amxq_fine : amxq_fine_any)(t);
    else amxq_plain(t);
}
#endif
#endif
