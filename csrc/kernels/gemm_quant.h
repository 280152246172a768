/* gemm_quant.h - tiles of a product of quantised weights and quantised activations (../quant.h has the layouts).
 *
 * One formula in every tile of every table (docs/numerics.md). For a group of 256 or 128 k, blocks in ascending order:
 *     sum = 0, or with integer minima -(dmin * float(int sum of minimum * block sum))
 *     sum = fma(float(int sum of code * activation, zero point included), scale of the block, sum)
 *     sum = fma(float(block sum), minimum of the block, sum)            with float minima
 *     acc = fma(sum, activation scale of the group, acc)
 * With `fine` every block is a group.
 * Sums of a block and of a group stay in registers, acc goes through the stack once per group. A body is made for a
 * format, R rows and Q registers of 16 / V_REGS outputs; a tile with more registers is worked off Q at a time.
 */
#ifndef LW_KERNELS_GEMM_QUANT_H
#define LW_KERNELS_GEMM_QUANT_H
#include "../quant.h"

enum { QL = 16 / V_REGS, QUANT_MOST = 12 };              /* outputs of a register; registers of sums in a tile */
#ifdef LW_HAS_VNNI
#define LW_HAS_DOT4
#endif

/* ---- scales ------------------------------------------------------------------------------------------------------ */
/* Where a register's part of a header or piece begins, for planes of 64 bytes (lines) and of 32 (float16). */
ALWAYS_INLINE const unsigned char *q_line(const unsigned char *p, int half, int line) { return p + 64 * line + 64 / V_REGS * half; }
ALWAYS_INLINE const unsigned char *q_word(const unsigned char *p, int half, int at) { return p + at + 32 / V_REGS * half; }
/* Byte j of each lane as float, signed. */
ALWAYS_INLINE vreg q_sbyte(ireg x, int j) { return ir_float(ir_sra(ir_sll(x, 24 - 8 * j), 24)); }
ALWAYS_INLINE ireg q_bits(ireg x, int from, int to, uint32_t mask) {     /* the bits of mask, moved from bit `from` to `to` */
    return ir_and(from > to ? ir_srl(x, from - to) : from < to ? ir_sll(x, to - from) : x, ir_const(mask));
}

typedef struct q_out { float *scale, *min, *dmin; int ld; } q_out;       /* ld: floats from a block to the next */

/* d * (byte - zero) of the four bytes of each lane. The bytes are not shifted down: d is, by powers of two, and every product
 * and difference is exact (11 bits of d, 7 of the byte). */
ALWAYS_INLINE void q_four(const q_out *out, int j, vreg d, ireg x, int zero) {
    const float part[4] = {1.0f, 0x1p-8f, 0x1p-16f, 0x1p-24f}, less = (float)-zero;
    const vreg offset = vr_mul(d, vr_set1(&less));
    V_UNROLL for (int i = 0; i < 4; i++) {
        vreg value = ir_float(ir_and(x, ir_const(255u << 8 * i))), by = vr_mul(d, vr_set1(&part[i]));
        vr_store(out->scale + (j + i) * out->ld, zero ? vr_fma(value, by, offset) : vr_mul(value, by));
    }
}
/* Pairs of minima 0 and 2, 1 and 3 of a byte line, as 16 bits. */
ALWAYS_INLINE void q_pairs(const q_out *out, int j, ireg x) {
    ir_store(out->min + j / 2 * out->ld, ir_low(x));
    ir_store(out->min + (j / 2 + 1) * out->ld, ir_high(x));
}
ALWAYS_INLINE void q_scales_k6(const unsigned char *h, int half, const q_out *out) {
    vreg d = vr_f16(q_word(h, half, 0));
    ireg s = ir_load(q_line(h, half, 1)), m = ir_load(q_line(h, half, 2)), x = ir_load(q_line(h, half, 3));
    const ireg low = ir_const(0x0f0f0f0f);
    vr_store(out->dmin, vr_f16(q_word(h, half, 32)));
    q_four(out, 0, d, ir_or(ir_and(s, low), q_bits(x, 0, 4, 0x30303030)), 0);
    q_four(out, 4, d, ir_or(ir_and(ir_srl(s, 4), low), q_bits(x, 2, 4, 0x30303030)), 0);
    q_pairs(out, 0, ir_or(ir_and(m, low), ir_and(x, ir_const(0x30303030))));
    q_pairs(out, 4, ir_or(ir_and(ir_srl(m, 4), low), q_bits(x, 6, 4, 0x30303030)));
}
ALWAYS_INLINE void q_scales_k3(const unsigned char *h, int half, const q_out *out) {
    vreg d = vr_f16(q_word(h, half, 192));
    ireg x = ir_load(q_line(h, half, 2));
    V_UNROLL for (int j = 0; j < 4; j++) {
        ireg s = ir_load(q_line(h, half, j / 2));
        s = ir_or(q_bits(s, j % 2 * 4, 0, 0x0f0f0f0f), q_bits(x, 2 * j, 4, 0x30303030));
        q_four(out, 4 * j, d, s, 32);
    }
}
ALWAYS_INLINE void q_scales_k2(const unsigned char *h, int half, const q_out *out) {
    vreg d = vr_f16(q_word(h, half, 256));
    const ireg low = ir_const(0x0f0f0f0f);
    vr_store(out->dmin, vr_f16(q_word(h, half, 288)));
    V_UNROLL for (int j = 0; j < 4; j++) {
        ireg x = ir_load(q_line(h, half, j));
        q_four(out, 4 * j, d, ir_and(x, low), 0);
        q_pairs(out, 4 * j, ir_and(ir_srl(x, 4), low));
    }
}
ALWAYS_INLINE void q_scales_xs(const unsigned char *h, int half, const q_out *out) {
    vreg d = vr_f16(q_word(h, half, 64));
    ireg x = ir_load(q_line(h, half, 0)), high = ir_wide16(q_word(h, half, 96));
    V_UNROLL for (int j = 0; j < 8; j++) {
        ireg s = ir_and(ir_srl(x, 8 * (j % 4) + j / 4 * 4), ir_const(15));
        s = ir_or(s, q_bits(high, 2 * j, 4, 0x30));
        vr_store(out->scale + j * out->ld, vr_mul(d, ir_float(ir_add(s, ir_const((uint32_t)-32)))));
    }
}
/* 2^(e - 128), as a product of two powers, so that neither leaves the range: exponents e / 2 and e - e / 2, four at a time. */
ALWAYS_INLINE void q_scales_e8(const unsigned char *h, int half, const q_out *out) {
    V_UNROLL for (int j = 0; j < 8; j += 4) {
        const ireg e = ir_load(q_line(h, half, j / 4)), bias = ir_const(0x3f3f3f3f);
        const ireg low = ir_and(ir_srl(e, 1), ir_const(0x7f7f7f7f));
        const ireg a = ir_add(low, bias), b = ir_add(ir_sub(e, low), bias);
        V_UNROLL for (int i = 0; i < 4; i++) {
            vreg x = vr_bits(q_bits(a, 8 * i, 23, 0x7f800000)), y = vr_bits(q_bits(b, 8 * i, 23, 0x7f800000));
            vr_store(out->scale + (j + i) * out->ld, vr_mul(x, y));
        }
    }
}
/* The scales of a superblock (not of expanded forms, where they stand in lines). */
ALWAYS_INLINE void q_scales(const int F, const unsigned char *h, int half, const q_out *out) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_F16 || scales == LW_SCALES_F16M) {
        V_UNROLL for (int j = 0; j < 8; j++) {
            vr_store(out->scale + j * out->ld, vr_f16(q_word(h, half, 32 * j)));
            if (scales == LW_SCALES_F16M) vr_store(out->min + j * out->ld, vr_f16(q_word(h, half, 256 + 32 * j)));
        }
    } else if (scales == LW_SCALES_K6) q_scales_k6(h, half, out);
    else if (scales == LW_SCALES_K8 || scales == LW_SCALES_K8F) {
        vreg d = scales == LW_SCALES_K8 ? vr_f16(q_word(h, half, 256)) : vr_load((const float *)q_line(h, half, 4));
        V_UNROLL for (int j = 0; j < 16; j++)
            vr_store(out->scale + j * out->ld, vr_mul(d, q_sbyte(ir_load(q_line(h, half, j / 4)), j % 4)));
    } else if (scales == LW_SCALES_K3) q_scales_k3(h, half, out);
    else if (scales == LW_SCALES_K2) q_scales_k2(h, half, out);
    else if (scales == LW_SCALES_XS) q_scales_xs(h, half, out);
    else if (scales == LW_SCALES_E8) q_scales_e8(h, half, out);
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */
/* Group i (0..7) of a piece as unsigned bytes; p: the piece, at this register's half of a line. */
ALWAYS_INLINE ireg q_code(const int F, const unsigned char *p, const int i) {
    const int code = lw_quants[F].code;
    if (code == LW_CODE_LINE) return ir_load(p + 64 * i);
    if (code == LW_CODE_TWO || code == LW_CODE_TWO_BIT) {
        ireg x = q_bits(ir_load(p + 64 * (i / 4)), 2 * (i % 4), 0, 0x03030303);
        return code == LW_CODE_TWO ? x : ir_or(x, q_bits(ir_load(p + 128), i, 2, 0x04040404));
    }
    ireg x = q_bits(ir_load(p + 64 * (i / 2)), 4 * (i % 2), 0, 0x0f0f0f0f);
    if (code == LW_CODE_NIBBLE_BIT) x = ir_or(x, q_bits(ir_load(p + 256), i, 4, 0x10101010));
    if (code == LW_CODE_NIBBLE_TWO) x = ir_or(x, q_bits(ir_load(p + 256 + 64 * (i / 4)), 2 * (i % 4), 4, 0x30303030));
    return lw_quant_table(code) ? ir_lookup(lw_quant_table(code), x) : x;
}

/* ---- the tile ---------------------------------------------------------------------------------------------------- */
typedef struct q_at {
    const unsigned char *piece[4], *head[4];             /* of each register */
    const char *terms, *codes, *fine;                    /* of the activations: at the group's first block, at this piece */
    const float *scale, *min;                            /* of the superblock: block b, register q at b * ld + q * QL ... */
    int ld;
} q_at;

ALWAYS_INLINE const float *q_scale_at(const int F, const q_at *at, int q, int b) {
    return lw_quants[F].code == LW_CODE_LINE && lw_quants[F].scales >= LW_SCALES_F32 ? (const float *)(at->head[q] + 64 * b)
                                                                                      : at->scale + b * at->ld + q * QL;
}
ALWAYS_INLINE const float *q_min_at(const int F, const q_at *at, int q, int b) {
    return lw_quants[F].scales == LW_SCALES_F32M ? (const float *)(at->head[q] + 512 + 64 * b) : at->min + b * at->ld + q * QL;
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

/* One piece: 32 k, one or two blocks. b: the first block's index in the superblock. */
ALWAYS_INLINE void q_piece(const int F, const int R, const int Q, const q_at *at, int b, vreg *sum) {
    const int parts = LW_PIECE / lw_quants[F].block;
    V_UNROLL for (int s = 0; s < parts; s++) {
        ireg dot[QUANT_MOST];
        V_UNROLL for (int r = 0; r < R; r++)
            V_UNROLL for (int q = 0; q < Q; q++)
                dot[r * Q + q] = lw_quants[F].zero ? ir_set1(at->terms + 4 * (s * R + r)) : ir_zero();
        q_dots(F, R, Q, at, s * (8 / parts), 8 / parts, dot);
        vreg scale[4];
        V_UNROLL for (int q = 0; q < Q; q++) scale[q] = vr_load(q_scale_at(F, at, q, b + s));
        V_UNROLL for (int r = 0; r < R; r++) {
            V_UNROLL for (int q = 0; q < Q; q++) {
                const int i = r * Q + q;
                if (lw_quants[F].fine)
                    sum[i] = vr_fma(vr_mul(ir_float(dot[i]), scale[q]), vr_set1((const void *)(at->fine + 4 * (s * R + r))), sum[i]);
                else sum[i] = vr_fma(ir_float(dot[i]), scale[q], sum[i]);
            }
        }
        if (lw_quants[F].minima == LW_MIN_FLOAT) {
            V_UNROLL for (int q = 0; q < Q; q++) scale[q] = vr_load(q_min_at(F, at, q, b + s));
            V_UNROLL for (int r = 0; r < R; r++) {
                vreg x = vr_set1((const void *)(at->terms + 4 * (s * R + r)));
                V_UNROLL for (int q = 0; q < Q; q++) sum[r * Q + q] = vr_fma(x, scale[q], sum[r * Q + q]);
            }
        }
    }
}

/* What the sums of a group start with. */
ALWAYS_INLINE void q_begin(const int F, const int R, const int Q, const q_at *at, const float *dmin, vreg *sum) {
    const int pairs = LW_SUPER / lw_quants[F].block / 2, lines = LW_SUPER / lw_quants[F].block;
    const int expanded = lw_quants[F].scales == LW_SCALES_F32I;
    if (lw_quants[F].minima != LW_MIN_INT) {
        V_UNROLL for (int i = 0; i < R * Q; i++) sum[i] = vr_zero();
        return;
    }
    V_UNROLL for (int q = 0; q < Q; q++) {
        vreg d = vr_load(expanded ? (const float *)(at->head[q] + 64 * lines) : dmin + q * QL);
        V_UNROLL for (int r = 0; r < R; r++) {
            ireg dot = ir_zero();
            V_UNROLL for (int j = 0; j < pairs; j++)
                dot = ir_dot2(dot, ir_load(expanded ? (const float *)(at->head[q] + 64 * (lines + 1 + j))
                                                    : at->min + j * at->ld + q * QL), ir_set1(at->terms + 4 * (j * R + r)));
            sum[r * Q + q] = vr_mul(ir_float(dot), vr_bits(ir_xor(vr_ints(d), ir_const(0x80000000u))));
        }
    }
}

typedef struct q_sums { ALIGN(64) float acc[QUANT_MOST * QL]; } q_sums;

/* Rows x registers reg0 .. reg0 + Q - 1 (register: half a line on AVX2) of the tile's panels, over all k. */
ALWAYS_INLINE void q_columns(const lw_quant_tile *t, const int F, const int R, const int Q, int reg0, q_sums *out) {
    const lw_quant *const f = &lw_quants[F];
    const int group = lw_quant_group(t->k), expanded = f->scales >= LW_SCALES_F32, last = t->panels * V_REGS - 1;
    ALIGN(64) float scale[16 * 4 * QL], min[16 * 4 * QL], dmin[4 * QL];
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
    V_UNROLL for (int i = 0; i < R * Q; i++) vr_store(out->acc + i * QL, vr_zero());
    for (int64_t k = 0; k < t->k; k += group) {
        const int pieces = (int)(lw_min(group, t->k - k) + LW_PIECE - 1) / LW_PIECE, at_piece = (int)(k % LW_SUPER) / LW_PIECE;
        const int parts = LW_PIECE / f->block, blocks = pieces * parts;
        if (!at_piece || f->minima == LW_MIN_INT) {
            V_UNROLL for (int q = 0; q < Q; q++) {
                int half = (reg0 + q) % V_REGS;
                if (k) at.piece[q] += f->header;
                q_out to = {scale + q * QL, min + q * QL, dmin + q * QL, Q * QL};
                if (!expanded) q_scales(F, head[q], half, &to);
                at.head[q] = head[q] + 64 / V_REGS * half;
                if (!expanded && t->ahead)
                    for (int i = 0; i < f->header; i += 64) __builtin_prefetch(head[q] + t->ahead + i, 0, 3);
                head[q] += f->header + 8 * f->piece;
            }
        }
        at.fine = a;
        at.terms = a + 4 * R * (f->fine ? blocks : 1);
        at.codes = at.terms + 4 * R * (f->minima == LW_MIN_INT ? blocks / 2 : blocks);
        if (!f->fine) q_begin(F, R, Q, &at, dmin, sum);
        for (int j = 0; j < pieces; j++) {
            if (!expanded && t->ahead) {
                LW_PRAGMA(GCC unroll 1)                  /* unrolled, it costs GCC the registers of the sums */
                for (int i = t->ahead; i < t->ahead + f->piece; i += 64) {
                    V_UNROLL for (int q = 0; q < Q; q++) __builtin_prefetch(at.piece[q] + i, 0, 3);
                }
            }
            q_piece(F, R, Q, &at, (at_piece + j) * parts, sum);
            V_UNROLL for (int q = 0; q < Q; q++) at.piece[q] += f->piece;
            if (f->minima != LW_MIN_INT) at.terms += 4 * R * parts;
            at.codes += 32 * R;
            at.fine += 4 * R * parts;
        }
        const char *scales = a;
        a = at.codes;
        if (f->fine) continue;
        float *acc = out->acc;
        V_OPAQUE(acc);                                   /* registers are for the sums */
        V_UNROLL for (int r = 0; r < R; r++) {
            vreg x = vr_set1((const void *)(scales + 4 * r));
            V_UNROLL for (int q = 0; q < Q; q++) {
                const int i = (r * Q + q) * QL;
                vr_store(acc + i, vr_fma(sum[r * Q + q], x, vr_load(acc + i)));
            }
        }
    }
    V_UNROLL for (int i = 0; f->fine && i < R * Q; i++) vr_store(out->acc + i * QL, sum[i]);
}

/* Bias and residual, each rounded once, in this order; columns beyond the last are dropped. */
ALWAYS_INLINE void q_finish(const lw_quant_tile *t, const int R, const int Q, int reg0, const q_sums *sums) {
    for (int r = 0; r < R; r++) {
        for (int q = 0; q < Q; q++) {
            const int column = (reg0 + q) * QL, n = t->columns - column;
            const float *acc = sums->acc + (r * Q + q) * QL;
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
    q_sums sums;
    for (int reg = 0; reg < t->panels * V_REGS; reg += Q) {
        q_columns(t, F, R, Q, reg, &sums);
        q_finish(t, R, Q, reg, &sums);
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
    QUANT_TILES(X, 18) QUANT_TILES(X, 19) QUANT_TILES(X, 21) QUANT_TILES(X, 22) QUANT_TILES(X, 23)        \
    QUANT_TILES(X, 25)
static const uint8_t quant_form[LW_QUANTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, LW_X32_0, LW_X32_0, LW_X32_0,
                                              LW_X32F_2, LW_X32I_2, LW_X32I_2, LW_X16_2, LW_X16I_8, LW_X16_2, LW_X32_FINE};
#else
#define QUANT_EXPANDED(X)                                                                                 \
    QUANT_TILES(X, 16) QUANT_TILES(X, 17) QUANT_TILES(X, 18) QUANT_TILES(X, 19) QUANT_TILES(X, 20)        \
    QUANT_TILES(X, 21) QUANT_TILES(X, 22) QUANT_TILES(X, 23) QUANT_TILES(X, 24) QUANT_TILES(X, 25)
static const uint8_t quant_form[LW_QUANTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
                                              23, 24, 25};
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

/* ---- expansion --------------------------------------------------------------------------------------------------- */
ALWAYS_INLINE void q_expand(const int F, int64_t k, const unsigned char *from, unsigned char *to) {
    const lw_quant *const f = &lw_quants[F], *const x = &lw_quants[lw_quants[F].expanded];
    const int lines = LW_SUPER / f->block;
    for (; k > 0; k -= LW_SUPER) {
        const int pieces = (int)(lw_min(LW_SUPER, k) + LW_PIECE - 1) / LW_PIECE;
        V_UNROLL for (int half = 0; half < V_REGS; half++) {
            float *at = (float *)(to + 64 / V_REGS * half);
            q_out out = {at, at + 16 * (lines + (f->minima == LW_MIN_INT)), at + 16 * lines, 16};
            q_scales(F, from, half, &out);
            const unsigned char *p = from + f->header + 64 / V_REGS * half;
            unsigned char *line = to + x->header + 64 / V_REGS * half;
            for (int j = 0; j < pieces; j++, p += f->piece, line += x->piece)
                V_UNROLL for (int i = 0; i < 8; i++) ir_store(line + 64 * i, q_code(F, p, i));
        }
        from += f->header + 8 * f->piece;
        to += x->header + 8 * x->piece;
    }
}
#ifdef QUANT_ROLLED
static void expand_quant(int form, int64_t k, const void *panel, void *out) { q_expand(form, k, panel, out); }
#else
#define EXPAND_CASE(f) case f: q_expand(f, k, from, to); break;
static void expand_quant(int form, int64_t k, const void *panel, void *out) {
    const unsigned char *from = panel;
    unsigned char *to = out;
    switch (form) {
    EXPAND_CASE(0) EXPAND_CASE(1) EXPAND_CASE(2) EXPAND_CASE(3) EXPAND_CASE(4) EXPAND_CASE(5) EXPAND_CASE(6)
    EXPAND_CASE(7) EXPAND_CASE(8) EXPAND_CASE(9) EXPAND_CASE(10) EXPAND_CASE(11) EXPAND_CASE(12)
    EXPAND_CASE(13) EXPAND_CASE(14) EXPAND_CASE(15)
    }
}
#endif
#endif
