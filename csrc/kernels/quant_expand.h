/* quant_expand.h - a panel of a quantised format as bytes and float32 scales: the expanded forms of ../quant.h. */
#ifndef LW_KERNELS_QUANT_EXPAND_H
#define LW_KERNELS_QUANT_EXPAND_H
#include "quant_planes.h"

/* The sub-scale of block b in the bytes of each lane: s, -s, s, -s. */
ALWAYS_INLINE ireg q_sub(const int F, q_head h, int b) {
    const ireg byte = ir_const(255), s = q_sub_of(F, q_subs(F, h, b / 4), b % 4);
    const ireg pair = ir_or(ir_and(s, byte), ir_sll(ir_and(ir_sub(ir_zero(), s), byte), 8));
    return ir_or(pair, ir_sll(pair, 16));
}
/* Codes less their zero point times a sub-scale, plus the expanded form's zero point: bytes again. */
ALWAYS_INLINE ireg q_fold(const int F, ireg codes, ireg sub) {
    const uint32_t zero = lw_quants[F].zero, plus = lw_quants[lw_quants[F].expanded].zero;
    const ireg pair = ir_const(zero << 8 | zero << 24), offset = ir_const(plus | plus << 16);
    const ireg low = ir_mul8(ir_or(ir_low(codes), pair), sub), high = ir_mul8(ir_or(ir_high(codes), pair), sub);
    return ir_or(ir_add16(low, offset), ir_sll(ir_add16(high, offset), 8));
}

/* Codes less their zero point, as signed bytes. */
ALWAYS_INLINE ireg q_signed(const int F, ireg codes) {
    const uint32_t zero = lw_quants[F].zero * 0x01010101u, high = 0x80808080u;
    if (zero == 0) return codes;
    if (zero == high) return ir_xor(codes, ir_const(high));
    return ir_xor(ir_sub(ir_or(codes, ir_const(high)), ir_const(zero)), ir_const(high));   /* codes are below 128 */
}

/* sign: codes of forms that are not folded become signed. */
ALWAYS_INLINE void q_expand(const int F, const int sign, int64_t k, const unsigned char *from, unsigned char *to) {
    const lw_quant *const f = &lw_quants[F], *const x = &lw_quants[lw_quant_expanded(F, QUANT_DOT4)];
    const int lines = lw_quant_scale_lines(x), folded = x->block == LW_SUPER;
    for (; k > 0; k -= LW_SUPER) {
        const int pieces = (int)(lw_min(LW_SUPER, k) + LW_PIECE - 1) / LW_PIECE;
        V_UNROLL for (int half = 0; half < V_REGS; half++) {
            float *at = (float *)(to + 64 / V_REGS * half);
            q_out out = {at, at + 16 * (lines + 2 * f->whole), at + 16 * (lines + 1), at + 16 * lines, 16};
            const q_head h = q_head_of(from, half);
            if (!folded) q_scales(F, h, &out);
            if (f->whole) q_once(F, h, &out);
            const unsigned char *p = from + f->header + 64 / V_REGS * half;
            unsigned char *line = to + x->header + 64 / V_REGS * half;
            for (int j = 0; j < pieces; j++, p += f->piece, line += x->piece) {
                const ireg sub[2] = {folded ? q_sub(F, h, 2 * j) : ir_zero(),
                                     folded ? q_sub(F, h, 2 * j + 1) : ir_zero()};
                V_UNROLL for (int i = 0; i < 8; i++) {
                    ireg codes = q_code(F, p, i);
                    ir_store(line + 64 * i, folded ? q_fold(F, codes, sub[i / 4]) : sign ? q_signed(F, codes) : codes);
                }
            }
        }
        from += f->header + 8 * f->piece;
        to += x->header + 8 * x->piece;
    }
}
ALWAYS_INLINE void q_expand_plain(const int F, int64_t k, const unsigned char *from, unsigned char *to) { q_expand(F, 0, k, from, to); }

/* A function `name`(form, k, panel, out) that calls expand(form, k, panel, out), the form a constant. */
#ifdef QUANT_ROLLED
#define QUANT_EXPANSION(name, expand) \
    static void name(int form, int64_t k, const void *panel, void *out) { expand(form, k, panel, out); }
#else
#define EXPAND_CASE(f, expand) case f: expand(f, k, panel, out); break;
#define QUANT_EXPANSION(name, expand)                                                                       \
    static void name(int form, int64_t k, const void *panel, void *out) {                                   \
        switch (form) {                                                                                      \
        EXPAND_CASE(0, expand) EXPAND_CASE(1, expand) EXPAND_CASE(2, expand) EXPAND_CASE(3, expand)          \
        EXPAND_CASE(4, expand) EXPAND_CASE(5, expand) EXPAND_CASE(6, expand) EXPAND_CASE(7, expand)          \
        EXPAND_CASE(8, expand) EXPAND_CASE(9, expand) EXPAND_CASE(10, expand) EXPAND_CASE(11, expand)        \
        EXPAND_CASE(12, expand) EXPAND_CASE(13, expand) EXPAND_CASE(14, expand) EXPAND_CASE(15, expand)      \
        }                                                                                                    \
    }
#endif
#endif
