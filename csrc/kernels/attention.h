/* attention.h - softmax over a row, and the pieces of attention over fixed segments of the keys. */
#ifndef LW_KERNELS_ATTENTION_H
#define LW_KERNELS_ATTENTION_H

static void softmax(size_t n, const float *x, float *y) {
    const size_t full = n / 16 * 16;
    const int rest = (int)(n - full);
    const f32x16 none = v_set1(-INFINITY);
    f32x16 top = none;
    for (size_t i = 0; i < full; i += 16) top = v_max(top, v_load(x + i));
    if (rest) top = v_max(top, v_select(vm_range(0, rest), v_loadn(x + full, rest), none));
    const f32x16 max = v_set1(v_largest(top));        /* a NaN may hide here; its own exp is NaN and enters the sum */
    sums s = sums_zero();
    for (size_t i = 0; i < full; i += 16) {
        f32x16 e = v_exp(v_sub(v_load(x + i), max));
        s = sums_add(s, e);
        v_store(y + i, e);
    }
    if (rest) {
        f32x16 e = v_exp(v_sub(v_loadn(x + full, rest), max));
        e = v_select(vm_range(0, rest), e, v_set1(0.0f));
        s = sums_add(s, e);
        v_storen(y + full, e, rest);
    }
    const f32x16 total = v_set1((float)sums_total(s));
    for (size_t i = 0; i < full; i += 16) v_store(y + i, v_div(v_load(y + i), total));
    if (rest) v_storen(y + full, v_div(v_loadn(y + full, rest), total), rest);
}

static void segment_softmax(int n, int lo, int hi, float scale, float softcap, float *s, float *max, float *sum) {
    const f32x16 zero = v_set1(0.0f), none = v_set1(-INFINITY), cap = v_set1(softcap);
    const f32x16 by = v_set1(softcap == 0.0f ? scale : scale / softcap);
    const int first = lo / 16 * 16, end = (hi + 15) / 16 * 16;   /* the lines that hold something */
    for (int i = 0; i < first; i += 16) v_store(s + i, zero);
    for (int i = end; i < n; i += 16) v_store(s + i, zero);
    f32x16 top = none;
    for (int i = first; i < end; i += 16) {
        f32x16 t = v_mul(v_load(s + i), by);
        if (softcap != 0.0f) t = v_mul(cap, v_tanh(t));
        if (i < lo || i + 16 > hi) t = v_select(vm_range(lo - i, hi - i), t, none);
        v_store(s + i, t);
        top = v_max(top, t);
    }
    *max = v_largest(top);
    const f32x16 m = v_set1(*max == -INFINITY ? 0.0f : *max);   /* nothing but -inf: zeros, not exp(-inf + inf) */
    f32x16 total = zero;
    for (int i = first; i < end; i += 16) {
        f32x16 p = v_exp_weight(v_sub(v_load(s + i), m));
        if (i < lo || i + 16 > hi) p = v_select(vm_range(lo - i, hi - i), p, zero);
        v_store(s + i, p);
        total = v_add(total, p);
    }
    *sum = v_sum(total);
}

static void segment_merge(int n, float *o, float *max, float *sum, const float *o2, float max2, float sum2) {
    const float m = *max > max2 ? *max : max2;        /* a NaN in either makes both factors or one of them NaN */
    const f32x16 a = v_exp_weight(v_set1(*max - m)), b = v_exp_weight(v_set1(max2 - m));
    *sum = v_first(v_fma(v_set1(sum2), b, v_mul(v_set1(*sum), a)));
    *max = m;
    const f32x16 zero = v_set1(0.0f);   /* added: a zero's sign may depend on how many masked values were added to it */
    int i = 0;
    for (; i + 16 <= n; i += 16) v_store(o + i, v_fma(v_add(v_load(o2 + i), zero), b, v_mul(v_load(o + i), a)));
    if (i < n) v_storen(o + i, v_fma(v_add(v_loadn(o2 + i, n - i), zero), b, v_mul(v_loadn(o + i, n - i), a)), n - i);
}

static void segment_finish(int n, const float *o, float sum, float *y) {
    const f32x16 s = v_set1(sum);
    int i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_div(v_load(o + i), s));
    if (i < n) v_storen(y + i, v_div(v_loadn(o + i, n - i), s), n - i);
}
#endif
