/* finish.h - from sums to outputs: scales, bias, activation, gate times up, residual, type; while the sums are in L1. */
#ifndef LW_KERNELS_FINISH_H
#define LW_KERNELS_FINISH_H

/* Sums of the packed columns i .. i+15 of a row, of which n exist, with scales and bias. */
ALWAYS_INLINE f32x16 finish_sums(const lw_finish *f, int row, int i, int n) {
    const float *sums = f->sums + row * f->ld + i;
    f32x16 v = f->integers ? vi_float(vi_load(sums)) : v_load(sums);
    if (f->column_scale) v = v_mul(v, v_loadn(f->column_scale + i, n));
    if (f->row_scale) v = v_mul(v, v_set1(f->row_scale[row]));
    if (f->bias) v = v_add(v, v_loadn(f->bias + i, n));
    return v;
}

ALWAYS_INLINE void finish_loop(lw_act act, const lw_finish *f) {
    for (int r = 0; r < f->rows; r++) {
        for (int i = 0; i < f->columns; i += 16) {
            const int n = (int)lw_min(16, f->columns - i);
            f32x16 v = v_act(act, finish_sums(f, r, f->gated ? 2 * i : i, f->gated ? 16 : n));
            if (f->gated) v = v_mul(v, finish_sums(f, r, 2 * i + 16, 16));
            if (f->residual) v = v_add(v, v_loadn(f->residual + r * f->ldr + i, n));
            if (f->type == LW_F32) {
                v_storen((float *)f->c + r * f->ldc + i, v, n);
            } else {
                uint16_t bits[16];
                vi_store16(bits, bf16_bits(v));
                memcpy((uint16_t *)f->c + r * f->ldc + i, bits, 2 * (size_t)n);
            }
        }
    }
}

ALWAYS_INLINE void finish_line(const lw_finish *f, int row, int i, f32x16 v) {
    if (f->type == LW_F32) v_store((float *)f->c + row * f->ldc + i, v);
    else vi_store16((uint16_t *)f->c + row * f->ldc + i, bf16_bits(v));
}

/* Gate times up and nothing else, whole lines: nearly every tile of a model. Two rows at a time: one waits for its division. */
ALWAYS_INLINE void finish_gate(lw_act act, const lw_finish *f) {
    for (int i = 0; i < f->columns; i += 16) {
        const float *sums = f->sums + 2 * i;
        int r = 0;
        for (; r + 2 <= f->rows; r += 2, sums += 2 * f->ld) {
            f32x16 x = v_act(act, v_load(sums)), y = v_act(act, v_load(sums + f->ld));
            finish_line(f, r, i, v_mul(x, v_load(sums + 16)));
            finish_line(f, r + 1, i, v_mul(y, v_load(sums + f->ld + 16)));
        }
        if (r < f->rows) finish_line(f, r, i, v_mul(v_act(act, v_load(sums)), v_load(sums + 16)));
    }
}

#ifdef LW_HAS_DOT
/* The same, two lines at a time, as the bfloat16 dot product of the CPU would round them. */
ALWAYS_INLINE void finish_gate_dot(lw_act act, const lw_finish *f) {
    for (int r = 0; r < f->rows; r++) {
        for (int i = 0; i < f->columns; i += 32) {
            const float *sums = f->sums + r * f->ld + 2 * i;
            f32x16 x = v_act(act, v_load(sums)), y = v_act(act, v_load(sums + 32));
            vi_store((uint16_t *)f->c + r * f->ldc + i, v_pack_bf16(v_mul(x, v_load(sums + 16)), v_mul(y, v_load(sums + 48))));
        }
    }
}
#endif

static void finish(const lw_finish *f) {
    const int plain = !f->integers && !f->column_scale && !f->row_scale && !f->bias && !f->residual;
#ifdef LW_HAS_DOT
    if (f->gated && plain && f->dot && f->columns % 32 == 0) {
        LW_EACH_ACT(f->act, finish_gate_dot, f)
        return;
    }
#endif
    if (f->gated && plain && f->columns % 16 == 0) {
        LW_EACH_ACT(f->act, finish_gate, f)
        return;
    }
    if (f->type != LW_I32) {
        LW_EACH_ACT(f->act, finish_loop, f)
        return;
    }
    for (int r = 0; r < f->rows; r++)
        memcpy((int32_t *)f->c + r * f->ldc, f->sums + r * f->ld, 4 * (size_t)f->columns);
}
#endif
