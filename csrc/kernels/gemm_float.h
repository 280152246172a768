/* gemm_float.h - tiles of a product with float accumulators: written once, instantiated for each rows x panels.
 *
 * All accumulators of a tile stay in registers: rows and panels are constants of an inlined body and every loop over them
 * is unrolled. Operands are addressed as in hand-written code: one pointer for three rows (or panels) and the stride as
 * an index, so that the general registers last as well; V_OPAQUE keeps the compiler from inventing others.
 * A tile whose last columns are missing runs on copies (tile_edge), so that the body knows whole lines only.
 *
 * An ISA defines before this file: TILE_ROWS, TILE_PANELS (the table's rows and panels) and TILES(X) = X(1, 1) ...
 */
#ifndef LW_KERNELS_GEMM_FLOAT_H
#define LW_KERNELS_GEMM_FLOAT_H

enum { TILE_MAX_PANELS = 8, TILE_MAX_LINES = 28 };      /* panels, and rows * panels, of the largest tile */
typedef enum tile_half { TILE_F32, TILE_EVEN, TILE_ODD } tile_half;   /* what a weight line holds, or which half to use */
typedef void tile_fn(const lw_tile *t);

/* Operands at the current k: pointers to rows 0, 3, 6, 9 and to panels 0, 3, 6. */
typedef struct tile_at {
    const float *a[(LW_MAX_ROWS + 2) / 3];
    const char *b[(TILE_MAX_PANELS + 2) / 3];
    ptrdiff_t lda, ldb;
} tile_at;

ALWAYS_INLINE const float *tile_a(const tile_at *at, int r) { return at->a[r / 3] + (r % 3) * at->lda; }
ALWAYS_INLINE vreg tile_w(const tile_at *at, int q, tile_half half) {
    const int p = q / V_REGS;
    const char *line = at->b[p / 3] + (p % 3) * at->ldb + 64 / V_REGS * (q % V_REGS);
    return half == TILE_EVEN ? vr_even(line) : half == TILE_ODD ? vr_odd(line) : vr_load(line);
}

/* One value of k, `ahead` of the current one: acc[row][register] += a * w. Few rows: hold their activations and stream
 * the weights; many: hold the weights. Whichever needs fewer registers. */
ALWAYS_INLINE void tile_step(const int R, const int Q, tile_half half, const tile_at *at, int ahead, vreg *acc) {
    if (R <= 3) {
        vreg x[3];
        V_UNROLL for (int r = 0; r < R; r++) x[r] = vr_set1(tile_a(at, r) + ahead);
        V_UNROLL for (int q = 0; q < Q; q++) {
            vreg w = tile_w(at, q, half);
            V_UNROLL for (int r = 0; r < R; r++) { acc[r * Q + q] = vr_fma(x[r], w, acc[r * Q + q]); V_KEEP(acc[r * Q + q]); }
        }
    } else {
        vreg w[4];
        V_UNROLL for (int q = 0; q < Q; q++) w[q] = tile_w(at, q, half);
        V_UNROLL for (int r = 0; r < R; r++) {
            vreg x = vr_set1(tile_a(at, r) + ahead);
            V_UNROLL for (int q = 0; q < Q; q++) { acc[r * Q + q] = vr_fma(x, w[q], acc[r * Q + q]); V_KEEP(acc[r * Q + q]); }
        }
    }
}

ALWAYS_INLINE void tile_advance(const int R, const int P, tile_at *at, int values) {
    V_UNROLL for (int i = 0; i < (R + 2) / 3; i++) {
        at->a[i] += values;
        V_OPAQUE(at->a[i]);
    }
    V_UNROLL for (int i = 0; i < (P + 2) / 3; i++) {
        at->b[i] += 64;
        V_OPAQUE(at->b[i]);
    }
}

ALWAYS_INLINE void tile_begin(const lw_tile *t, const int R, const int P, tile_at *at, vreg *acc) {
    const int Q = P * V_REGS;
    at->lda = t->lda;
    at->ldb = t->ldb;
    V_UNROLL for (int i = 0; i < (R + 2) / 3; i++) at->a[i] = (const float *)t->a + 3 * i * t->lda;
    V_UNROLL for (int i = 0; i < (P + 2) / 3; i++) at->b[i] = (const char *)t->b + 3 * i * t->ldb;
    if (t->accumulate) {
        V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = vr_load(t->c + i / Q * t->ldc + 16 / V_REGS * (i % Q));
    } else {
        V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = vr_zero();
    }
}

ALWAYS_INLINE void tile_end(const lw_tile *t, const int R, const int P, vreg *acc) {
    const int Q = P * V_REGS, n = 16 / V_REGS;
    if (t->bias) {
        V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = vr_add(acc[i], vr_load(t->bias + n * (i % Q)));
    }
    if (t->residual) {
        V_UNROLL for (int i = 0; i < R * Q; i++)
            acc[i] = vr_add(acc[i], vr_load(t->residual + i / Q * t->ldr + n * (i % Q)));
    }
    V_UNROLL for (int i = 0; i < R * Q; i++) vr_store(t->c + i / Q * t->ldc + n * (i % Q), acc[i]);
}

ALWAYS_INLINE void tile_f32_body(const lw_tile *t, const int R, const int P) {
    vreg acc[TILE_MAX_LINES * V_REGS];
    tile_at at;
    tile_begin(t, R, P, &at, acc);
    for (int n = t->k; n > 0; n--) {
        tile_step(R, P * V_REGS, TILE_F32, &at, 0, acc);
        tile_advance(R, P, &at, 1);
    }
    tile_end(t, R, P, acc);
}

ALWAYS_INLINE void tile_bf16_body(const lw_tile *t, const int R, const int P) {
    vreg acc[TILE_MAX_LINES * V_REGS];
    tile_at at;
    int n = t->k;
    tile_begin(t, R, P, &at, acc);
    if (t->skip && n > 0) {
        tile_step(R, P * V_REGS, TILE_ODD, &at, 0, acc);
        tile_advance(R, P, &at, 1);
        n--;
    }
    for (; n > 1; n -= 2) {
        tile_step(R, P * V_REGS, TILE_EVEN, &at, 0, acc);
        V_UNROLL for (int i = 0; i < (P + 2) / 3; i++) V_OPAQUE(at.b[i]);   /* read the line again: registers are scarcer */
        tile_step(R, P * V_REGS, TILE_ODD, &at, 1, acc);
        tile_advance(R, P, &at, 2);
    }
    if (n > 0) tile_step(R, P * V_REGS, TILE_EVEN, &at, 0, acc);
    tile_end(t, R, P, acc);
}

#define TILE_DEFINE(kind, r, p) \
    static void kind##_##r##x##p(const lw_tile *t) { tile_##kind##_body(t, r, p); }
#define TILE_F32_DEFINE(r, p) TILE_DEFINE(f32, r, p)
#define TILE_BF16_DEFINE(r, p) TILE_DEFINE(bf16, r, p)
#define TILE_F32_ENTRY(r, p) [r][p] = f32_##r##x##p,
#define TILE_BF16_ENTRY(r, p) [r][p] = bf16_##r##x##p,
TILES(TILE_F32_DEFINE)
TILES(TILE_BF16_DEFINE)
static tile_fn *const tiles_f32[TILE_ROWS + 1][TILE_MAX_PANELS + 1] = {TILES(TILE_F32_ENTRY)};
static tile_fn *const tiles_bf16[TILE_ROWS + 1][TILE_MAX_PANELS + 1] = {TILES(TILE_BF16_ENTRY)};

/* Runs a tile of which only some columns exist on whole lines. */
static void tile_edge(const lw_tile *t, tile_fn *run) {
    ALIGN(64) float c[TILE_MAX_LINES * 16];
    float residual[TILE_MAX_LINES * 16], bias[TILE_MAX_PANELS * 16];
    const int width = 16 * t->panels;
    const size_t bytes = (size_t)t->columns * sizeof(float);
    lw_tile whole = *t;
    whole.columns = width;
    whole.c = c;
    whole.ldc = width;
    if (t->accumulate) {
        memset(c, 0, sizeof(float) * (size_t)(t->rows * width));
        for (int r = 0; r < t->rows; r++) memcpy(c + r * width, t->c + r * t->ldc, bytes);
    }
    if (t->bias) {
        memset(bias, 0, sizeof bias);
        memcpy(bias, t->bias, bytes);
        whole.bias = bias;
    }
    if (t->residual) {
        memset(residual, 0, sizeof(float) * (size_t)(t->rows * width));
        for (int r = 0; r < t->rows; r++) memcpy(residual + r * width, t->residual + r * t->ldr, bytes);
        whole.residual = residual;
        whole.ldr = width;
    }
    run(&whole);
    for (int r = 0; r < t->rows; r++) memcpy(t->c + r * t->ldc, c + r * width, bytes);
}

ALWAYS_INLINE void tile_run(const lw_tile *t, tile_fn *run) {
    LW_ASSERT(run && t->columns >= 1 && t->columns <= 16 * t->panels);
    if (LW_LIKELY(t->columns == 16 * t->panels)) run(t);
    else tile_edge(t, run);
}
static void tile_f32(const lw_tile *t) { tile_run(t, tiles_f32[t->rows][t->panels]); }
static void tile_bf16(const lw_tile *t) { tile_run(t, tiles_bf16[t->rows][t->panels]); }
#endif
