/* quant_planes.h - reading the scales and codes of packed superblocks (../quant.h has the layouts). */
#ifndef LW_KERNELS_QUANT_PLANES_H
#define LW_KERNELS_QUANT_PLANES_H
#include "../quant.h"

enum { QL = 16 / V_REGS };     /* outputs of a register */

/* ---- scales ------------------------------------------------------------------------------------------------------ */
/* Where a register's part of a header or piece begins, for planes of 64 bytes (lines) and of 32 (float16). */
ALWAYS_INLINE const unsigned char *q_line(const unsigned char *p, int half, int line) { return p + 64 * line + 64 / V_REGS * half; }
ALWAYS_INLINE const unsigned char *q_word(const unsigned char *p, int half, int at) { return p + at + 32 / V_REGS * half; }
/* Byte j of each lane, signed. */
ALWAYS_INLINE ireg q_sbyte(ireg x, int j) { return ir_sra(ir_sll(x, 24 - 8 * j), 24); }
ALWAYS_INLINE ireg q_bits(ireg x, int from, int to, uint32_t mask) {     /* the bits of mask, moved from bit `from` to `to` */
    return ir_and(from > to ? ir_srl(x, from - to) : from < to ? ir_sll(x, to - from) : x, ir_const(mask));
}

/* ld: floats from a block to the next. With `whole`: d, and scale has integers. */
typedef struct q_out { float *scale, *min, *dmin, *d; int ld; } q_out;

/* The four bytes of each lane, less zero. */
ALWAYS_INLINE void q_four(const q_out *out, int j, ireg x, int zero) {
    V_UNROLL for (int i = 0; i < 4; i++)
        ir_store(out->scale + (j + i) * out->ld, ir_sub(q_bits(x, 8 * i, 0, 255), ir_const((uint32_t)zero)));
}
/* Pairs of minima 0 and 2, 1 and 3 of a byte line, as 16 bits. */
ALWAYS_INLINE void q_pairs(const q_out *out, int j, ireg x) {
    ir_store(out->min + j / 2 * out->ld, ir_low(x));
    ir_store(out->min + (j / 2 + 1) * out->ld, ir_high(x));
}
ALWAYS_INLINE void q_scales_k6(const unsigned char *h, int half, const q_out *out) {
    ireg s = ir_load(q_line(h, half, 1)), m = ir_load(q_line(h, half, 2)), x = ir_load(q_line(h, half, 3));
    const ireg low = ir_const(0x0f0f0f0f);
    vr_store(out->d, vr_f16(q_word(h, half, 0)));
    vr_store(out->dmin, vr_f16(q_word(h, half, 32)));
    q_four(out, 0, ir_or(ir_and(s, low), q_bits(x, 0, 4, 0x30303030)), 0);
    q_four(out, 4, ir_or(ir_and(ir_srl(s, 4), low), q_bits(x, 2, 4, 0x30303030)), 0);
    q_pairs(out, 0, ir_or(ir_and(m, low), ir_and(x, ir_const(0x30303030))));
    q_pairs(out, 4, ir_or(ir_and(ir_srl(m, 4), low), q_bits(x, 6, 4, 0x30303030)));
}
/* Bytes 0 .. 3 of each lane: the sub-scales of blocks 4j .. 4j + 3. */
ALWAYS_INLINE ireg q_subs(const int F, const unsigned char *h, int half, int j) {
    if (lw_quants[F].scales == LW_SCALES_K2) return ir_and(ir_load(q_line(h, half, j)), ir_const(0x0f0f0f0f));
    return ir_or(q_bits(ir_load(q_line(h, half, j / 2)), j % 2 * 4, 0, 0x0f0f0f0f),
                 q_bits(ir_load(q_line(h, half, 2)), 2 * j, 4, 0x30303030));
}
ALWAYS_INLINE void q_d_k3(const unsigned char *h, int half, const q_out *out) { vr_store(out->d, vr_f16(q_word(h, half, 192))); }
ALWAYS_INLINE void q_scales_k3(const unsigned char *h, int half, const q_out *out) {
    q_d_k3(h, half, out);
    V_UNROLL for (int j = 0; j < 4; j++) q_four(out, 4 * j, q_subs(LW_Q3_K - LW_Q4_0, h, half, j), 32);
}
ALWAYS_INLINE void q_minima_k2(const unsigned char *h, int half, const q_out *out) {
    vr_store(out->d, vr_f16(q_word(h, half, 256)));
    vr_store(out->dmin, vr_f16(q_word(h, half, 288)));
    V_UNROLL for (int j = 0; j < 4; j++)
        q_pairs(out, 4 * j, ir_and(ir_srl(ir_load(q_line(h, half, j)), 4), ir_const(0x0f0f0f0f)));
}
ALWAYS_INLINE void q_scales_k2(const unsigned char *h, int half, const q_out *out) {
    q_minima_k2(h, half, out);
    V_UNROLL for (int j = 0; j < 4; j++) q_four(out, 4 * j, q_subs(LW_Q2_K - LW_Q4_0, h, half, j), 0);
}
ALWAYS_INLINE void q_scales_xs(const unsigned char *h, int half, const q_out *out) {
    vr_store(out->d, vr_f16(q_word(h, half, 64)));
    ireg x = ir_load(q_line(h, half, 0)), high = ir_wide16(q_word(h, half, 96));
    V_UNROLL for (int j = 0; j < 8; j++) {
        ireg s = ir_and(ir_srl(x, 8 * (j % 4) + j / 4 * 4), ir_const(15));
        s = ir_or(s, q_bits(high, 2 * j, 4, 0x30));
        ir_store(out->scale + j * out->ld, ir_sub(s, ir_const(32)));
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
        vr_store(out->d, scales == LW_SCALES_K8 ? vr_f16(q_word(h, half, 256)) : vr_load((const float *)q_line(h, half, 4)));
        V_UNROLL for (int j = 0; j < 16; j++) ir_store(out->scale + j * out->ld, q_sbyte(ir_load(q_line(h, half, j / 4)), j % 4));
    } else if (scales == LW_SCALES_K3) q_scales_k3(h, half, out);
    else if (scales == LW_SCALES_K2) q_scales_k2(h, half, out);
    else if (scales == LW_SCALES_XS) q_scales_xs(h, half, out);
    else if (scales == LW_SCALES_E8) q_scales_e8(h, half, out);
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
