/* quant_amx.h - quantised weights and activations as tile registers want them (../quant.h has the layouts). */
#ifndef LW_KERNELS_QUANT_AMX_H
#define LW_KERNELS_QUANT_AMX_H
#include "quant_expand.h"
#include "quant_scales.h"

QUANT_EXPANSION(amx_expand, 1)

/* A group of n values of one unit. */
ALWAYS_INLINE void amxq_quantize(const lw_quant *f, const int block, const int minima, int n, int rows, const float *a, ptrdiff_t lda,
                                 char *to) {
    const int part = f->fine ? block : n, blocks = n / block;
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
        int32_t sums[LW_SUPER / LW_PIECE] = {0};
        for (int b = 0; minima && b < blocks; b++)       /* minima: blocks of 32 */
            V_UNROLL for (int i = 0; i < LW_PIECE / 4; i++) sums[b] += quad[LW_PIECE / 4 * b + i];
        for (int b = 0; minima && b < blocks; b++) {
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
