/* gemm_dot.h - tiles on the CPU's bfloat16 dot product: the float tiles with a pair of values where they have one. */
#ifndef LW_KERNELS_GEMM_DOT_H
#define LW_KERNELS_GEMM_DOT_H

ALWAYS_INLINE void tile_any_dot_body(const lw_tile *t, const int R, const int P, const int lace) {
    vreg acc[TILE_MAX_LINES * V_REGS];
    tile_at at = {.lace = lace, .stream = !lace};
    lw_tile pairs = *t;
    pairs.lda = t->lda / 2;                           /* rows of pairs, each as large as a float */
    tile_begin(&pairs, R, P, &at, acc);
    for (int n = t->k / 2; n > 0; n--) {
        tile_step(R, P * V_REGS, TILE_DOT, &at, acc);
        tile_advance(R, P, &at, 1, 1);
    }
    tile_end(t, R, P, acc);
}
ALWAYS_INLINE void tile_dot_body(const lw_tile *t, const int R, const int P) { tile_any_dot_body(t, R, P, 0); }
ALWAYS_INLINE void tile_dotlace_body(const lw_tile *t, const int R, const int P) { tile_any_dot_body(t, R, P, 1); }
#define TILE_DOT_DEFINE(r, p) TILE_DEFINE(dot, r, p)
#define TILE_DOTLACE_DEFINE(r, p) TILE_DEFINE(dotlace, r, p)
#define TILE_DOT_ENTRY(r, p) [r][p] = dot_##r##x##p,
#define TILE_DOTLACE_ENTRY(r, p) [r][p] = dotlace_##r##x##p,
TILES(TILE_DOT_DEFINE)
TILES(TILE_DOTLACE_DEFINE)
static tile_fn *const tiles_dot[2][TILE_ROWS + 1][TILE_MAX_PANELS + 1] = {{TILES(TILE_DOT_ENTRY)}, {TILES(TILE_DOTLACE_ENTRY)}};

/* One value of k that shares its pair: the other half becomes zero in the weights and in the activations. */
static void tile_dot_single(const lw_tile *t, tile_half half) {
    ALIGN(64) uint32_t lines[TILE_MAX_PANELS * 16], a[TILE_ROWS];
    const i32x16 mask = vi_set1(half == TILE_ODD ? 0xffff0000u : 0x0000ffffu);
    for (int p = 0; p < t->panels; p++)
        vi_store(lines + 16 * p, vi_and(vi_load((const char *)t->b + p * t->ldb), mask));
    for (int r = 0; r < t->rows; r++) {
        uint32_t x = ((const uint16_t *)t->a)[r * t->lda];
        a[r] = half == TILE_ODD ? x << 16 : x;
    }
    lw_tile one = *t;
    one.a = a;
    one.lda = 2;
    one.b = lines;
    one.ldb = 64;
    one.k = 2;
    tiles_dot[0][t->rows][t->panels](&one);
}

static void tile_dot(const lw_tile *t) {
    tile_fn *run = tiles_dot[!t->lda][t->rows][t->panels];
    LW_ASSERT((t->lda || (t->k % 2 == 0 && !t->skip)) && run && t->columns >= 1 && t->columns <= 16 * t->panels);
    if (LW_LIKELY(t->columns == 16 * t->panels && !t->skip && t->k % 2 == 0)) run(t);
    else tile_edge(t, run, tile_dot_single, sizeof(uint16_t));
}

/* The CPU's own conversion makes zeros of subnormals, and so does its dot product: no sum sees the difference. */
static void to_dot(size_t n, const float *x, uint16_t *y) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) vi_store(y + i, v_pack_bf16(v_load(x + i), v_load(x + i + 16)));
    if (i < n) to_bf16(n - i, x + i, y + i);
}

__attribute__((unused)) static double peak_bf16(long iterations) {
    const uint32_t one = 0x3f803f80, small = 0x2f802f80;      /* pairs of 1 and of 2^-32 */
    float out[16];
    vreg acc[PEAK_CHAINS], a = vr_set1(&one), b = vr_set1(&small);
    V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) acc[j] = vr_zero();
    for (long i = 0; i < iterations; i++) {
        V_UNROLL for (int u = 0; u < PEAK_STEPS; u++) {
            V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) {
                acc[j] = vr_dot(a, b, acc[j]);
                V_KEEP(acc[j]);
            }
        }
    }
    V_UNROLL for (int j = 1; j < PEAK_CHAINS; j++) acc[0] = vr_add(acc[0], acc[j]);
    vr_store(out, acc[0]);
    return 64.0 * PEAK_CHAINS * PEAK_STEPS * (double)iterations + 0.0 * out[0];
}
#endif
