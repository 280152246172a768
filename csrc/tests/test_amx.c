/* test_amx.c - products on tile registers: every bit of the tiles as the instructions define it, whatever part of a tile there
 * is, nothing read behind the lines, no state left; and the driver on them, int8 exactly, bf16 row by row, quantised weights as the
 * scalar table has them. */
#include "../context.h"
#include "../isa/tables.h"
#include "../quant.h"
#include "check.h"
#include <float.h>
#include <math.h>

enum { ROWS = 33, COLUMNS = 64, K = 330, LD = 384 };

static void check_released(const lw_kernels *t)
{
#ifdef LW_TEST_EMULATED
    if (strncmp(t->name, "emulated", 8)) return;
    CHECK(!lw_emulated_amx_configured(), "%s leaves its configuration", t->name);
    CHECK(!lw_emulated_amx_faults(), "%s: %d faults", t->name, lw_emulated_amx_faults());
#else
    (void)t;
#endif
}

static uint16_t low_float(float size) { return (uint16_t)(word(uniform() * size) >> 16); }

/* ---- TDPBF16PS, after its definition ------------------------------------------------------------------------------- */
static float no_subnormal(float x) { return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x; }
static float wide(uint16_t x) { return no_subnormal(from_word((uint32_t)x << 16)); }
static float chain(float c, const uint16_t *a, const uint16_t *w, int k)
{
    for (int k0 = 0; k0 < k; k0 += 32) {
        float even = 0, odd = 0;
        for (int i = k0; i < k0 + 32; i++) {                /* behind k zeros: they make +0 of -0 */
            float *sum = i % 2 ? &odd : &even;
            *sum = no_subnormal(fmaf(i < k ? wide(a[i]) : 0.0f, i < k ? wide(w[i]) : 0.0f, *sum));
        }
        c = no_subnormal(no_subnormal(c) + no_subnormal(even + odd));
    }
    return c;
}

/* Rows of `bytes` bytes, LD elements apart, as tiles read them. */
static void to_tiles(const void *rows, int count, size_t bytes, size_t stride, char *out)
{
    for (size_t i = 0; i < bytes; i += LW_LINE)
        for (int r = 0; r < count; r++, out += LW_LINE) memcpy(out, (const char *)rows + (size_t)r * stride + i, LW_LINE);
}

static uint16_t a16[ROWS][LD], w16[COLUMNS][LD];
static float c0[ROWS * (COLUMNS + 5)];

/* Sums of an earlier tile, which a tile finishes meanwhile: as `finish` does alone, whatever it is and however many rows it gets to. */
enum { KINDS = 64 };
typedef struct earlier {
    float sums[ROWS * COLUMNS], bias[COLUMNS], residual[ROWS * COLUMNS], scale[COLUMNS], out[2][ROWS * COLUMNS];
    int32_t start[ROWS];
    lw_finish due;
} earlier;

static void earlier_begin(earlier *e, const lw_kernels *t, int integers, int kind)
{
    static const lw_act acts[] = {LW_ACT_NONE, LW_ACT_SILU, LW_ACT_NONE, LW_ACT_GELU};
    static const lw_type types[] = {LW_F32, LW_BF16, LW_F32};
    memset(e, 0, sizeof *e);
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        const int32_t word = (int32_t)(bits() % 100000) - 50000;
        if (integers) memcpy(&e->sums[i], &word, 4);
        else e->sums[i] = uniform();
        e->residual[i] = uniform();
    }
    for (int i = 0; i < COLUMNS; i++) e->bias[i] = uniform(), e->scale[i] = uniform();
    for (int i = 0; i < ROWS; i++) e->start[i] = (int32_t)(bits() % 1000);
    e->due = (lw_finish){.sums = e->sums, .ld = COLUMNS, .integers = integers, .rows = 1 + (int)(bits() % ROWS),
                         .columns = kind & 1 ? COLUMNS : 16 * (1 + kind % 4), .act = acts[kind % 4], .type = types[kind % 3],
                         .c = e->out[0], .ldc = COLUMNS, .ldr = COLUMNS, .dot = kind & 4 && t->tile_dot};
    if (kind % 5 == 1) e->due.columns -= 3;
    if (kind % 4 == 1) e->due.gated = 1, e->due.columns = (e->due.columns + 1) / 2;
    if (kind & 8) e->due.bias = e->bias;
    if (kind & 16) e->due.residual = e->residual;
    if (integers) e->due.start = e->start, e->due.column_scale = kind & 32 ? e->scale : NULL;
    if (integers && kind % 7 == 0) e->due.type = LW_I32, e->due.act = LW_ACT_NONE, e->due.gated = 0;
    lw_finish alone = e->due;
    alone.c = e->out[1];
    t->finish(&alone);
}

static void earlier_end(earlier *e, const lw_kernels *t, int kind)
{
    CHECK(e->due.rows >= 0, "%s: %d rows left", t->name, e->due.rows);
    if (e->due.rows) t->finish(&e->due);
    CHECK(!memcmp(e->out[0], e->out[1], sizeof e->out[0]), "%s: earlier sums, kind %d", t->name, kind);
}

/* One tile; its lines end where the memory ends, its rows of activations 64-byte blocks of which the rest is zero. */
static void dot_case(const lw_kernels *t, int rows, int panels, int k, int mode, int kind)
{
    static earlier e;
    const int columns = 16 * panels;
    const int lines = (k + 1) / 2;
    /* Ordinary; products and sums about the smallest normal number; activations that are subnormal in part. */
    const float a_size = mode & 8 ? 0x1p-62f : mode & 16 ? 0x1p-125f : 1.0f;
    const float w_size = mode & 8 ? 0x1p-62f : mode & 16 ? 0x1p60f : 1.0f, c_size = mode & 8 ? 0x1p-124f : 1.0f;
    const size_t panel = (size_t)lines * LW_LINE;
    const size_t row = (size_t)(k + 31) / 32 * 64;
    guarded b = guard(panel * (size_t)panels, 1), a = guard((size_t)rows * row, 1), c = guard(sizeof c0, 1);
    memset(a16, 0, sizeof a16);
    memset(w16, 0, sizeof w16);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < k; i++) a16[r][i] = low_float(a_size);
    to_tiles(a16, rows, row, sizeof a16[0], a.data);
    memset(b.data, 0, panel * (size_t)panels);
    for (int j = 0; j < 16 * panels; j++)
        for (int i = 0; i < k; i++) {
            w16[j][i] = low_float(w_size);
            memcpy((char *)b.data + (size_t)(j / 16) * panel + (size_t)(i / 2 * LW_LINE + j % 16 * 4 + i % 2 * 2), &w16[j][i], 2);
        }
    float *out = c.data;
    for (size_t i = 0; i < sizeof c0 / 4; i++) out[i] = c0[i] = uniform() * c_size;
    lw_tile tile = {.a = a.data, .b = b.data, .ldb = (ptrdiff_t)panel, .c = out, .ldc = columns + 5, .rows = rows,
                    .panels = panels, .columns = columns, .k = k, .accumulate = mode & 1, .again = mode >> 1 & 1};
    earlier_begin(&e, t, 0, kind);
    if (mode & 4) tile.due = &e.due;
    t->matrix_dot(&tile);
    earlier_end(&e, t, kind);
    int wrong = 0;
    for (int i = 0; i < ROWS * (COLUMNS + 5); i++) {
        int r = i / (columns + 5), j = i % (columns + 5);
        float want = c0[i];
        if (r < rows && j < columns) {
            want = chain(mode & 1 ? c0[i] : 0.0f, a16[r], w16[j], k);
        }
        wrong += word(out[i]) != word(want);
    }
    CHECK(!wrong, "%s: %d x %d panels, %d columns, k %d, mode %d: %d wrong", t->name, rows, panels, columns, k, mode, wrong);
    check_released(t);
    unguard(a), unguard(b), unguard(c);
}

static void test_dot(const lw_kernels *t)
{
    for (int rows = 1; rows <= t->matrix_rows; rows++)
        for (int panels = 1; panels <= LW_MAX_STEP; panels++) {
            dot_case(t, rows, panels, 1 + (int)(bits() % K), rows % 2, 0);
            dot_case(t, rows, panels, 1 + (int)(bits() % K), (int)(bits() % 24), (int)(bits() % KINDS));
        }
    for (int k = 1; k <= 130; k++) dot_case(t, 1 + k % 32, 1 + k % 4, k, k % 24, k % KINDS);
    for (int kind = 0; kind < KINDS; kind++) dot_case(t, 17 + kind % 16, 2, 64 + (int)(bits() % (K - 64)), 4, kind);   /* the tile of nearly all */
}

/* ---- TDPBSUD -------------------------------------------------------------------------------------------------------- */
static void int8_case(const lw_kernels *t, int rows, int panels, int k, int extreme, int kind)
{
    static earlier e;
    const int columns = 16 * panels;
    static int8_t q[ROWS][LD], w[COLUMNS][LD], tiles[ROWS * LD];
    int32_t out[ROWS * COLUMNS];
    const int lines = (k + 3) / 4;
    const size_t panel = (size_t)lines * LW_LINE;
    guarded b = guard(panel * (size_t)panels, 1);
    memset(q, 0, sizeof q);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < k; i++) q[r][i] = (int8_t)(extreme ? (r % 2 ? -128 : 127) : (int)bits());
    }
    memset(b.data, 128, panel * (size_t)panels);
    for (int j = 0; j < 16 * panels; j++)
        for (int i = 0; i < k; i++) {
            w[j][i] = (int8_t)(extreme ? (j % 2 ? -128 : 127) : (int)bits());
            ((uint8_t *)b.data)[(size_t)(j / 16) * panel + (size_t)(i / 4 * LW_LINE + j % 16 * 4 + i % 4)] = (uint8_t)(w[j][i] + 128);
        }
    memset(out, 0x55, sizeof out);
    to_tiles(q, rows, (size_t)(k + 63) / 64 * 64, LD, (char *)tiles);
    lw_tile tile = {.a = tiles, .b = b.data, .ldb = (ptrdiff_t)panel, .c = (float *)(void *)out, .ldc = COLUMNS,
                    .rows = rows, .panels = panels, .columns = columns, .k = lines * 4, .again = k % 2};
    earlier_begin(&e, t, 1, kind);
    tile.due = &e.due;
    t->matrix_int8(&tile);
    earlier_end(&e, t, kind);
    int wrong = 0;
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < COLUMNS; j++) {
            int64_t want = 0x55555555;
            if (r < rows && j < columns) {
                want = 0;
                for (int i = 0; i < k; i++) want += q[r][i] * (w[j][i] + 128);
            }
            wrong += out[r * COLUMNS + j] != want;
        }
    CHECK(!wrong, "%s: int8, %d x %d panels, %d columns, k %d: %d wrong", t->name, rows, panels, columns, k, wrong);
    check_released(t);
    unguard(b);
}

static void test_int8(const lw_kernels *t)
{
    for (int rows = 1; rows <= t->matrix_rows; rows++)
        for (int panels = 1; panels <= LW_MAX_STEP; panels++)
            int8_case(t, rows, panels, 1 + (int)(bits() % K), rows % 8 == 0, (int)(bits() % KINDS));
    for (int k = 1; k <= 130; k++) int8_case(t, 1 + k % 32, 1 + k % 4, k, k % 5 == 0, k % KINDS);
    for (int kind = 0; kind < KINDS; kind++) int8_case(t, 17 + kind % 16, 2, 64 + (int)(bits() % (K - 64)), 0, kind);
}

/* ---- through the driver --------------------------------------------------------------------------------------------- */
static void test_driver_int8(lw_ctx *ctx, lw_ctx *plain, int64_t m, int64_t n, int64_t k)
{
    int8_t *a = malloc((size_t)(m * k)), *w = malloc((size_t)(n * k));
    int32_t *c = malloc((size_t)(m * n) * 4);
    float *scale = malloc((size_t)(m + n) * 4), *x = malloc((size_t)(m * n) * 4), *y = malloc((size_t)(m * n) * 4);
    for (int64_t i = 0; i < m * k; i++) a[i] = (int8_t)bits();
    for (int64_t i = 0; i < n * k; i++) w[i] = (int8_t)bits();
    for (int64_t i = 0; i < m + n; i++) scale[i] = 1.0f + uniform();
    lw_weight *packed;
    lw_weight_create(LW_P8, n, k, &packed);
    lw_source source = {w, LW_I8, n, k, 1};
    CHECK(lw_weight_pack(ctx, packed, 0, 1, &source) == LW_OK, "pack");
    lw_gemm_args args = {.a = a, .a_type = LW_I8, .lda = k, .w = packed, .c = c, .c_type = LW_I32, .ldc = n, .m = m};
    CHECK(lw_gemm(ctx, &args) == LW_OK, "int8");
    int64_t wrong = 0;
    for (int64_t i = 0; i < m * n; i++) {
        int64_t want = 0;
        for (int64_t j = 0; j < k; j++) want += a[i / n * k + j] * w[i % n * k + j];
        wrong += c[i] != want;
    }
    CHECK(!wrong, "%s: int8 %d x %d x %d: %d wrong", lw_ctx_isa(ctx), (int)m, (int)n, (int)k, (int)wrong);
    args.c = x, args.c_type = LW_F32, args.row_scale = scale, args.column_scale = scale + m, args.bias = scale + m;
    args.a_type = LW_U8;
    CHECK(lw_gemm(ctx, &args) == LW_OK, "scaled");
    args.c = y;
    CHECK(lw_gemm(plain, &args) == LW_OK, "scaled, scalar");
    CHECK(!memcmp(x, y, (size_t)(m * n) * 4), "%s: scaled %d x %d x %d", lw_ctx_isa(ctx), (int)m, (int)n, (int)k);
    lw_weight_free(packed);
    free(a), free(w), free(c), free(scale), free(x), free(y);
}

/* Each row alone, and all of them, each as the instruction defines it. */
static void test_driver_dot(lw_ctx *ctx, int64_t m, int64_t n, int64_t k)
{
    float *a = malloc((size_t)(m * k) * 4), *w = malloc((size_t)(n * k) * 4), *c = malloc((size_t)(m * n) * 4);
    uint16_t *low = malloc((size_t)((m + n) * k) * 2);
    float *one = malloc((size_t)n * 4);
    for (int64_t i = 0; i < (m + n) * k; i++) {
        low[i] = low_float(1.0f);
        (i < m * k ? a : w - m * k)[i] = from_word((uint32_t)low[i] << 16);
    }
    lw_weight *packed;
    lw_weight_create(LW_P16, n, k, &packed);
    lw_source source = {w, LW_F32, n, k * 4, 4};
    CHECK(lw_weight_pack(ctx, packed, 0, 1, &source) == LW_OK, "pack");
    lw_gemm_args args = {.a = a, .lda = k, .w = packed, .c = c, .ldc = n, .m = m};
    CHECK(lw_gemm(ctx, &args) == LW_OK, "dot");
    int64_t wrong = 0, rows = 0;
    for (int64_t i = 0; i < m * n; i++)
        wrong += word(c[i]) != word(chain(0.0f, low + i / n * k, low + (m + i % n) * k, (int)k));
    for (int64_t r = 0; r < m; r++) {
        args.a = a + r * k, args.c = one, args.m = 1;
        CHECK(lw_gemm(ctx, &args) == LW_OK, "one row");
        rows += memcmp(one, c + r * n, (size_t)n * 4) != 0;
    }
    CHECK(!wrong && !rows, "%s: dot %d x %d x %d: %d wrong, %d rows differ", lw_ctx_isa(ctx), (int)m, (int)n, (int)k, (int)wrong,
          (int)rows);
    lw_weight_free(packed);
    free(a), free(w), free(c), free(low), free(one);
}

/* Several blocks of k, sums aside and in place: the bits of the scalar table. */
static void test_driver_quant(lw_ctx *ctx, lw_ctx *plain, lw_format format, int64_t m, int64_t n, int64_t k, int mode)
{
    lw_weight *w;
    lw_weight_create(format, n, k, &w);
    const int64_t bytes = lw_weight_row_bytes(w), ld = n + 3;
    uint8_t *raw = malloc((size_t)(n * bytes));
    float *a = malloc((size_t)(m * k) * 4), *bias = malloc((size_t)n * 4), *c[2];
    for (int64_t i = 0; i < n * bytes; i++) raw[i] = (uint8_t)(i % 2 ? bits() & 0xbf : bits());   /* finite as float16 */
    for (int64_t i = 0; i < m * k; i++) a[i] = uniform();
    for (int64_t i = 0; i < n; i++) bias[i] = uniform();
    if (mode & 8) a[m / 2 * k + k / 3] = NAN;
    lw_source source = {raw, LW_BLOCKS, n, bytes, 1};
    CHECK(lw_weight_pack(ctx, w, 0, 1, &source) == LW_OK, "pack");
    for (int i = 0; i < 2; i++) {
        c[i] = malloc((size_t)(m * ld) * 4);
        for (int64_t j = 0; j < m * ld; j++) c[i][j] = (float)(j % 7);
        lw_gemm_args args = {.a = a, .lda = k, .w = w, .c = c[i], .ldc = ld, .m = m};
        if (mode & 1) args.bias = bias;
        if (mode & 2) args.residual = c[i], args.ldr = ld;
        if (mode & 4) args.act = LW_ACT_SILU;
        CHECK(lw_gemm(i ? plain : ctx, &args) == LW_OK, "quantised");
    }
    CHECK(!memcmp(c[0], c[1], (size_t)(m * ld) * 4), "%s: format %d, %d x %d x %d, mode %d", lw_ctx_isa(ctx), format, (int)m, (int)n,
          (int)k, mode);
    lw_weight_free(w);
    free(raw), free(a), free(bias), free(c[0]), free(c[1]);
}

static void test_driver(const lw_kernels *t, int threads)
{
    lw_ctx *ctx, *plain;
    CHECK(lw_ctx_create(&(lw_options){t->name, threads}, &ctx) == LW_OK, "context");
    CHECK(lw_ctx_create(&(lw_options){"scalar", 1}, &plain) == LW_OK, "scalar");
    ctx->l1d = 8 << 10, ctx->l2 = 16 << 10;   /* several blocks of k */
    for (int m = 1; m <= 33; m++) {
        test_driver_int8(ctx, plain, m, 1 + m * 7 % 90, 1 + m * 37 % 200);
        test_driver_dot(ctx, m, 1 + m * 11 % 90, 1 + m * 41 % 200);
    }
    static const int shapes[][3] = {{65, 70, 64}, {40, 33, 1000}, {100, 130, 515}, {131, 64, 96}};
    for (int i = 0; i < 4; i++) {
        test_driver_int8(ctx, plain, shapes[i][0], shapes[i][1], shapes[i][2]);
        test_driver_dot(ctx, shapes[i][0], shapes[i][1], shapes[i][2]);
    }
    for (lw_format format = LW_Q4_0; format <= LW_IQ3_S_W; format++) {
        const int small = lw_quant_of(format)->source_block == 32;
        test_driver_quant(ctx, plain, format, 50, 37, 768, 0);
        test_driver_quant(ctx, plain, format, 145, 70, small ? 1056 : 1024, 1 + 2 * (format % 2));
        test_driver_quant(ctx, plain, format, 67, 300, small ? 896 : 512, format % 16);
        if (small) test_driver_quant(ctx, plain, format, 65, 16, 32 * (1 + format % 9), 8);
    }
    check_released(t);
    lw_ctx_free(ctx);
    lw_ctx_free(plain);
}

int main(void)
{
    int tables = 0;
    for (int i = 0; i < lw_isa_list_count; i++) {
        const lw_kernels *t = lw_isa_list[i].kernels;
        if (!t->matrix_rows || lw_isa_list[i].missing()) continue;
        tables++;
        CHECK(t->matrix_quant != NULL, "%s: no products of quantised weights", t->name);
        test_dot(t);
        test_int8(t);
        test_driver(t, 1);
        test_driver(t, 3);
        CHECK(t->peak_bf16(3) > 0 && t->peak_int8(3) > 0, "peaks");
        check_released(t);
    }
#ifdef __x86_64__
    CHECK(tables, "no table with tile registers: neither this machine's nor an emulated one (LW_TEST_TABLES and SIMDe)");
#endif
    return report();
}
