/* rope.h - rotary embedding: x0' = fma(x0, cos, -(x1 sin)), x1' = fma(x1, cos, x0 sin). */
#ifndef LW_KERNELS_ROPE_H
#define LW_KERNELS_ROPE_H

/* 16 (or n) pairs whose members lie in two runs. */
ALWAYS_INLINE void rotate_runs(float *x0, float *x1, const float *cos, const float *sin, int n) {
    const int all = n >= 16;
    f32x16 a = all ? v_load(x0) : v_loadn(x0, n), b = all ? v_load(x1) : v_loadn(x1, n);
    f32x16 c = all ? v_load(cos) : v_loadn(cos, n), s = all ? v_load(sin) : v_loadn(sin, n);
    f32x16 y0 = v_fma(a, c, v_neg(v_mul(b, s))), y1 = v_fma(b, c, v_mul(a, s));
    if (all) v_store(x0, y0), v_store(x1, y1);
    else v_storen(x0, y0, n), v_storen(x1, y1, n);
}
/* A line of 8 pairs side by side: neighbours times sin, negated in even lanes. */
ALWAYS_INLINE f32x16 rotate_line(f32x16 x, f32x16 c, f32x16 s, f32x16 even_sign) {
    f32x16 t = v_mul(v_swap(x), s);
    return v_fma(x, c, v_float(vi_xor(v_bits(t), v_bits(even_sign))));
}
ALWAYS_INLINE void rotate_pairs(float *x, const float *cos, const float *sin, int n, f32x16 even_sign) {
    f32x16 c = n >= 16 ? v_load(cos) : v_loadn(cos, n), s = n >= 16 ? v_load(sin) : v_loadn(sin, n);
    if (n >= 16) {
        v_store(x, rotate_line(v_load(x), v_dup_lo(c), v_dup_lo(s), even_sign));
        v_store(x + 16, rotate_line(v_load(x + 16), v_dup_hi(c), v_dup_hi(s), even_sign));
        return;
    }
    const int low = n < 8 ? n : 8, high = n - low;
    v_storen(x, rotate_line(v_loadn(x, 2 * low), v_dup_lo(c), v_dup_lo(s), even_sign), 2 * low);
    if (high) v_storen(x + 16, rotate_line(v_loadn(x + 16, 2 * high), v_dup_hi(c), v_dup_hi(s), even_sign), 2 * high);
}

static void rope(float *x, int heads, int head_dim, int pairs, int interleaved, const float *cos, const float *sin) {
    static const float sign[16] = {-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f,
                                   -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f};
    const f32x16 even_sign = v_load(sign);
    for (int h = 0; h < heads; h++, x += head_dim)
        for (int i = 0; i < pairs; i += 16) {
            if (interleaved) rotate_pairs(x + 2 * i, cos + i, sin + i, pairs - i, even_sign);
            else rotate_runs(x + i, x + pairs + i, cos + i, sin + i, pairs - i);
        }
}
#endif
