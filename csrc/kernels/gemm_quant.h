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

enum { QUANT_MOST = 24 };      /* registers of a block's sums in a tile; */
#if QUANT_ROWS <= 6            /* as many as LW_QUANT_LOW_ROWS: a table without tall tiles is spared compiling them */
enum { QUANT_HELD = QUANT_MOST };
#elif defined(QUANT_ROLLED)
#define QUANT_TALL
enum { QUANT_HELD = 6 };
#else
#define QUANT_TALL
enum { QUANT_HELD = 12 };      /* beside so many those of a group are registers as well */
#endif

/* ---- the tile ---------------------------------------------------------------------------------------------------- */
typedef struct q_at {
    const unsigned char *piece[4];                       /* of each register */
    q_head head[4];
    const char *terms, *codes, *fine;                    /* of the activations: at the group's first block, at this piece */
    const float *scale;                                  /* what q_prepare made of the headers: [block, or four of them][q][QL] */
    const float *min, *dmin, *d;                         /* likewise: [pair][q][QL], [q][QL] */
    int piece0, piece1, near;                            /* of each piece these bytes are fetched, and so far behind them into L1 */
    const char *ask;                                     /* the next row that is asked for, if one is left, */
    ptrdiff_t ld_ask;
    int asks;                                            /* and how many are */
} q_at;

ALWAYS_INLINE int q_tall(const int R, const int Q) { return R * Q > QUANT_HELD; }
/* Whether all that a superblock's header says is worked out where it begins, and stored. A tile of a few rows loses more by stores than
 * by shifts where a block ends; one that waits for memory does not, and the rows of a tall one end one by one. */
ALWAYS_INLINE int q_kept(const int R, const int Q) { return R <= 2 || q_tall(R, Q); }
/* Whether sub-scales wait as bytes, four in a lane: those of K6, which are put together, in memory, others in the header. */
ALWAYS_INLINE int q_bytes(const int F, const int R, const int Q) {
    const int scales = lw_quants[F].scales;
    return !q_kept(R, Q) && (scales == LW_SCALES_K6 || scales == LW_SCALES_K8 || scales == LW_SCALES_K8F);
}
/* Where a superblock begins: what is worked out there, of register q. */
ALWAYS_INLINE void q_prepare(const int F, const int R, const int Q, q_head h, const q_out *out) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_F16 || scales == LW_SCALES_F16M || scales >= LW_SCALES_F32) return;
    if (lw_quants[F].whole && q_kept(R, Q)) q_once(F, h, out);
    if (lw_quants[F].block == LW_SUPER) return;
    if (!q_bytes(F, R, Q)) q_scales(F, h, out);
    else if (scales == LW_SCALES_K6) V_UNROLL for (int j = 0; j < 2; j++) ir_store(out->scale + j * out->ld, q_subs(F, h, j));
}
/* Of register q and block b. */
ALWAYS_INLINE vreg q_scale(const int F, const int Q, const q_at *at, int q, int b) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_F16 || scales == LW_SCALES_F16M) return vr_f16(q_words(at->head[q]) + 32 * b);
    return scales >= LW_SCALES_F32 ? vr_bits(q_line(at->head[q], b)) : vr_load(at->scale + (b * Q + q) * QL);
}
/* With `whole`: the sub-scale, an integer. */
ALWAYS_INLINE ireg q_sub_scale(const int F, const int R, const int Q, const q_at *at, int q, int b) {
    if (lw_quants[F].scales >= LW_SCALES_F32) return q_line(at->head[q], b);
    if (!q_bytes(F, R, Q)) return ir_load(at->scale + (b * Q + q) * QL);
    const int made = lw_quants[F].scales == LW_SCALES_K6;
    return q_sub_of(F, made ? ir_load(at->scale + (b / 4 * Q + q) * QL) : q_line(at->head[q], b / 4), b % 4);
}
ALWAYS_INLINE vreg q_min(const int F, const q_at *at, int q, int b) {
    if (lw_quants[F].scales == LW_SCALES_F16M) return vr_f16(q_words(at->head[q]) + 256 + 32 * b);
    return vr_bits(q_line(at->head[q], 8 + b));
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

#ifdef QUANT_FOLD
/* Of LW_Q2_K_FOLD: what the codes 0 .. 3 of each output times its sub-scale i of a line are, as bytes. */
ALWAYS_INLINE ireg q_products(ireg subs, int i) {
    const ireg s = ir_and(ir_spread(subs, i), ir_const(0x0f0f0f0f));
    return ir_add8(ir_and(s, ir_const(0xff00ff00)), ir_and(ir_add8(s, s), ir_const(0xffff0000)));
}
/* acc[r][q] += the dots of piece j of the superblock. */
ALWAYS_INLINE void q_fold_dots(const int F, const int R, const int Q, const q_at *at, int j, ireg *acc) {
    V_UNROLL for (int s = 0; s < 2; s++) {
        ireg products[4], w[4];
        V_UNROLL for (int q = 0; q < Q; q++) products[q] = q_products(q_line(at->head[q], j / 2), j % 2 * 2 + s);
        V_UNROLL for (int i = 4 * s; i < 4 * s + 4; i++) {
            V_UNROLL for (int q = 0; q < Q; q++) w[q] = ir_pick(products[q], q_code(F, at->piece[q], i));
            V_UNROLL for (int r = 0; r < R; r++) {
                ireg x = ir_set1(at->codes + 4 * (i * R + r));
                V_UNROLL for (int q = 0; q < Q; q++) acc[r * Q + q] = ir_dot4(acc[r * Q + q], w[q], x);
            }
        }
    }
}
#else
ALWAYS_INLINE void q_fold_dots(const int F, const int R, const int Q, const q_at *at, int j, ireg *acc) {
    (void)j;
    q_dots(F, R, Q, at, 0, 8, acc);
}
#endif

/* What a sum of integers starts with: the terms of block s. */
ALWAYS_INLINE void q_zero(const int F, const int R, const int Q, const q_at *at, int s, ireg *dot) {
    V_UNROLL for (int r = 0; r < R; r++)
        V_UNROLL for (int q = 0; q < Q; q++) dot[r * Q + q] = lw_quants[F].zero ? ir_set1(at->terms + 4 * (s * R + r)) : ir_zero();
}

/* What a block's sums of integers are multiplied with, and its minima. */
typedef struct q_end { vreg scale[4], min[4]; ireg sub[4]; } q_end;
ALWAYS_INLINE int q_integers(const int F) { return lw_quants[F].whole && !lw_quants[F].exact; }
ALWAYS_INLINE void q_end_of(const int F, const int R, const int Q, const q_at *at, int b, q_end *end) {
    V_UNROLL for (int q = 0; q < Q; q++) {
        if (lw_quants[F].whole) end->sub[q] = q_sub_scale(F, R, Q, at, q, b);
        if (!q_integers(F)) end->scale[q] = lw_quants[F].whole ? ir_float(end->sub[q]) : q_scale(F, Q, at, q, b);
        if (lw_quants[F].minima == LW_MIN_FLOAT) end->min[q] = q_min(F, at, q, b);
    }
}
/* sum + the block: dot with row r's terms and scales, those of block s of the piece they are given for. */
ALWAYS_INLINE vreg q_ended(const int F, const int R, const char *terms, const char *fine, int s, int r, int q, const q_end *end, ireg dot,
                           vreg sum) {
    const int with_min = lw_quants[F].minima == LW_MIN_FLOAT;
    vreg part = lw_quants[F].fine ? vr_mul(ir_float(dot), end->scale[q]) : vr_fma(ir_float(dot), end->scale[q], sum);
    if (with_min) part = vr_fma(vr_set1((const void *)(terms + 4 * (s * R + r))), end->min[q], part);
    return lw_quants[F].fine ? vr_fma(part, vr_set1((const void *)(fine + 4 * (s * R + r))), sum) : part;
}

/* One piece: 32 k, one or two blocks. b: the first block's index in the superblock. With `whole` the sums are `total`, or `sum` where
 * those are exact. */
ALWAYS_INLINE void q_piece(const int F, const int R, const int Q, const q_at *at, int b, vreg *sum, ireg *total) {
    const int parts = LW_PIECE / lw_quants[F].block;
    V_UNROLL for (int s = 0; s < parts; s++) {
        ireg dot[QUANT_MOST];
        q_end end;
        q_zero(F, R, Q, at, s, dot);
        q_dots(F, R, Q, at, s * (8 / parts), 8 / parts, dot);
        q_end_of(F, R, Q, at, b + s, &end);
        V_UNROLL for (int i = 0; i < R * Q; i++) {
            if (q_integers(F)) total[i] = ir_madd32(total[i], dot[i], end.sub[i % Q]);
            else sum[i] = q_ended(F, R, at->terms, at->fine, s, i / Q, i % Q, &end, dot[i], sum[i]);
        }
    }
}

/* What the sums of a group start with, for n rows from row r0 on. */
ALWAYS_INLINE void q_begin(const int F, const int R, const int r0, const int n, const int Q, const q_at *at, vreg *sum) {
    const int pairs = (int)lw_quant_terms(&lw_quants[F], LW_SUPER), lines = lw_quant_scale_lines(&lw_quants[F]);
    const int expanded = lw_quants[F].scales == LW_SCALES_F32I, kept = q_kept(R, Q);
    if (lw_quants[F].minima != LW_MIN_INT) {
        V_UNROLL for (int i = 0; i < n * Q; i++) sum[i] = vr_zero();
        return;
    }
    ireg dot[QUANT_MOST];
    vreg d[4];
    V_UNROLL for (int i = 0; i < n * Q; i++) dot[i] = ir_zero();
    V_UNROLL for (int j = 0; j < pairs; j++) {
        ireg min[4];
        V_UNROLL for (int q = 0; q < Q; q++)
            min[q] = expanded ? q_line(at->head[q], lines + 2 + j) : kept ? ir_load(at->min + (j * Q + q) * QL)
                                                                            : q_minima(F, at->head[q], j);
        V_UNROLL for (int r = 0; r < n; r++) {
            ireg x = ir_set1(at->terms + 4 * (j * R + r0 + r));
            V_UNROLL for (int q = 0; q < Q; q++) dot[r * Q + q] = ir_dot2(dot[r * Q + q], min[q], x);
        }
    }
    V_UNROLL for (int q = 0; q < Q; q++)
        d[q] = expanded ? vr_bits(q_line(at->head[q], lines + 1)) : kept ? vr_load(at->dmin + q * QL) : q_dmin(F, at->head[q]);
    V_UNROLL for (int q = 0; q < Q; q++) d[q] = vr_bits(ir_xor(vr_ints(d[q]), ir_const(0x80000000u)));
    V_UNROLL for (int i = 0; i < n * Q; i++) sum[i] = vr_mul(ir_float(dot[i]), d[i % Q]);
}

/* The sums of a superblock that is one block, from those of its integers; rows likewise. */
ALWAYS_INLINE void q_whole(const int F, const int R, const int r0, const int n, const int Q, q_at *at, vreg *sum) {
    const int expanded = lw_quants[F].scales >= LW_SCALES_F32, lines = lw_quant_scale_lines(&lw_quants[F]), kept = q_kept(R, Q);
    vreg begin[QUANT_MOST], by[4];
    if (R > 1) {                                         /* or they wait in registers from the header on */
        V_OPAQUE(at->min);
        V_OPAQUE(at->d);
        V_OPAQUE(at->dmin);
        V_UNROLL for (int q = 0; q < Q; q++) V_OPAQUE(at->head[q].line);
        if (V_REGS > 1) V_UNROLL for (int q = 0; q < Q; q++) V_OPAQUE(at->head[q].word);
    }
    q_begin(F, R, r0, n, Q, at, begin);
    V_UNROLL for (int q = 0; q < Q; q++)
        by[q] = expanded ? vr_bits(q_line(at->head[q], lines)) : kept ? vr_load(at->d + q * QL) : q_d(F, at->head[q]);
    V_UNROLL for (int i = 0; i < n * Q; i++) sum[i] = vr_fma(sum[i], by[i % Q], begin[i]);
}

/* The sums of a group times the scales of the activations, plus those before -> after, rows `step` apart. */
ALWAYS_INLINE void q_add(const int R, const int Q, const char *scales, const vreg *sum, const float *before, float *after,
                         ptrdiff_t step) {
    V_UNROLL for (int r = 0; r < R; r++) {
        vreg x = vr_set1((const void *)(scales + 4 * r));
        V_UNROLL for (int q = 0; q < Q; q++)
            vr_store(after + r * step + q * QL, vr_fma(sum[r * Q + q], x, vr_load(before + (r * Q + q) * QL)));
    }
}

static ALIGN(64) const float q_zeros[QUANT_MOST * QL];

ALWAYS_INLINE void q_fetch(const int F, const int R, const int Q, q_at *at) {
    if (q_tall(R, Q) && at->asks) {                /* a row with each piece: all at once, they would keep the weights waiting */
        __builtin_prefetch(at->ask, 1, 3);
        __builtin_prefetch(at->ask + LW_LINE, 1, 3);
        at->ask += at->ld_ask;
        at->asks--;
    }
    if (lw_quants[F].scales >= LW_SCALES_F32) return;
    LW_PRAGMA(GCC unroll 1)                              /* unrolled, it costs GCC the registers of the sums */
    for (int i = at->piece0; i < at->piece1; i += 64) {
        V_UNROLL for (int q = 0; q < Q; q++) __builtin_prefetch(at->piece[q] + i, 0, 2);
        if (at->near) V_UNROLL for (int q = 0; q < Q; q++) __builtin_prefetch(at->piece[q] + i + at->near, 0, 3);
    }
}
ALWAYS_INLINE void q_next_piece(const int F, const int R, const int Q, q_at *at) {
    const int blocks = lw_quants[F].block == LW_SUPER ? 0 : LW_PIECE / lw_quants[F].block;
    V_UNROLL for (int q = 0; q < Q; q++) at->piece[q] += lw_quants[F].piece;
    if (lw_quants[F].minima != LW_MIN_INT) at->terms += 4 * R * blocks;
    at->codes += 32 * R;
    at->fine += 4 * R * blocks;
}

#ifdef QUANT_TALL
#include "gemm_quant_tall.h"
#endif

/* Where share i of a header or piece of so many bytes begins, t->ahead bytes on. */
ALWAYS_INLINE int q_share(const lw_quant_tile *t, int bytes, int i) { return bytes / 64 * i / t->shares * 64 + t->ahead; }

/* A group, from piece `first` of the superblock on: what it adds up to, times the scales, plus `before` -> after, rows `step` apart; or
 * with `fine` onto sum. */
ALWAYS_INLINE void q_group(const int F, const int R, const int Q, q_at *at, int first, int pieces, vreg *sum, float *waiting,
                           const char *scales, const float *before, float *after, ptrdiff_t step) {
    const lw_quant *const f = &lw_quants[F];
    const int folded = f->block == LW_SUPER, parts = folded ? 0 : LW_PIECE / f->block;
    const int chunk = q_tall(R, Q) ? 1 : R;                    /* rows that end together */
    ireg dot[QUANT_MOST];
    if (folded) q_zero(F, R, Q, at, 0, dot);
    else if (f->whole) V_UNROLL for (int i = 0; i < R * Q; i++) dot[i] = ir_zero(), sum[i] = vr_zero();
    else if (!f->fine) V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_zero();
    for (int j = 0; j < pieces; j++) {
        if (f->exact && j == f->exact) {                 /* the first half of the superblock waits in memory */
            float *to = waiting;
            V_OPAQUE(to);
            V_UNROLL for (int i = 0; i < R * Q; i++) vr_store(to + i * QL, sum[i]), sum[i] = vr_zero();
        }
        q_fetch(F, R, Q, at);
        if (F == LW_Q2_K_FOLD) q_fold_dots(F, R, Q, at, j, dot);
        else if (folded) q_dots(F, R, Q, at, 0, 8, dot);
        else q_piece(F, R, Q, at, (first + j) * parts, sum, dot);
        q_next_piece(F, R, Q, at);
    }
    if (f->fine) return;
    if (f->whole && !f->exact) V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = ir_float(dot[i]);
    if (f->exact && f->exact < LW_SUPER / LW_PIECE) {
        const float *from = waiting;
        V_OPAQUE(from);
        V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_add(sum[i], vr_load(from + i * QL));
    }
    V_OPAQUE(after);                                     /* registers are for the sums */
    V_UNROLL for (int r = 0; r < R; r += chunk) {
        if (f->whole) q_whole(F, R, r, chunk, Q, at, sum + r * Q);
        q_add(chunk, Q, scales + 4 * r, sum + r * Q, before + r * Q * QL, after + r * step, step);
    }
}

/* Rows x registers reg0 .. reg0 + Q - 1 (register: half a line on AVX2) of the tile's panels, over all k, to rows of out. */
ALWAYS_INLINE void q_columns(const lw_quant_tile *t, const int F, const int R, const int Q, int reg0, float *out, ptrdiff_t ld) {
    const lw_quant *const f = &lw_quants[F];
    const int group = lw_quant_group(t->k), expanded = f->scales >= LW_SCALES_F32, last = t->panels * V_REGS - 1;
    const int folded = f->block == LW_SUPER;             /* sub-scales are in the codes */
    const int words = f->scales == LW_SCALES_F16 || f->scales == LW_SCALES_F16M;
    const int fetch = !expanded && t->ahead;
    const int head0 = fetch ? q_share(t, f->header, t->share) : 0, head1 = fetch ? q_share(t, f->header, t->share + 1) : 0;
    const int tall = q_tall(R, Q);
    ALIGN(64) float scale[16 * 4 * QL], min[16 * 4 * QL], dmin[4 * QL], d[4 * QL], acc[QUANT_MOST * QL], waiting[QUANT_MOST * QL];
    ALIGN(64) float kept[QUANT_MOST * QL];
    const float *before = q_zeros;
    q_at at = {.scale = scale, .min = min, .dmin = dmin, .d = d, .near = t->near ? t->near - t->ahead : 0,
               .ask = t->ask, .ld_ask = t->ld_ask, .asks = t->ask ? R : 0,
               .piece0 = fetch ? q_share(t, f->piece, t->share) : 0, .piece1 = fetch ? q_share(t, f->piece, t->share + 1) : 0};
    const unsigned char *head[4];
    const char *a = t->a;
    V_UNROLL for (int q = 0; q < Q; q++) {
        int reg = reg0 + q < last ? reg0 + q : last;
        head[q] = (const unsigned char *)t->b + reg / V_REGS * t->ldb;
        at.piece[q] = head[q] + f->header + 64 / V_REGS * (reg % V_REGS);
    }
    vreg sum[QUANT_MOST];
    V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_zero();
    if (tall && f->fine) V_UNROLL for (int i = 0; i < R * Q; i++) vr_store(kept + i * QL, vr_zero());
    for (int64_t k = 0; k < t->k; k += group) {
        const int pieces = (int)(lw_min(group, t->k - k) + LW_PIECE - 1) / LW_PIECE, at_piece = (int)(k % LW_SUPER) / LW_PIECE;
        const int terms = (int)lw_quant_terms(f, pieces * LW_PIECE);
        if (!at_piece || f->minima == LW_MIN_INT || f->whole) {
            V_UNROLL for (int q = 0; q < Q; q++) {
                int half = (reg0 + q) % V_REGS;
                if (k) at.piece[q] += f->header;
                q_out to = {scale + q * QL, min + q * QL, dmin + q * QL, d + q * QL, Q * QL};
                at.head[q] = q_head_of(head[q], half);
                q_prepare(F, R, Q, at.head[q], &to);
                for (int i = head0; i < head1; i += 64) __builtin_prefetch(head[q] + i, 0, 2);
                /* Scales that are read as blocks end: asked for in their turn, or the hardware sees no stream. */
                for (int i = 0; words && fetch && R <= 2 && i < f->header; i += 64) __builtin_prefetch(head[q] + i, 0, 3);
                head[q] += f->header + 8 * f->piece;
            }
        }
        at.fine = a;
        at.terms = a + 4 * R * (f->fine ? terms : 1);
        at.codes = at.terms + 4 * R * terms;
        const char *scales = a;
        const int64_t more = t->k - k - group, step = more > 0 ? Q * QL : ld;
        float *after = more > 0 ? acc : out;
        a = at.codes + (pieces * 32) * R;
#ifdef QUANT_TALL
        if (tall && !folded) {
            const q_wait wait = {kept, waiting};
            q_tall_group(F, R, Q, &at, at_piece, pieces, &wait, scales, before, f->fine && more > 0 ? kept : after, step);
            before = acc;
            continue;
        }
#endif
        q_group(F, R, Q, &at, at_piece, pieces, sum, waiting, scales, before, after, step);
        before = acc;
    }
    if (!f->fine || (tall && !folded)) return;
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

#include "gemm_quant_tiles.h"
#endif
