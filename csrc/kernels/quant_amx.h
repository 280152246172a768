/* quant_amx.h - quantised weights and activations as tile registers want them (../quant.h has the layouts). */
#ifndef LW_KERNELS_QUANT_AMX_H
#define LW_KERNELS_QUANT_AMX_H
#include "quant_expand.h"
#include "quant_scales.h"

/* With `whole`: high and low bytes of codes times sub-scales. */
ALWAYS_INLINE void amx_expand_whole(const int F, int64_t k, const unsigned char *from, unsigned char *to) {
    const lw_quant *const f = &lw_quants[F];
    const ireg zero = ir_const(f->zero * 0x00010001u);
    ALIGN(64) float scale[16 * LW_LANES];
    for (; k > 0; k -= LW_SUPER) {
        float *const head = (float *)(void *)to;
        const q_out out = {scale, head + 2 * LW_LANES, head + LW_LANES, head, LW_LANES};
        q_scales(F, q_head_of(from, 0), &out);
        q_once(F, q_head_of(from, 0), &out);
        const unsigned char *p = from + f->header;
        to += lw_matrix_header(f);
        for (int j = 0; j < LW_SUPER / LW_PIECE; j++, p += f->piece) {
            unsigned char *const high = to + (j / 2 * 32 + j % 2 * 8) * LW_LINE, *const low = high + 16 * LW_LINE;
            V_UNROLL for (int i = 0; i < 8; i++) {
                const ireg s = ir_load(scale + (LW_PIECE * j + 4 * i) / f->block * LW_LANES), codes = q_code(F, p, i);
                const ireg sub = ir_or(ir_and(s, ir_const(0xffff)), ir_sll(s, 16));
                const ireg even = ir_mul16(ir_sub16(ir_low(codes), zero), sub), odd = ir_mul16(ir_sub16(ir_high(codes), zero), sub);
                ir_store(high + LW_LINE * i, ir_or(ir_high(even), ir_and(odd, ir_const(0xff00ff00))));
                ir_store(low + LW_LINE * i, ir_or(ir_low(even), ir_sll(ir_low(odd), 8)));
            }
        }
        from += f->header + LW_SUPER / LW_PIECE * f->piece;
        to += 2 * LW_SUPER * LW_LANES;
    }
}
ALWAYS_INLINE void amx_expand_one(const int F, int64_t k, const unsigned char *from, unsigned char *to) {
    if (lw_quants[F].whole) amx_expand_whole(F, k, from, to);
    else q_expand(F, 1, k, from, to);
}
QUANT_EXPANSION(amx_expand_any, amx_expand_one)

static int amx_expand(int form, int64_t k, const void *panel, void *out) {
    amx_expand_any(form, k, panel, out);
    const lw_quant *const x = &lw_quants[lw_quants[form].expanded];
    if (!x->fine) return 1;
    i32x16 most = vi_set1(0);
    const char *head = out;
    for (; k > 0; k -= LW_SUPER, head += x->header + LW_SUPER / LW_PIECE * x->piece)
        for (int64_t b = 0; b < lw_min(k, LW_SUPER) / x->block; b++)
            most = vi_max(vi_and(vi_load(head + LW_LINE * b), vi_set1(0x7fffffff)), most);
    return quantize_largest(most) <= FLT_MAX;
}

/* A group of n values of one unit. block: k whose codes lie together; term: k whose sum is one of the terms. */
ALWAYS_INLINE void amxq_quantize(const lw_quant *f, const int block, const int term, const int minima, int n, int rows,
                                 const float *a, ptrdiff_t lda, char *to) {
    const int part = f->fine ? block : n;
    float *scale = (float *)(void *)to;
    uint32_t *terms = (uint32_t *)(void *)to + LW_MATRIX_UNIT * (n / part);
    char *codes = to + 4 * lw_matrix_words(f, n);
    float factor[LW_MATRIX_UNIT][LW_SUPER / LW_PIECE];
    for (int r = 0; r < rows; r++) quantize_scales(n, part, a + r * lda, scale + r, LW_MATRIX_UNIT, factor[r]);
    ALIGN(64) int8_t code[LW_SUPER + LW_LINE];
    ALIGN(64) int32_t quad[LW_SUPER / 4 + LW_LANES];
    for (int r = 0; r < LW_MATRIX_UNIT; r++) {
        if (r < rows) {
            quantize_codes(n, part, a + r * lda, factor[r], code, quad);
        } else {
            memset(code, 0, sizeof code);
            memset(quad, 0, sizeof quad);
            for (int i = 0; i < n / part; i++) scale[i * LW_MATRIX_UNIT + r] = 0.0f;
        }
        for (int i = 0; i < n; i += block) memcpy(codes + i * LW_MATRIX_UNIT + r * block, code + i, (size_t)block);
        int32_t sums[LW_SUPER / 16] = {0};
        for (int b = 0; minima && b < n / term; b++)
            V_UNROLL for (int i = 0; i < term / 4; i++) sums[b] += quad[term / 4 * b + i];
        for (int b = 0; minima && b < n / term; b++) {
            const float sum = (float)sums[b];
            if (minima == LW_MIN_FLOAT) memcpy(terms + b * LW_MATRIX_UNIT + r, &sum, 4);
            else if (!(b & 2))                           /* pairs b, b + 2 */
                terms[(b / 4 * 2 + b % 2) * LW_MATRIX_UNIT + r] = (uint32_t)(sums[b] & 0xffff) | (uint32_t)sums[b + 2] << 16;
        }
    }
}

static void amx_quantize(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, int unit, int units, void *out) {
    const lw_quant *const f = &lw_quants[form];
    const int group = lw_quant_group(k);
    char *to = out;
    for (int64_t k0 = 0; k0 < k; k0 += group, a += group) {
        const int n = (int)lw_min(group, k - k0);
        const int64_t bytes = lw_matrix_group_bytes(f, n);
        char *at = to + unit * bytes;
        if (f->minima == LW_MIN_FLOAT) amxq_quantize(f, 32, 32, LW_MIN_FLOAT, n, rows, a, lda, at);
        else if (!f->whole) amxq_quantize(f, 32, 32, LW_MIN_NONE, n, rows, a, lda, at);
        else if (!f->minima) amxq_quantize(f, LW_MATRIX_K, 32, LW_MIN_NONE, n, rows, a, lda, at);
        else if (f->block == 32) amxq_quantize(f, LW_MATRIX_K, 32, LW_MIN_INT, n, rows, a, lda, at);
        else amxq_quantize(f, LW_MATRIX_K, 16, LW_MIN_INT, n, rows, a, lda, at);
        to += units * bytes;
    }
}
#endif
