/* quant_amx.h - quantised weights and activations as tile registers want them (../quant.h has the layouts). */
#ifndef LW_KERNELS_QUANT_AMX_H
#define LW_KERNELS_QUANT_AMX_H
#include "quant_expand.h"
#include "quant_scales.h"

QUANT_EXPANSION(amx_expand, 1)

/* 64 codes of a row, with one factor for each 32 (the last 32 may be missing). */
ALWAYS_INLINE ireg amxq_codes(const float *x, const float *by, int there) {
    const f32x16 magic = v_set1(0x1.8p23f);              /* + magic: rounded, in the low bits */
    i32x16 codes[4];
    V_UNROLL for (int i = 0; i < 4; i++) {
        const float factor = by[i / 2];
        codes[i] = vi_set1(0);
        if (16 * i < there && factor == factor)
            codes[i] = vi_sub(v_bits(v_add(v_mul(v_load(x + 16 * i), v_set1(factor)), magic)), v_bits(magic));
    }
    return ir_bytes(codes);
}

/* A group of n values of one unit. */
ALWAYS_INLINE void amxq_quantize(const lw_quant *f, const int block, const int minima, int n, int rows, const float *a, ptrdiff_t lda,
                                 char *to) {
    const int part = f->fine ? block : n, blocks = n / block;
    float *scale = (float *)(void *)to;
    uint32_t *terms = (uint32_t *)(void *)to + LW_MATRIX_UNIT * (n / part);
    char *codes = to + 4 * lw_matrix_words(f, n);
    float factor[LW_MATRIX_UNIT][LW_SUPER / LW_PIECE];
    for (int r = 0; r < rows; r++) quantize_scales(n, part, a + r * lda, scale + r, LW_MATRIX_UNIT, factor[r]);
    for (int r = 0; r < LW_MATRIX_UNIT; r++) {
        int sums[LW_SUPER / LW_PIECE] = {0};
        for (int i = 0; i < n; i += LW_LINE) {
            const int there = (int)lw_min(LW_LINE, n - i);
            const float by[2] = {factor[r][i / part], factor[r][lw_min(i + LW_PIECE, n - 1) / part]};
            ALIGN(64) char bytes[LW_LINE];
            ir_store(bytes, r < rows ? amxq_codes(a + r * lda + i, by, there) : ir_zero());
            for (int j = 0; j < there; j += block) memcpy(codes + ((i + j) * LW_MATRIX_UNIT + r * block), bytes + j, (size_t)block);
            if (!minima) continue;
            ALIGN(64) int32_t quads[LW_LANES];
            ir_store(quads, ir_dot2(ir_zero(), ir_mul8(ir_const(0x01010101), ir_load(bytes)), ir_const(0x00010001)));
            V_UNROLL for (int j = 0; j < LW_LANES; j++)
                if (4 * j < there) sums[i / LW_PIECE + j / 8] += quads[j];
        }
        if (r >= rows) V_UNROLL for (int i = 0; i < n / part; i++) scale[i * LW_MATRIX_UNIT + r] = 0.0f;
        for (int b = 0; minima && b < blocks; b++) {     /* minima: blocks of 32 */
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
        if (f->minima == LW_MIN_FLOAT) amxq_quantize(f, 32, LW_MIN_FLOAT, n, rows, a, lda, at);
        else if (f->minima == LW_MIN_INT) amxq_quantize(f, 32, LW_MIN_INT, n, rows, a, lda, at);
        else if (f->block == 16) amxq_quantize(f, 16, LW_MIN_NONE, n, rows, a, lda, at);
        else amxq_quantize(f, 32, LW_MIN_NONE, n, rows, a, lda, at);
        to += units * bytes;
    }
}
#endif
