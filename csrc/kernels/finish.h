/* finish.h - from sums to outputs: scales, bias, activation, gate times up, residual, type; while the sums are in L1. */
#ifndef LW_KERNELS_FINISH_H
#define LW_KERNELS_FINISH_H

ALWAYS_INLINE i32x16 finish_integers(const lw_finish *f, int row, int i) {
    i32x16 sum = vi_load(f->sums + row * f->ld + i);
    if (f->start) sum = vi_add(sum, vi_set1((uint32_t)f->start[row]));
    if (f->offsets) sum = vi_add(sum, vi_load(f->offsets + i));
    return sum;
}

/* Sums of the packed columns i .. i+15 of a row, of which n exist, with scales and bias. */
ALWAYS_INLINE f32x16 finish_sums(const lw_finish *f, int row, int i, int n) {
    f32x16 v = f->integers ? vi_float(finish_integers(f, row, i)) : v_load(f->sums + row * f->ld + i);
    if (f->column_scale) v = v_mul(v, v_loadn(f->column_scale + i, n));
    if (f->row_scale) v = v_mul(v, v_set1(f->row_scale[row]));
    if (f->bias) v = v_add(v, v_loadn(f->bias + i, n));
    return v;
}

/* 16 values of a row of c. */
ALWAYS_INLINE void finish_line(const lw_finish *f, int row, int i, f32x16 v) {
    uint16_t *const to = (uint16_t *)f->c + row * f->ldc + i;
    if (f->type == LW_F32) v_store((float *)f->c + row * f->ldc + i, v);
#ifdef LW_HAS_DOT
    else if (f->dot) v_store_bf16(to, v);
#endif
    else vi_store16(to, bf16_bits(v));
}

/* Outputs i .. i+15 of a row, of which n exist. */
ALWAYS_INLINE void finish_values(lw_act act, const int gated, const lw_finish *f, int row, int i, const int n) {
    f32x16 v = v_act(act, finish_sums(f, row, gated ? 2 * i : i, gated ? 16 : n));
    if (gated) v = v_mul(v, finish_sums(f, row, 2 * i + 16, 16));
    if (f->residual) v = v_add(v, v_loadn(f->residual + row * f->ldr + i, n));
    if (n == 16) {
        finish_line(f, row, i, v);
    } else if (f->type == LW_F32) {
        v_storen((float *)f->c + row * f->ldc + i, v, n);
    } else {
        uint16_t bits[16];
        vi_store16(bits, bf16_bits(v));
        memcpy((uint16_t *)f->c + row * f->ldc + i, bits, 2 * (size_t)n);
    }
}

ALWAYS_INLINE void finish_loop(lw_act act, const int gated, const lw_finish *f) {
    for (int r = 0; r < f->rows; r++) {
        int i = 0;
        for (; i + 16 <= f->columns; i += 16) finish_values(act, gated, f, r, i, 16);
        if (i < f->columns) finish_values(act, gated, f, r, i, f->columns - i);
    }
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

static void finish(const lw_finish *f) {
    const int plain = !f->integers && !f->column_scale && !f->row_scale && !f->bias && !f->residual;
    if (f->gated && plain && f->columns % 16 == 0) {
        LW_EACH_ACT(f->act, finish_gate, f)
        return;
    }
    if (f->type != LW_I32) {
        if (f->gated) LW_EACH_ACT(f->act, finish_loop, 1, f)
        else LW_EACH_ACT(f->act, finish_loop, 0, f)
        return;
    }
    for (int r = 0; r < f->rows; r++)
        for (int i = 0; i < f->columns; i += 16) {
            const int n = (int)lw_min(16, f->columns - i);
            v_storen((float *)f->c + r * f->ldc + i, v_float(finish_integers(f, r, i)), n);
        }
}

#ifdef LW_HAS_AMX
/* The first n rows are done. */
ALWAYS_INLINE void finish_next(lw_finish *f, int n) {
    f->rows -= n;
    f->sums += n * f->ld;
    f->c = (char *)f->c + n * f->ldc * (f->type == LW_BF16 ? 2 : 4);
    if (f->residual) f->residual += n * f->ldr;
    if (f->row_scale) f->row_scale += n;
    if (f->start) f->start += n;
}

static __attribute__((noinline)) void finish_row(const lw_finish *f, int row) {
    lw_finish one = *f;
    finish_next(&one, row);
    one.rows = 1;
    finish(&one);
}
#endif
#endif
