/* gemm_quant_tall.h - tiles of more rows: each line of weights is used more often, but the sums of a group no longer fit beside
 * those of a block and wait in memory.
 *
 * A block ends row by row while the next one begins: all at once, conversions and stores fill the scheduler, and the
 * multiplications behind them start late (docs/decisions.md). Forms that are one block have nothing to end: gemm_quant.h. */
#ifndef LW_KERNELS_GEMM_QUANT_TALL_H
#define LW_KERNELS_GEMM_QUANT_TALL_H

typedef struct q_wait { float *all, *half; } q_wait;     /* a group's sums; the first half of them, where all would be inexact */

/* Where the sums before block b of a group are. */
ALWAYS_INLINE const float *q_from(const int F, const q_wait *wait, int b) {
    const int half = lw_quants[F].exact * (LW_PIECE / lw_quants[F].block);
    return !lw_quants[F].fine && (b == 0 || b == half) ? q_zeros : wait->all;
}

/* The first four k of block s of a piece, of row r. */
ALWAYS_INLINE void q_open(const int F, const int R, const int Q, const q_at *at, const int s, const int r, const ireg *w, ireg *dot) {
    const ireg x = ir_set1(at->codes + 4 * (s * (lw_quants[F].block / 4) * R + r));
    V_UNROLL for (int q = 0; q < Q; q++)
        dot[r * Q + q] = ir_dot4(lw_quants[F].zero ? ir_set1(at->terms + 4 * (s * R + r)) : ir_zero(), w[q], x);
}

/* Ends block s of piece `at`, block b of the group, while block `next` of piece `then` begins. */
ALWAYS_INLINE void q_turn(const int F, const int R, const int Q, const q_at *at, const int s, const q_at *then, const int next, int b,
                          const q_end *end, const q_wait *wait, ireg *dot) {
    const int half = lw_quants[F].exact * (LW_PIECE / lw_quants[F].block);
    const float *from = q_from(F, wait, b);
    float *to = half && b + 1 == half ? wait->half : wait->all;
    ireg w[4];
    V_OPAQUE(to);
    if (lw_quants[F].fine) from = to;
    else V_OPAQUE(from);
    V_UNROLL for (int q = 0; q < Q; q++) w[q] = q_code(F, then->piece[q], next * (lw_quants[F].block / 4));
    V_UNROLL for (int r = 0; r < R; r++) {
        V_UNROLL for (int q = 0; q < Q; q++) {
            const int i = r * Q + q;
            if (q_integers(F)) ir_store(to + i * QL, ir_madd32(ir_load(from + i * QL), dot[i], end->sub[q]));
            else vr_store(to + i * QL, q_ended(F, R, at->terms, at->fine, s, r, q, end, dot[i], vr_load(from + i * QL)));
        }
        q_open(F, R, Q, then, next, r, w, dot);
        V_FORGET;                                        /* in this order */
    }
}

/* A group, from piece `first` of the superblock on; what it adds up to, times the scales, plus `before` -> after, rows `step` apart. */
ALWAYS_INLINE void q_tall_group(const int F, const int R, const int Q, q_at *at, int first, int pieces, const q_wait *wait, const char *scales, const float *before, float *after, ptrdiff_t step) {
    const lw_quant *const f = &lw_quants[F];
    const int parts = LW_PIECE / f->block, quads = f->block / 4;
    ireg dot[QUANT_MOST], w[4];
    q_end end;
    q_at done = *at;
    V_UNROLL for (int q = 0; q < Q; q++) w[q] = q_code(F, at->piece[q], 0);
    V_UNROLL for (int r = 0; r < R; r++) q_open(F, R, Q, at, 0, r, w, dot);
    for (int j = 0;; j++) {
        q_fetch(F, R, Q, at);
        V_UNROLL for (int s = 0; s < parts; s++) {
            q_dots(F, R, Q, at, s * quads + 1, quads - 1, dot);
            q_end_of(F, R, Q, at, (first + j) * parts + s, &end);
            if (s + 1 < parts) q_turn(F, R, Q, at, s, at, s + 1, j * parts + s, &end, wait, dot);
        }
        done = *at;
        q_next_piece(F, R, Q, at);
        if (j + 1 == pieces) break;
        q_turn(F, R, Q, &done, parts - 1, at, 0, (j + 1) * parts - 1, &end, wait, dot);
    }
    const float *from = q_from(F, wait, pieces * parts - 1), *half = wait->half;
    V_OPAQUE(from);
    V_OPAQUE(half);
    V_OPAQUE(after);
    V_UNROLL for (int r = 0; r < R; r++) {
        vreg sum[4];
        V_UNROLL for (int q = 0; q < Q; q++) {
            const int i = r * Q + q;
            if (q_integers(F)) sum[q] = ir_float(ir_madd32(ir_load(from + i * QL), dot[i], end.sub[q]));
            else sum[q] = q_ended(F, R, done.terms, done.fine, parts - 1, r, q, &end, dot[i], vr_load(from + i * QL));
            if (f->exact && f->exact < LW_SUPER / LW_PIECE) sum[q] = vr_add(sum[q], vr_load(half + i * QL));
            if (f->fine) vr_store(after + r * step + q * QL, sum[q]);
        }
        if (f->whole) q_whole(F, R, r, 1, Q, at, sum);
        if (!f->fine) q_add(1, Q, scales + 4 * r, sum, before + r * Q * QL, after + r * step, step);
    }
}
#endif
