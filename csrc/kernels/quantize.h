/* quantize.h - activations to int8, for products with quantised weights (../quant.h has the layout).
 *
 * scale = max|x| / 127 and code = x * (127 / max|x|), to nearest even, over each group of k, or with `fine` each block. One
 * whose maximum is below 2^-100 counts as zero; one that holds a NaN or an infinity gets codes 0 and the scale NaN, and
 * with it its whole row. */
#ifndef LW_KERNELS_QUANTIZE_H
#define LW_KERNELS_QUANTIZE_H
#include "../lace.h"
#include "quant_scales.h"

/* A group, n values of each of R rows, into the stream: where it goes on. block: what a term is of. Scales of all rows first: each
 * waits for its largest value. */
ALWAYS_INLINE uint32_t *quantize_group(const int n, const int block, const int fine, const int minima, const int zero, const int R,
                                       const float *a, ptrdiff_t lda, uint32_t *to) {
    const int part = fine ? block : n, blocks = n / block;
    uint32_t *terms = to + R * (n / part), *codes = terms + R * (minima == LW_MIN_INT ? blocks / 2 : blocks);
    ALIGN(64) uint32_t buffer[LW_MAX_ROWS][(LW_SUPER + LW_LINE) / 4];
    ALIGN(64) int32_t quad[LW_SUPER / 4 + LW_LANES];
    const uint32_t *units[LW_MAX_ROWS];
    float factor[LW_MAX_ROWS][LW_SUPER / LW_PIECE];
    for (int r = 0; r < R; r++) quantize_scales(n, part, a + r * lda, (float *)to + r, R, factor[r]);
    for (int r = 0; r < R; r++) {
        uint32_t *row = R == 1 && n == LW_SUPER ? codes : buffer[r];
        units[r] = row;
        quantize_codes(n, part, a + r * lda, factor[r], (int8_t *)row, quad);
        int32_t sum[LW_SUPER / 16] = {0};
        V_UNROLL for (int b = 0; b < blocks; b++) {
            const int32_t *q = quad + block / 4 * b;
            V_UNROLL for (int i = 0; i < block / 4; i += 4) sum[b] += q[i] + q[i + 1] + (q[i + 2] + q[i + 3]);
        }
        V_UNROLL for (int b = 0; b < blocks; b++) {
            if (minima == LW_MIN_INT) {
                if (b & 2) continue;                        /* pairs b, b + 2 */
                terms[(b / 4 * 2 + b % 2) * R + r] = (uint32_t)(sum[b] & 0xffff) | (uint32_t)sum[b + 2] << 16;
            } else if (minima == LW_MIN_FLOAT) {
                float value = (float)sum[b];
                memcpy(terms + b * R + r, &value, 4);
            } else {
                terms[b * R + r] = (uint32_t)(-zero * sum[b]);
            }
        }
    }
    if (R > 1 || n < LW_SUPER) lw_lace(units, R, n / 4, codes);
    return codes + n / 4 * R;
}

/* A group that is not whole, or of a kind that is seldom met. */
static __attribute__((noinline)) uint32_t *quantize_any(const lw_quant *f, int n, int R, const float *a, ptrdiff_t lda,
                                                        uint32_t *to) {
    return quantize_group(n, f->block, f->fine, f->minima, f->zero, R, a, lda, to);   /* not LW_MIN_INT: those are whole */
}

/* R rows of k values (k a multiple of 32) into one stream. */
static void quantize(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out) {
    const lw_quant *const f = &lw_quants[form];
    const int group = lw_quant_group(k), zero = f->zero;
    for (int64_t k0 = 0; k0 < k; k0 += group, a += group) {
        const int n = (int)lw_min(group, k - k0);
        if (n < LW_SUPER / 2 || (f->fine && f->minima == LW_MIN_FLOAT)) out = quantize_any(f, n, rows, a, lda, out);
#define QUANTIZE(n, block, fine, minima) out = quantize_group(n, block, fine, minima, zero, rows, a, lda, out)
        else if (f->fine) {
            if (n == LW_SUPER) QUANTIZE(LW_SUPER, 32, 1, LW_MIN_NONE); else QUANTIZE(LW_SUPER / 2, 32, 1, LW_MIN_NONE);
        }
        else if (f->minima == LW_MIN_FLOAT) {
            if (n == LW_SUPER) QUANTIZE(LW_SUPER, 32, 0, LW_MIN_FLOAT); else QUANTIZE(LW_SUPER / 2, 32, 0, LW_MIN_FLOAT);
        }
        else if (n < LW_SUPER) QUANTIZE(LW_SUPER / 2, 32, 0, LW_MIN_NONE);
        else if (f->block == 32 && f->minima == LW_MIN_NONE) QUANTIZE(LW_SUPER, 32, 0, LW_MIN_NONE);
        else if (f->block == 32) QUANTIZE(LW_SUPER, 32, 0, LW_MIN_INT);
        else if (f->minima == LW_MIN_INT) QUANTIZE(LW_SUPER, 16, 0, LW_MIN_INT);
        else if (f->block == 16) QUANTIZE(LW_SUPER, 16, 0, LW_MIN_NONE);
        else QUANTIZE(LW_SUPER, LW_SUPER, 0, LW_MIN_NONE);
#undef QUANTIZE
    }
}
#endif
