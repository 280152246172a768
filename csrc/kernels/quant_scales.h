/* quant_scales.h - scales and codes of activations, as quantize.h has them. */
#ifndef LW_KERNELS_QUANT_SCALES_H
#define LW_KERNELS_QUANT_SCALES_H

/* The largest of magnitudes that were compared as integers: their order is that of the floats, and what is not finite is above all
 * others. A NaN: infinity. */
ALWAYS_INLINE float quantize_largest(i32x16 magnitudes) { return v_largest(v_min(v_float(magnitudes), v_set1(INFINITY))); }

/* Scales of n values in parts, `step` floats apart, and the factors that make codes of them: a NaN for a part with no codes. */
ALWAYS_INLINE void quantize_scales(const int n, const int part, const float *x, float *scale, int step, float *factor) {
    const i32x16 sign = vi_set1(0x7fffffff);
    for (int at = 0; at < n; at += part) {
        i32x16 most[2] = {vi_set1(0), vi_set1(0)};
        V_UNROLL for (int i = at; i < at + part; i += 32) {
            V_UNROLL for (int j = 0; j < 2; j++) most[j] = vi_max(vi_and(v_bits(v_load(x + i + 16 * j)), sign), most[j]);
        }
        const float top = quantize_largest(vi_max(most[0], most[1]));
        scale[at / part * step] = top < 0x1p-100f ? 0.0f : top <= FLT_MAX ? top / 127.0f : NAN;
        factor[at / part] = top < 0x1p-100f ? 0.0f : top <= FLT_MAX ? 127.0f / top : NAN;
    }
}

/* Codes of n values with a factor for each part, and the sums of four neighbours. */
ALWAYS_INLINE void quantize_codes(const int n, const int part, const float *x, const float *factor, int8_t *code, int32_t *quad) {
    const f32x16 magic = v_set1(0x1.8p23f);                 /* + magic: rounded, in the low bits */
    V_UNROLL for (int i = 0; i < n; i += 4 * QL) {
        i32x16 codes[4 * QL / 16];
        V_UNROLL for (int j = 0; j < 4 * QL / 16; j++) {
            const int at = i + 16 * j < n ? i + 16 * j : n - 16;
            const float by = factor[at / part];
            codes[j] = vi_sub(v_bits(v_add(v_mul(v_load(x + at), v_set1(by)), magic)), v_bits(magic));
            if (by != by) codes[j] = vi_set1(0);
        }
        const ireg bytes = ir_bytes(codes);
        ir_store(code + i, bytes);
        ir_store(quad + i / 4, ir_dot2(ir_zero(), ir_mul8(ir_const(0x01010101), bytes), ir_const(0x00010001)));
    }
}
#endif
