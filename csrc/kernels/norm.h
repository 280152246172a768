/* norm.h - RMS norm and layer norm: sums in float64, where squares of float32 are exact and none overflows. */
#ifndef LW_KERNELS_NORM_H
#define LW_KERNELS_NORM_H

/* The 16 lanes' running sums of values or squares, two float64 vectors. */
typedef struct { f64x8 lo, hi; } sums;

ALWAYS_INLINE sums sums_zero(void) { return (sums){vd_set1(0.0), vd_set1(0.0)}; }
ALWAYS_INLINE sums sums_add(sums s, f32x16 x) { return (sums){vd_add(s.lo, vd_lo(x)), vd_add(s.hi, vd_hi(x))}; }
ALWAYS_INLINE sums sums_add_square(sums s, f32x16 x) {
    return (sums){vd_add_square(s.lo, vd_lo(x)), vd_add_square(s.hi, vd_hi(x))};
}
ALWAYS_INLINE double sums_total(sums s) { return vd_sum(vd_add(s.lo, s.hi)); }

static void rms_norm(size_t n, const float *x, const float *w, float eps, float *y) {
    sums s = sums_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) s = sums_add_square(s, v_load(x + i));
    int rest = (int)(n - i);
    if (rest) s = sums_add_square(s, v_loadn(x + i, rest));
    f32x16 r = v_set1((float)(1.0 / sqrt(sums_total(s) / (double)n + (double)eps)));
    for (i = 0; i + 16 <= n; i += 16) {
        f32x16 v = v_mul(v_load(x + i), r);
        v_store(y + i, w ? v_mul(v, v_load(w + i)) : v);
    }
    if (rest) {
        f32x16 v = v_mul(v_loadn(x + i, rest), r);
        v_storen(y + i, w ? v_mul(v, v_loadn(w + i, rest)) : v, rest);
    }
}

/* x - mean, the mean in float64, rounded once to float32 */
ALWAYS_INLINE f32x16 centred(f32x16 x, f64x8 mean) { return vd_narrow(vd_sub(vd_lo(x), mean), vd_sub(vd_hi(x), mean)); }

ALWAYS_INLINE f32x16 affine(f32x16 v, const float *w, const float *b, int n) {
    if (w && b) return v_fma(v, v_loadn(w, n), v_loadn(b, n));
    if (w) return v_mul(v, v_loadn(w, n));
    return b ? v_add(v, v_loadn(b, n)) : v;
}

static void layer_norm(size_t n, const float *x, const float *w, const float *b, float eps, float *y) {
    const size_t full = n / 16 * 16;
    const int rest = (int)(n - full);
    sums s = sums_zero(), q = sums_zero();
    for (size_t i = 0; i < full; i += 16) s = sums_add(s, v_load(x + i));
    if (rest) s = sums_add(s, v_loadn(x + full, rest));
    const f64x8 mean = vd_set1(sums_total(s) / (double)n);
    for (size_t i = 0; i < full; i += 16) q = sums_add_square(q, centred(v_load(x + i), mean));
    if (rest)
        q = sums_add_square(q, v_select(vm_range(0, rest), centred(v_loadn(x + full, rest), mean), v_set1(0.0f)));
    const f32x16 r = v_set1((float)(1.0 / sqrt(sums_total(q) / (double)n + (double)eps)));
    for (size_t i = 0; i < full; i += 16) {
        f32x16 v = v_mul(centred(v_load(x + i), mean), r);
        v_store(y + i, affine(v, w ? w + i : w, b ? b + i : b, 16));
    }
    if (rest) {
        f32x16 v = v_mul(centred(v_loadn(x + full, rest), mean), r);
        v_storen(y + full, affine(v, w ? w + full : w, b ? b + full : b, rest), rest);
    }
}
#endif
