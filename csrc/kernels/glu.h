/* glu.h - element by element: activations, gated products, addition, rounding to bfloat16. */
#ifndef LW_KERNELS_GLU_H
#define LW_KERNELS_GLU_H

/* Loops see `act` as a constant: one loop per activation. */
#define LW_EACH_ACT(act, loop, ...)                                     \
    switch (act) {                                                      \
    case LW_ACT_SILU: loop(LW_ACT_SILU, __VA_ARGS__); break;            \
    case LW_ACT_GELU: loop(LW_ACT_GELU, __VA_ARGS__); break;            \
    case LW_ACT_GELU_TANH: loop(LW_ACT_GELU_TANH, __VA_ARGS__); break;  \
    case LW_ACT_RELU2: loop(LW_ACT_RELU2, __VA_ARGS__); break;          \
    case LW_ACT_TANH: loop(LW_ACT_TANH, __VA_ARGS__); break;            \
    case LW_ACT_EXP: loop(LW_ACT_EXP, __VA_ARGS__); break;              \
    default: loop(LW_ACT_NONE, __VA_ARGS__); break;                     \
    }

ALWAYS_INLINE void act_loop(lw_act act, size_t n, const float *x, float *y) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_act(act, v_load(x + i)));
    if (i < n) v_storen(y + i, v_act(act, v_loadn(x + i, (int)(n - i))), (int)(n - i));
}
static void activation(lw_act act, size_t n, const float *x, float *y) { LW_EACH_ACT(act, act_loop, n, x, y) }

ALWAYS_INLINE void mul_act_loop(lw_act act, size_t n, const float *gate, const float *up, float *y) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_mul(v_act(act, v_load(gate + i)), v_load(up + i)));
    int rest = (int)(n - i);
    if (rest) v_storen(y + i, v_mul(v_act(act, v_loadn(gate + i, rest)), v_loadn(up + i, rest)), rest);
}
static void mul_activation(lw_act act, size_t n, const float *gate, const float *up, float *y) {
    LW_EACH_ACT(act, mul_act_loop, n, gate, up, y)
}

static void add(size_t n, const float *x, const float *y, float *z) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(z + i, v_add(v_load(x + i), v_load(y + i)));
    int rest = (int)(n - i);
    if (rest) v_storen(z + i, v_add(v_loadn(x + i, rest), v_loadn(y + i, rest)), rest);
}

/* Nearest even by integers, subnormals included (the CPU's own conversion flushes them). */
ALWAYS_INLINE i32x16 bf16_bits(f32x16 x) {
    i32x16 b = v_bits(x), odd = vi_and(vi_srl(b, 16), vi_set1(1));
    i32x16 r = vi_srl(vi_add(vi_add(b, odd), vi_set1(0x7fff)), 16), nan = vi_or(vi_srl(b, 16), vi_set1(0x40));
    return v_bits(v_select(v_unordered(x), v_float(nan), v_float(r)));
}
static void to_bf16(size_t n, const float *x, uint16_t *y) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) vi_store16(y + i, bf16_bits(v_load(x + i)));
    if (i < n) {
        uint16_t last[16];
        vi_store16(last, bf16_bits(v_loadn(x + i, (int)(n - i))));
        for (size_t j = 0; i + j < n; j++) y[i + j] = last[j];
    }
}
#endif
