/* gemm_quant.h - tiles of a product of quantised weights and quantised activations (../quant.h has the layouts).
 *
 * One formula in every tile of every table (docs/numerics.md). For a group of 256 or 128 k, blocks in ascending order:
 *     sum = 0, or with integer minima -(dmin * float(int sum of minimum * block sum))
 *     sum = fma(float(int sum of code * activation, zero point included), scale of the block, sum)
 *     sum = fma(float(block sum), minimum of the block, sum)            with float minima
 *     acc = fma(sum, activation scale of the group, acc)
 * With `fine` every block is a group; with `whole` the superblock is one block, of sub-scale * (code - zero), with the scale d:
 * the blocks' integers times their sub-scales are added up as integers, or in float32 where that is exact and no slower.
 * Sums of a block and of a group stay in registers, acc goes through the stack once per group. A body is made for a
 * format, R rows and Q registers of 16 / V_REGS outputs; a tile with more registers is worked off Q at a time.
 */
#ifndef LW_KERNELS_GEMM_QUANT_H
#define LW_KERNELS_GEMM_QUANT_H
#include "quant_planes.h"

enum { QUANT_MOST = 12 };      /* registers of sums in a tile */

/* ---- the tile ---------------------------------------------------------------------------------------------------- */
typedef struct q_at {
    const unsigned char *piece[4], *head[4];             /* of each register */
    const char *terms, *codes, *fine;                    /* of the activations: at the group's first block, at this piece */
    const float *scale, *min;                            /* of the superblock: block b, register q at b * ld + q * QL ... */
    int ld;
} q_at;

/* Of register q. float16 is widened where it is used: a store and a load would cost more. */
ALWAYS_INLINE vreg q_scale(const int F, const q_at *at, int q, int b) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_F16 || scales == LW_SCALES_F16M) return vr_f16(at->head[q] + 32 * b);
    return vr_load(scales >= LW_SCALES_F32 ? (const float *)(at->head[q] + 64 * b) : at->scale + b * at->ld + q * QL);
}
/* With `whole`: the sub-scale, an integer. */
ALWAYS_INLINE ireg q_sub_scale(const int F, const q_at *at, int q, int b) {
    return ir_load(lw_quants[F].scales >= LW_SCALES_F32 ? (const float *)(at->head[q] + 64 * b) : at->scale + b * at->ld + q * QL);
}
ALWAYS_INLINE vreg q_min(const int F, const q_at *at, int q, int b) {
    if (lw_quants[F].scales == LW_SCALES_F16M) return vr_f16(at->head[q] + 256 + 32 * b);
    return vr_load((const float *)(at->head[q] + 512 + 64 * b));
}

/* acc[r][q] += the dots of n groups of 4 k, from group `first` of the piece on. */
#ifdef LW_HAS_DOT4
ALWAYS_INLINE void q_dots(const int F, const int R, const int Q, const q_at *at, const int first, const int n, ireg *acc) {
    V_UNROLL for (int i = first; i < first + n; i++) {
        ireg w[4];
        V_UNROLL for (int q = 0; q < Q; q++) w[q] = q_code(F, at->piece[q], i);
        V_UNROLL for (int r = 0; r < R; r++) {
            ireg x = ir_set1(at->codes + 4 * (i * R + r));
            V_UNROLL for (int q = 0; q < Q; q++) acc[r * Q + q] = ir_dot4(acc[r * Q + q], w[q], x);
        }
    }
}
#else
/* Sums of pairs in 16 bits, as many together as fit; codes of 8 bits in two nibbles. */
ALWAYS_INLINE void q_dots16(const int F, const int R, const int Q, const q_at *at, const int first, const int n, const int nibble,
                            ireg *acc) {
    ireg part[QUANT_MOST];
    V_UNROLL for (int i = first; i < first + n; i++) {
        V_UNROLL for (int q = 0; q < Q; q++) {
            ireg w = q_code(F, at->piece[q], i);
            if (nibble) w = q_bits(w, nibble == 2 ? 4 : 0, 0, 0x0f0f0f0f);
            V_UNROLL for (int r = 0; r < R; r++) {
                ireg x = ir_mul8(w, ir_set1(at->codes + 4 * (i * R + r)));
                part[r * Q + q] = i == first ? x : ir_add16(part[r * Q + q], x);
            }
        }
    }
    V_UNROLL for (int j = 0; j < R * Q; j++) acc[j] = ir_dot2(acc[j], part[j], ir_const(nibble == 2 ? 0x00100010 : 0x00010001));
}
ALWAYS_INLINE void q_dots(const int F, const int R, const int Q, const q_at *at, const int first, const int n, ireg *acc) {
    const int sums = lw_quants[F].sums, step = sums && sums < n ? sums : n;
    V_UNROLL for (int i = first; i < first + n; i += step) {
        if (sums) {
            q_dots16(F, R, Q, at, i, step, 0, acc);
        } else {
            q_dots16(F, R, Q, at, i, step, 1, acc);
            q_dots16(F, R, Q, at, i, step, 2, acc);
        }
    }
}
#endif

/* What a sum of integers starts with: the terms of block s. */
ALWAYS_INLINE void q_zero(const int F, const int R, const int Q, const q_at *at, int s, ireg *dot) {
    V_UNROLL for (int r = 0; r < R; r++)
        V_UNROLL for (int q = 0; q < Q; q++) dot[r * Q + q] = lw_quants[F].zero ? ir_set1(at->terms + 4 * (s * R + r)) : ir_zero();
}

/* One piece: 32 k, one or two blocks. b: the first block's index in the superblock. With `whole` the sums are `total`, or `sum` where
 * those are exact. */
ALWAYS_INLINE void q_piece(const int F, const int R, const int Q, const q_at *at, int b, vreg *sum, ireg *total) {
    const int parts = LW_PIECE / lw_quants[F].block;
    V_UNROLL for (int s = 0; s < parts; s++) {
        ireg dot[QUANT_MOST];
        q_zero(F, R, Q, at, s, dot);
        q_dots(F, R, Q, at, s * (8 / parts), 8 / parts, dot);
        if (lw_quants[F].whole) {
            ireg sub[4];
            V_UNROLL for (int q = 0; q < Q; q++) sub[q] = q_sub_scale(F, at, q, b + s);
            if (lw_quants[F].exact) {
                vreg by[4];
                V_UNROLL for (int q = 0; q < Q; q++) by[q] = ir_float(sub[q]);
                V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_fma(ir_float(dot[i]), by[i % Q], sum[i]);
            } else {
                V_UNROLL for (int i = 0; i < R * Q; i++) total[i] = ir_madd32(total[i], dot[i], sub[i % Q]);
            }
            continue;
        }
        vreg scale[4], min[4];
        const int with_min = lw_quants[F].minima == LW_MIN_FLOAT;
        V_UNROLL for (int q = 0; q < Q; q++) scale[q] = q_scale(F, at, q, b + s);
        if (lw_quants[F].fine) {
            if (with_min) V_UNROLL for (int q = 0; q < Q; q++) min[q] = q_min(F, at, q, b + s);
            V_UNROLL for (int r = 0; r < R; r++) {
                const vreg x = vr_set1((const void *)(at->fine + 4 * (s * R + r)));
                V_UNROLL for (int q = 0; q < Q; q++) {
                    const int i = r * Q + q;
                    vreg part = vr_mul(ir_float(dot[i]), scale[q]);
                    if (with_min) part = vr_fma(vr_set1((const void *)(at->terms + 4 * (s * R + r))), min[q], part);
                    sum[i] = vr_fma(part, x, sum[i]);
                }
            }
            continue;
        }
        V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_fma(ir_float(dot[i]), scale[i % Q], sum[i]);
        if (!with_min) continue;
        V_UNROLL for (int q = 0; q < Q; q++) min[q] = q_min(F, at, q, b + s);
        V_UNROLL for (int r = 0; r < R; r++) {
            const vreg x = vr_set1((const void *)(at->terms + 4 * (s * R + r)));
            V_UNROLL for (int q = 0; q < Q; q++) sum[r * Q + q] = vr_fma(x, min[q], sum[r * Q + q]);
        }
    }
}

/* What the sums of a group start with. */
ALWAYS_INLINE void q_begin(const int F, const int R, const int Q, const q_at *at, const float *dmin, vreg *sum) {
    const int pairs = (int)lw_quant_terms(&lw_quants[F], LW_SUPER), lines = lw_quant_scale_lines(&lw_quants[F]);
    const int expanded = lw_quants[F].scales == LW_SCALES_F32I;
    if (lw_quants[F].minima != LW_MIN_INT) {
        V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_zero();
        return;
    }
    ireg dot[QUANT_MOST], d[4];
    V_UNROLL for (int i = 0; i < R * Q; i++) dot[i] = ir_zero();
    V_UNROLL for (int j = 0; j < pairs; j++) {
        ireg min[4];
        V_UNROLL for (int q = 0; q < Q; q++)
            min[q] = ir_load(expanded ? (const float *)(at->head[q] + 64 * (lines + 2 + j)) : at->min + j * at->ld + q * QL);
        V_UNROLL for (int r = 0; r < R; r++) {
            ireg x = ir_set1(at->terms + 4 * (j * R + r));
            V_UNROLL for (int q = 0; q < Q; q++) dot[r * Q + q] = ir_dot2(dot[r * Q + q], min[q], x);
        }
    }
    V_UNROLL for (int q = 0; q < Q; q++)
        d[q] = ir_xor(ir_load(expanded ? (const float *)(at->head[q] + 64 * (lines + 1)) : dmin + q * QL), ir_const(0x80000000u));
    V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_mul(ir_float(dot[i]), vr_bits(d[i % Q]));
}

/* The sums of a superblock that is one block, from those of its integers. */
ALWAYS_INLINE void q_whole(const int F, const int R, const int Q, q_at *at, const float *d, const float *dmin, vreg *sum) {
    const int expanded = lw_quants[F].scales >= LW_SCALES_F32, lines = lw_quant_scale_lines(&lw_quants[F]);
    vreg begin[QUANT_MOST], by[4];
    if (R > 1) {                                         /* or they wait in registers from the header on */
        V_OPAQUE(at->min);
        V_OPAQUE(d);
        V_OPAQUE(dmin);
    }
    q_begin(F, R, Q, at, dmin, begin);
    V_UNROLL for (int q = 0; q < Q; q++)
        by[q] = vr_load(!expanded ? d + q * QL : (const float *)(at->head[q] + 64 * lines));
    V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_fma(sum[i], by[i % Q], begin[i]);
}

/* The sums of a group times the scales of the activations, plus those before -> after, rows `step` apart. */
ALWAYS_INLINE void q_add(const int R, const int Q, const char *scales, const vreg *sum, const float *before, float *after,
                         ptrdiff_t step) {
    V_OPAQUE(after);                                     /* registers are for the sums */
    V_UNROLL for (int r = 0; r < R; r++) {
        vreg x = vr_set1((const void *)(scales + 4 * r));
        V_UNROLL for (int q = 0; q < Q; q++)
            vr_store(after + r * step + q * QL, vr_fma(sum[r * Q + q], x, vr_load(before + (r * Q + q) * QL)));
    }
}

static ALIGN(64) const float q_zeros[QUANT_MOST * QL];

/* Where share i of a header or piece of so many bytes begins, t->ahead bytes on. */
ALWAYS_INLINE int q_share(const lw_quant_tile *t, int bytes, int i) { return bytes / 64 * i / t->shares * 64 + t->ahead; }

/* Rows x registers reg0 .. reg0 + Q - 1 (register: half a line on AVX2) of the tile's panels, over all k, to rows of out. */
ALWAYS_INLINE void q_columns(const lw_quant_tile *t, const int F, const int R, const int Q, int reg0, float *out, ptrdiff_t ld) {
    const lw_quant *const f = &lw_quants[F];
    const int words = f->scales == LW_SCALES_F16 || f->scales == LW_SCALES_F16M;
    const int group = lw_quant_group(t->k), expanded = f->scales >= LW_SCALES_F32, last = t->panels * V_REGS - 1;
    const int folded = f->block == LW_SUPER;             /* sub-scales are in the codes */
    const int fetch = !expanded && t->ahead, near = t->near ? t->near - t->ahead : 0;
    const int head0 = fetch ? q_share(t, f->header, t->share) : 0, head1 = fetch ? q_share(t, f->header, t->share + 1) : 0;
    const int piece0 = fetch ? q_share(t, f->piece, t->share) : 0, piece1 = fetch ? q_share(t, f->piece, t->share + 1) : 0;
    ALIGN(64) float scale[16 * 4 * QL], min[16 * 4 * QL], dmin[4 * QL], d[4 * QL], acc[QUANT_MOST * QL], waiting[QUANT_MOST * QL];
    const float *before = q_zeros;
    q_at at = {.scale = scale, .min = min, .ld = Q * QL};
    const unsigned char *head[4];
    const char *a = t->a;
    V_UNROLL for (int q = 0; q < Q; q++) {
        int reg = reg0 + q < last ? reg0 + q : last;
        head[q] = (const unsigned char *)t->b + reg / V_REGS * t->ldb;
        at.piece[q] = head[q] + f->header + 64 / V_REGS * (reg % V_REGS);
    }
    vreg sum[QUANT_MOST];
    V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_zero();
    for (int64_t k = 0; k < t->k; k += group) {
        const int pieces = (int)(lw_min(group, t->k - k) + LW_PIECE - 1) / LW_PIECE, at_piece = (int)(k % LW_SUPER) / LW_PIECE;
        const int parts = folded ? 0 : LW_PIECE / f->block, terms = (int)lw_quant_terms(f, pieces * LW_PIECE);
        if (!at_piece || f->minima == LW_MIN_INT || f->whole) {
            V_UNROLL for (int q = 0; q < Q; q++) {
                int half = (reg0 + q) % V_REGS;
                if (k) at.piece[q] += f->header;
                q_out to = {scale + q * QL, min + q * QL, dmin + q * QL, d + q * QL, Q * QL};
                if (!expanded && !words) q_scales(F, head[q], half, &to);
                at.head[q] = words ? q_word(head[q], half, 0) : q_line(head[q], half, 0);
                for (int i = head0; i < head1; i += 64) __builtin_prefetch(head[q] + i, 0, 2);
                head[q] += f->header + 8 * f->piece;
            }
        }
        at.fine = a;
        at.terms = a + 4 * R * (f->fine ? terms : 1);
        at.codes = at.terms + 4 * R * terms;
        ireg dot[QUANT_MOST];
        if (folded) q_zero(F, R, Q, &at, 0, dot);
        else if (f->whole) V_UNROLL for (int i = 0; i < R * Q; i++) dot[i] = ir_zero(), sum[i] = vr_zero();
        else if (!f->fine) q_begin(F, R, Q, &at, dmin, sum);
        for (int j = 0; j < pieces; j++) {
            if (f->exact && j == f->exact) {             /* the first half of the superblock waits in memory */
                float *to = waiting;
                V_OPAQUE(to);
                V_UNROLL for (int i = 0; i < R * Q; i++) vr_store(to + i * QL, sum[i]), sum[i] = vr_zero();
            }
            LW_PRAGMA(GCC unroll 1)                      /* unrolled, it costs GCC the registers of the sums */
            for (int i = piece0; i < piece1; i += 64) {
                V_UNROLL for (int q = 0; q < Q; q++) __builtin_prefetch(at.piece[q] + i, 0, 2);
                if (near) V_UNROLL for (int q = 0; q < Q; q++) __builtin_prefetch(at.piece[q] + i + near, 0, 3);
            }
            if (folded) q_dots(F, R, Q, &at, 0, 8, dot);
            else q_piece(F, R, Q, &at, (at_piece + j) * parts, sum, dot);
            V_UNROLL for (int q = 0; q < Q; q++) at.piece[q] += f->piece;
            if (f->minima != LW_MIN_INT) at.terms += 4 * R * parts;
            at.codes += 32 * R;
            at.fine += 4 * R * parts;
        }
        const char *scales = a;
        a = at.codes;
        if (f->fine) continue;
        if (f->whole && !f->exact) V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = ir_float(dot[i]);
        if (f->exact && f->exact < LW_SUPER / LW_PIECE) {
            const float *from = waiting;
            V_OPAQUE(from);
            V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_add(sum[i], vr_load(from + i * QL));
        }
        if (f->whole) q_whole(F, R, Q, &at, d, dmin, sum);
        const int64_t more = t->k - k - group;
        q_add(R, Q, scales, sum, before, more > 0 ? acc : out, more > 0 ? Q * QL : ld);
        before = acc;
    }
    if (!f->fine) return;
    V_UNROLL for (int r = 0; r < R; r++)
        V_UNROLL for (int q = 0; q < Q; q++) vr_store(out + r * ld + q * QL, sum[r * Q + q]);
}

/* Bias and residual, each rounded once, in this order; columns beyond the last are dropped. */
ALWAYS_INLINE void q_finish(const lw_quant_tile *t, const int R, const int Q, int reg0, const float *sums) {
    for (int r = 0; r < R; r++) {
        for (int q = 0; q < Q; q++) {
            const int column = (reg0 + q) * QL, n = t->columns - column;
            const float *acc = sums + (r * Q + q) * QL;
            float *c = t->c + r * t->ldc + column;
            const float *bias = t->bias ? t->bias + column : NULL;
            const float *residual = t->residual ? t->residual + r * t->ldr + column : NULL;
            if (n >= QL) {
                vreg v = vr_load(acc);
                if (bias) v = vr_add(v, vr_load(bias));
                if (residual) v = vr_add(v, vr_load(residual));
                vr_store(c, v);
            } else {
                for (int i = 0; i < n; i++) {
                    float v = acc[i];
                    if (bias) v += bias[i];
                    if (residual) v += residual[i];
                    c[i] = v;
                }
            }
        }
    }
}

ALWAYS_INLINE void q_tile(const lw_quant_tile *t, const int F, const int R, const int Q) {
    for (int reg = 0; reg < t->panels * V_REGS; reg += Q) {
        ALIGN(64) float sums[QUANT_MOST * QL];
        const int plain = t->columns >= (reg + Q) * QL && !t->bias && !t->residual;
        q_columns(t, F, R, Q, reg, plain ? t->c + reg * QL : sums, plain ? t->ldc : Q * QL);
        if (!plain) q_finish(t, R, Q, reg, sums);
    }
}

/* A table defines QUANT_ROWS, QUANT_DIRECT (the most rows of tiles that read packed planes), and for rows 1 .. those
 * QUANT_TILES(X, f) = X(f, rows, registers) ... and QUANT_DIRECT_TILES(X, f); or, where speed is no matter, QUANT_ROLLED: one body
 * for all. With ir_dot4 the expanded forms differ in their scales only. */
#ifdef QUANT_ROLLED
static void tile_quant(const lw_quant_tile *t) { q_tile(t, t->form, t->rows, 1); }
#else
typedef void quant_fn(const lw_quant_tile *t);
#define QUANT_DEFINE(f, r, q) static void quant##f##_##r##x##q(const lw_quant_tile *t) { q_tile(t, f, r, q); }
#define QUANT_ENTRY(f, r, q) [f][r] = quant##f##_##r##x##q,
#define QUANT_PACKED(X)                                                                                               \
    QUANT_DIRECT_TILES(X, 0) QUANT_DIRECT_TILES(X, 1) QUANT_DIRECT_TILES(X, 2) QUANT_DIRECT_TILES(X, 3)               \
    QUANT_DIRECT_TILES(X, 4) QUANT_DIRECT_TILES(X, 5) QUANT_DIRECT_TILES(X, 6) QUANT_DIRECT_TILES(X, 7)               \
    QUANT_DIRECT_TILES(X, 8) QUANT_DIRECT_TILES(X, 9) QUANT_DIRECT_TILES(X, 10) QUANT_DIRECT_TILES(X, 11)             \
    QUANT_DIRECT_TILES(X, 12) QUANT_DIRECT_TILES(X, 13) QUANT_DIRECT_TILES(X, 14) QUANT_DIRECT_TILES(X, 15)
#ifdef LW_HAS_DOT4
#define QUANT_EXPANDED(X)                                                                                 \
    QUANT_TILES(X, 18) QUANT_TILES(X, 19) QUANT_TILES(X, 20) QUANT_TILES(X, 21) QUANT_TILES(X, 22)        \
    QUANT_TILES(X, 23) QUANT_TILES(X, 25) QUANT_TILES(X, 26) QUANT_TILES(X, 27) QUANT_TILES(X, 28)
static const uint8_t quant_form[LW_QUANTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, LW_X32_0, LW_X32_0, LW_X32_0,
                                              LW_X32F_2, LW_X32I_8, LW_X32I_2, LW_X32W_0, LW_X256I_2, LW_X16W_2, LW_X32_FINE,
                                              LW_X256_0, LW_X16W_2, LW_X32F_FINE};
#else
#define QUANT_EXPANDED(X)                                                                                 \
    QUANT_TILES(X, 16) QUANT_TILES(X, 17) QUANT_TILES(X, 18) QUANT_TILES(X, 19) QUANT_TILES(X, 20)        \
    QUANT_TILES(X, 21) QUANT_TILES(X, 22) QUANT_TILES(X, 23) QUANT_TILES(X, 24) QUANT_TILES(X, 25)        \
    QUANT_TILES(X, 27) QUANT_TILES(X, 28)
static const uint8_t quant_form[LW_QUANTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
                                              23, 24, 25, 26, 27, 28};
#endif
QUANT_PACKED(QUANT_DEFINE)
QUANT_EXPANDED(QUANT_DEFINE)
static quant_fn *const quant_tiles[LW_QUANTS][QUANT_ROWS + 1] = {QUANT_PACKED(QUANT_ENTRY) QUANT_EXPANDED(QUANT_ENTRY)};

static void tile_quant(const lw_quant_tile *t) {
    quant_fn *run = quant_tiles[quant_form[t->form]][t->rows];
    LW_ASSERT(run && t->columns >= 1 && t->columns <= 16 * t->panels);
    run(t);
}
#endif
#endif
