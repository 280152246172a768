/* quantize.h - activations to int8, for products with quantised weights (../quant.h has the layout).
 *
 * scale = max|x| / 127 and code = x * (127 / max|x|), to nearest even, over each group of k, or with `fine` each block. One
 * whose maximum is below 2^-100 counts as zero; one that holds a NaN or an infinity gets codes 0 and the scale NaN, and
 * with it its whole row. */
#ifndef LW_KERNELS_QUANTIZE_H
#define LW_KERNELS_QUANTIZE_H

/* n values (at most 256, a multiple of 32): codes, their sums over 16; returns the scale. */
static float quantize_group(int n, const float *x, int8_t *code, int32_t *sum16) {
    const i32x16 sign = vi_set1(0x7fffffff);
    f32x16 most = v_set1(0.0f), finite = most;
    for (int i = 0; i < n; i += 16) {
        f32x16 v = v_load(x + i);
        most = v_max(v_float(vi_and(v_bits(v), sign)), most);
        finite = v_fma(v, v_set1(0.0f), finite);
    }
    const float top = v_largest(most), check = v_sum(finite);
    if (check != check || top < 0x1p-100f) {
        memset(code, 0, (size_t)n);
        memset(sum16, 0, (size_t)n / 16 * sizeof *sum16);
        return check != check ? check : 0.0f;
    }
    const f32x16 factor = v_set1(127.0f / top), magic = v_set1(0x1.8p23f);   /* + magic: rounded, in the low bits */
    for (int i = 0; i < n; i += 16) {
        f32x16 v = v_add(v_mul(v_load(x + i), factor), magic);
        sum16[i / 16] = (int32_t)v_sum(v_sub(v, magic));
        vi_store8(code + i, vi_sub(v_bits(v), v_bits(magic)));
    }
    return top / 127.0f;
}

/* R rows of k values (k a multiple of 32) into one stream. */
static void quantize(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out) {
    const lw_quant *const f = &lw_quants[form];
    const int group = lw_quant_group(k), block = f->block, zero = f->zero;
    uint32_t *to = out;
    for (int64_t k0 = 0; k0 < k; k0 += group) {
        const int n = (int)lw_min(group, k - k0), blocks = n / block;
        uint32_t *terms = to + rows * (f->fine ? blocks : 1), *codes = terms + rows * (f->minima == LW_MIN_INT ? blocks / 2 : blocks);
        for (int r = 0; r < rows; r++) {
            ALIGN(64) int8_t code[LW_SUPER];
            int32_t sum[LW_SUPER / 16];
            for (int part = f->fine ? block : n, at = 0; at < n; at += part) {
                float scale = quantize_group(part, a + r * lda + k0 + at, code + at, sum + at / 16);
                memcpy(to + at / part * rows + r, &scale, 4);
            }
            if (block == 32)
                for (int b = 0; b < blocks; b++) sum[b] = sum[2 * b] + sum[2 * b + 1];
            for (int b = 0; b < blocks; b++) {
                if (f->minima == LW_MIN_INT) {
                    if (b & 2) continue;               /* pairs b, b + 2 */
                    terms[(b / 4 * 2 + b % 2) * rows + r] = (uint32_t)(sum[b] & 0xffff) | (uint32_t)sum[b + 2] << 16;
                } else if (f->minima == LW_MIN_FLOAT) {
                    float value = (float)sum[b];
                    memcpy(terms + b * rows + r, &value, 4);
                } else {
                    terms[b * rows + r] = (uint32_t)(-zero * sum[b]);
                }
            }
            for (int i = 0; i < n / 4; i++) memcpy(codes + i * rows + r, code + 4 * i, 4);
        }
        to = codes + n / 4 * rows;
    }
}
#endif
