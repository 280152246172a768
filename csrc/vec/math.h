/* math.h - exp, tanh, silu, gelu from words: the same bits on every table.
 *
 * Coefficients: tools/fit_polynomials.py, which names each interval. Methods: Cody and Waite's reduction for exp;
 * the normal tail as exp(-t^2/2) times a polynomial in t/(t+3) over 1+2t, after Shepherd and Laframboise (1981);
 * error-free products and sums after Dekker (1971) and Knuth (TAOCP 2) where an exponent's rounding error would be
 * magnified. Limits: silu, gelu, gelu_tanh of -inf are -0 (the limit, where x * sigmoid(x) in floats gives NaN), of
 * +inf +inf; a NaN stays a NaN. Needs round to nearest and denormals on.
 */
#ifndef LW_VEC_MATH_H
#define LW_VEC_MATH_H

#define K(x) v_set1(x)

/* exp(x) = p * s1 * s2, abs(p) about 0.7 to 1.4, s1 and s2 powers of two: multiplied in this order, a subnormal result is
 * rounded once, and a product with p can be formed before it loses bits. */
typedef struct { f32x16 p, s1, s2; } v_power;

/* p of exp(x) = p * 2^n, x not far from 0; n is in the low bits of *t, *t - magic */
#define V_MAGIC K(12582912.0f)                        /* 1.5 * 2^23: adding it rounds to an integer, in its low bits */
ALWAYS_INLINE f32x16 v_exp_mantissa(f32x16 x, f32x16 *t) {
    *t = v_fma(x, K(1.44269502f), V_MAGIC);
    f32x16 n = v_sub(*t, V_MAGIC), r = v_fnma(n, K(-1.9046543e-09f), v_fnma(n, K(0.693147182f), x));
    f32x16 q = v_fma(r, K(0.00138144311f), K(0.00836879667f));
    q = v_fma(r, q, K(0.0416683964f));
    q = v_fma(r, q, K(0.166665196f));
    q = v_fma(r, q, K(0.49999994f));
    return v_add(v_fma(v_mul(r, r), q, r), K(1.0f));
}
V_MATH v_power v_exp_parts(f32x16 x) {
    f32x16 t, p = v_exp_mantissa(v_max(K(-150.0f), v_min(K(89.0f), x)), &t);   /* operands in this order: NaN passes */
    i32x16 e = vi_sub(v_bits(t), v_bits(V_MAGIC)), e1 = vi_sra(e, 1), e2 = vi_sub(e, e1), bias = vi_set1(127);
    return (v_power){p, v_float(vi_sll(vi_add(e1, bias), 23)), v_float(vi_sll(vi_add(e2, bias), 23))};
}
ALWAYS_INLINE f32x16 v_scale(f32x16 x, v_power e) { return v_mul(v_mul(v_mul(x, e.p), e.s1), e.s2); }   /* x exp() */
V_MATH f32x16 v_exp(f32x16 x) {
    v_power e = v_exp_parts(x);
    return v_mul(v_mul(e.p, e.s1), e.s2);
}

/* exp(x) of attention, x not above 0: below exp(-86.5), nearly the smallest normal number, zero. Subnormal numbers, which weigh
 * nothing there, take some CPUs 100 cycles and more. */
V_MATH f32x16 v_exp_weight(f32x16 x) {
    const f32x16 least = K(-86.5f);
    f32x16 t, p = v_exp_mantissa(v_max(least, x), &t);
    f32x16 power = v_float(vi_sll(vi_add(v_bits(t), vi_set1(127)), 23));       /* the sum's upper bits are those of V_MAGIC: shifted out */
    return v_select(v_lt(x, least), K(0.0f), v_mul(p, power));
}

ALWAYS_INLINE f32x16 v_abs(f32x16 x) { return v_float(vi_and(v_bits(x), vi_set1(0x7fffffff))); }
ALWAYS_INLINE f32x16 v_neg(f32x16 x) { return v_float(vi_xor(v_bits(x), vi_set1(0x80000000u))); }

V_MATH f32x16 v_tanh(f32x16 x) {
    f32x16 a = v_abs(x), s = v_mul(x, x);
    f32x16 p = v_fma(s, K(-0.00570391398f), K(0.0206381641f));
    p = v_fma(s, p, K(-0.0537394434f));
    p = v_fma(s, p, K(0.133314386f));
    p = v_fma(s, p, K(-0.333332807f));
    f32x16 small = v_fma(v_mul(p, s), a, a);
    f32x16 large = v_sub(K(1.0f), v_div(K(2.0f), v_add(v_exp(v_add(a, a)), K(1.0f))));
    f32x16 y = v_select(v_lt(a, K(0.625f)), small, large);
    return v_float(vi_or(v_bits(y), vi_and(v_bits(x), vi_set1(0x80000000u))));
}

/* x sigmoid(v), v = +-(w + w_lo) with the sign of x, from e = exp(-w): x / (1 + e) or x e / (1 + e) */
V_MATH f32x16 v_gate(f32x16 x, f32x16 t, f32x16 w, f32x16 w_lo) {
    v_power e = v_exp_parts(v_neg(w));
    e.p = v_fnma(e.p, w_lo, e.p);
    f32x16 below = v_neg(v_scale(t, e));
    f32x16 top = v_select(v_lt(x, K(0.0f)), below, x);
    return v_div(top, v_add(K(1.0f), v_mul(v_mul(e.p, e.s1), e.s2)));
}
V_MATH f32x16 v_silu(f32x16 x) {
    f32x16 t = v_min(K(120.0f), v_abs(x));            /* exp(-120) = 0; NaN passes */
    return v_gate(x, t, t, K(0.0f));
}
/* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) = x/2 (1 + tanh(...)); the exponent w = t (c0 + c1 t^2) in two floats */
V_MATH f32x16 v_gelu_tanh(f32x16 x) {
    const f32x16 c0 = K(1.59576917f), c0_lo = K(-4.53406804e-08f), c1 = K(0.0713548139f), c1_lo = K(2.3988324e-09f);
    f32x16 t = v_min(K(11.0f), v_abs(x));
    f32x16 s = v_mul(t, t), s_lo = v_fnma(t, t, s);               /* t^2 = s - s_lo */
    f32x16 p = v_mul(c1, s), p_lo = v_fnma(c1, s, p);             /* c1 s = p - p_lo */
    f32x16 g = v_add(p, c0), b = v_sub(g, p);
    f32x16 g_lo = v_add(v_sub(p, v_sub(g, b)), v_sub(c0, b));     /* p + c0 = g + g_lo */
    g_lo = v_add(g_lo, v_sub(c0_lo, p_lo));
    g_lo = v_add(g_lo, v_fnma(c1, s_lo, v_mul(c1_lo, s)));
    f32x16 w = v_mul(t, g), w_lo = v_sub(v_mul(t, g_lo), v_fnma(t, g, w));
    return v_gate(x, t, w, w_lo);
}
/* x Phi(x), Phi the normal distribution: with Q(t) its upper tail, x (1 - Q(x)) or x Q(-x) */
V_MATH f32x16 v_gelu(f32x16 x) {
    f32x16 t = v_min(K(15.0f), v_abs(x)), w = v_div(t, v_add(t, K(3.0f)));
    f32x16 g = v_fma(w, K(-0.0942830071f), K(0.166788712f));
    g = v_fma(w, g, K(0.159102395f));
    g = v_fma(w, g, K(-0.287995428f));
    g = v_fma(w, g, K(-0.417353839f));
    g = v_fma(w, g, K(0.24334991f));
    g = v_fma(w, g, K(1.85291541f));
    g = v_fma(w, g, K(-3.12792969f));
    g = v_fma(w, g, K(1.80317628f));
    g = v_fma(w, g, K(0.5f));
    f32x16 s = v_mul(t, t), s_lo = v_fnma(t, t, s);               /* t^2 = s - s_lo */
    v_power e = v_exp_parts(v_mul(K(-0.5f), s));
    e.p = v_fma(e.p, v_mul(K(0.5f), s_lo), e.p);
    f32x16 tail = v_div(g, v_fma(K(2.0f), t, K(1.0f)));
    f32x16 above = v_mul(x, v_sub(K(1.0f), v_scale(tail, e)));
    f32x16 below = v_neg(v_scale(v_mul(t, tail), e));
    return v_select(v_lt(x, K(0.0f)), below, above);
}

V_MATH f32x16 v_act(lw_act act, f32x16 x) {
    switch (act) {
    case LW_ACT_SILU: return v_silu(x);
    case LW_ACT_GELU: return v_gelu(x);
    case LW_ACT_GELU_TANH: return v_gelu_tanh(x);
    case LW_ACT_RELU2: x = v_max(K(0.0f), x); return v_mul(x, x);
    case LW_ACT_TANH: return v_tanh(x);
    case LW_ACT_EXP: return v_exp(x);
    default: return x;
    }
}
#undef V_MAGIC
#undef K
#endif
