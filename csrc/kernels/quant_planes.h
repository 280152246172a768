/* quant_planes.h - reading the scales and codes of packed superblocks (../quant.h has the layouts). */
#ifndef LW_KERNELS_QUANT_PLANES_H
#define LW_KERNELS_QUANT_PLANES_H
#include "../quant.h"

enum { QL = 16 / V_REGS };     /* outputs of a register */

/* ---- scales ------------------------------------------------------------------------------------------------------ */
/* A register's part of a header: of its lines (64 bytes) and of its planes of float16 (32 bytes). */
typedef struct q_head { const unsigned char *line, *word; } q_head;
ALWAYS_INLINE q_head q_head_of(const unsigned char *header, int half) {
    return (q_head){header + 64 / V_REGS * half, header + 32 / V_REGS * half};
}
ALWAYS_INLINE const unsigned char *q_words(q_head h) { return V_REGS == 1 ? h.line : h.word; }   /* one pointer to keep */
ALWAYS_INLINE ireg q_line(q_head h, int line) { return ir_load(h.line + 64 * line); }
ALWAYS_INLINE ireg q_bits(ireg x, int from, int to, uint32_t mask) {     /* the bits of mask, moved from bit `from` to `to` */
    return ir_and(from > to ? ir_srl(x, from - to) : from < to ? ir_sll(x, to - from) : x, ir_const(mask));
}

/* ld: floats from a block to the next. With `whole`: d, and scale has integers. */
typedef struct q_out { float *scale, *min, *dmin, *d; int ld; } q_out;

/* Bytes 0 .. 3 of each lane: the sub-scales of blocks 4j .. 4j + 3, of K3 plus 32; not of XS. */
ALWAYS_INLINE ireg q_subs(const int F, q_head h, const int j) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_K2) return ir_and(q_line(h, j), ir_const(0x0f0f0f0f));
    if (scales == LW_SCALES_K6) return ir_or(q_bits(q_line(h, 1), 4 * j, 0, 0x0f0f0f0f), q_bits(q_line(h, 3), 2 * j, 4, 0x30303030));
    if (scales != LW_SCALES_K3) return q_line(h, j);
    return ir_or(q_bits(q_line(h, j / 2), j % 2 * 4, 0, 0x0f0f0f0f), q_bits(q_line(h, 2), 2 * j, 4, 0x30303030));
}
/* The i-th of those. */
ALWAYS_INLINE ireg q_sub_of(const int F, ireg subs, int i) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_K8 || scales == LW_SCALES_K8F) return ir_sra(ir_sll(subs, 24 - 8 * i), 24);
    const ireg s = ir_and(ir_srl(subs, 8 * i), ir_const(255));
    return scales == LW_SCALES_K3 ? ir_sub(s, ir_const(32)) : s;
}
/* Pairs of minima as 16 bits: 0 and 2, 1 and 3 of each four blocks. */
ALWAYS_INLINE ireg q_minima(const int F, q_head h, const int j) {
    const int four = j / 2;
    ireg x;
    if (lw_quants[F].scales == LW_SCALES_K2) x = q_bits(q_line(h, four), 4, 0, 0x0f0f0f0f);
    else x = ir_or(q_bits(q_line(h, 2), 4 * four, 0, 0x0f0f0f0f), q_bits(q_line(h, 3), 4 + 2 * four, 4, 0x30303030));
    return j % 2 ? ir_high(x) : ir_low(x);
}
ALWAYS_INLINE vreg q_d(const int F, q_head h) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_K8F) return vr_load((const float *)(const void *)(h.line + 256));
    return vr_f16(q_words(h) + (scales == LW_SCALES_K6 ? 0 : scales == LW_SCALES_K3 ? 192 : scales == LW_SCALES_XS ? 64 : 256));
}
ALWAYS_INLINE vreg q_dmin(const int F, q_head h) { return vr_f16(q_words(h) + (lw_quants[F].scales == LW_SCALES_K6 ? 32 : 288)); }

/* With `whole`: what comes once in a superblock. */
ALWAYS_INLINE void q_once(const int F, q_head h, const q_out *out) {
    vr_store(out->d, q_d(F, h));
    if (lw_quants[F].minima != LW_MIN_INT) return;
    vr_store(out->dmin, q_dmin(F, h));
    V_UNROLL for (int j = 0; j < (int)lw_quant_terms(&lw_quants[F], LW_SUPER); j++) ir_store(out->min + j * out->ld, q_minima(F, h, j));
}
ALWAYS_INLINE void q_scales_xs(q_head h, const q_out *out) {
    const ireg low = q_line(h, 0), high = ir_wide16(q_words(h) + 96);
    V_UNROLL for (int j = 0; j < 8; j++) {
        const ireg s = ir_or(ir_and(ir_srl(low, 8 * (j % 4) + j / 4 * 4), ir_const(15)), q_bits(high, 2 * j, 4, 0x30));
        ir_store(out->scale + j * out->ld, ir_sub(s, ir_const(32)));
    }
}
/* 2^(e - 128), as a product of two powers, so that neither leaves the range: exponents e / 2 and e - e / 2, four at a time. */
ALWAYS_INLINE void q_scales_e8(q_head h, const q_out *out) {
    V_UNROLL for (int j = 0; j < 8; j += 4) {
        const ireg e = q_line(h, j / 4), bias = ir_const(0x3f3f3f3f);
        const ireg low = ir_and(ir_srl(e, 1), ir_const(0x7f7f7f7f));
        const ireg a = ir_add(low, bias), b = ir_add(ir_sub(e, low), bias);
        V_UNROLL for (int i = 0; i < 4; i++) {
            vreg x = vr_bits(q_bits(a, 8 * i, 23, 0x7f800000)), y = vr_bits(q_bits(b, 8 * i, 23, 0x7f800000));
            vr_store(out->scale + (j + i) * out->ld, vr_mul(x, y));
        }
    }
}
/* Scales, with float minima these, or with `whole` sub-scales (not of expanded forms, where they stand in lines). */
ALWAYS_INLINE void q_scales(const int F, q_head h, const q_out *out) {
    const int scales = lw_quants[F].scales;
    if (scales == LW_SCALES_E8) q_scales_e8(h, out);
    else if (scales == LW_SCALES_XS) q_scales_xs(h, out);
    else V_UNROLL for (int j = 0; j < LW_SUPER / lw_quants[F].block; j++) {
        if (lw_quants[F].whole) ir_store(out->scale + j * out->ld, q_sub_of(F, q_subs(F, h, j / 4), j % 4));
        else vr_store(out->scale + j * out->ld, vr_f16(q_words(h) + 32 * j));
        if (scales == LW_SCALES_F16M) vr_store(out->min + j * out->ld, vr_f16(q_words(h) + 256 + 32 * j));
    }
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */
/* Group i (0..7) of a piece as it is stored, a byte each; p: the piece, at this register's half of a line. */
ALWAYS_INLINE ireg q_stored(const int F, const unsigned char *p, const int i) {
    const int code = lw_quants[F].code;
    if (code == LW_CODE_LINE) return ir_load(p + 64 * i);
    if (code == LW_CODE_TWO || code == LW_CODE_TWO_BIT) {
        ireg x = q_bits(ir_load(p + 64 * (i / 4)), 2 * (i % 4), 0, 0x03030303);
        return code == LW_CODE_TWO ? x : ir_or(x, q_bits(ir_load(p + 128), i, 2, 0x04040404));
    }
    ireg x = q_bits(ir_load(p + 64 * (i / 2)), 4 * (i % 2), 0, 0x0f0f0f0f);
    if (code == LW_CODE_NIBBLE_BIT) x = ir_or(x, q_bits(ir_load(p + 256), i, 4, 0x10101010));
    if (code == LW_CODE_NIBBLE_TWO) x = ir_or(x, q_bits(ir_load(p + 256 + 64 * (i / 4)), 2 * (i % 4), 4, 0x30303030));
    return x;
}
/* As unsigned codes. */
ALWAYS_INLINE ireg q_code(const int F, const unsigned char *p, const int i) {
    const uint8_t *const table = lw_quant_table(lw_quants[F].code);
    const ireg x = q_stored(F, p, i);
    return table ? ir_lookup(table, x) : x;
}
#endif
