/* test_gemm.c - products through the driver against one chain of fmaf per element, bit for bit, on every usable table. */
#include "../context.h"
#include "check.h"
#include <math.h>

/* ---- products ------------------------------------------------------------------------------------------------------ */
typedef struct problem {
    int64_t m, n, k, lda, ldc;
    lw_format format;
    lw_weight *w;
    guarded a, bias, residual, c;
    float *wide, *expected;      /* weights widened; every element as one chain of fmaf */
} problem;

static problem make_problem(lw_ctx *ctx, lw_format format, int64_t m, int64_t n, int64_t k, int64_t pad)
{
    problem p = {.m = m, .n = n, .k = k, .lda = k + pad, .ldc = n + pad, .format = format};
    size_t a_count = m ? (size_t)((m - 1) * p.lda + k) : 0, c_count = m ? (size_t)((m - 1) * p.ldc + n) : 0;
    p.a = guard(a_count * 4, 1);
    p.c = guard(c_count * 4, 1);
    p.residual = guard(c_count * 4, 1);
    p.bias = guard((size_t)n * 4, 1);
    float *a = p.a.data, *residual = p.residual.data, *bias = p.bias.data;
    for (size_t i = 0; i < a_count; i++) a[i] = (int64_t)i % p.lda < k ? uniform() : NAN;
    for (size_t i = 0; i < c_count; i++) residual[i] = (int64_t)i % p.ldc < n ? uniform() : NAN;
    for (int64_t i = 0; i < n; i++) bias[i] = uniform();
    p.wide = malloc((size_t)(n * k + 1) * 4);
    for (int64_t i = 0; i < n * k; i++) p.wide[i] = uniform();
    lw_source s = {p.wide, LW_F32, n, k * 4, 4};
    lw_weight_create(format, n, k, &p.w);
    CHECK(lw_weight_pack(ctx, p.w, 0, 1, &s) == LW_OK, "pack");
    lw_weight_unpack(p.w, 0, n, p.wide);
    p.expected = malloc((size_t)(m * n + 1) * 4);
    int far = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            double exact = 0, size = 0;
            for (int64_t q = 0; q < k; q++) {
                float x = a[i * p.lda + q], y = p.wide[j * k + q];
                sum = fmaf(x, y, sum);
                exact += (double)x * y;
                size += fabs((double)x * y);
            }
            far += fabs(sum - exact) > fmin((double)(k + 2), 32) * 0x1p-24 * size;
            p.expected[i * n + j] = sum;
        }
    CHECK(far == 0, "the chain itself: %d far from float64", far);
    return p;
}

static void free_problem(problem *p)
{
    unguard(p->a), unguard(p->bias), unguard(p->residual), unguard(p->c);
    free(p->wide);
    free(p->expected);
    lw_weight_free(p->w);
}

/* mode: 1 bias, 2 residual, 4 residual in c. Returns elements that are not bit for bit as expected, or poison that is lost. */
static int64_t run_problem(lw_ctx *ctx, problem *p, int mode, int64_t row0, int64_t rows)
{
    float *c = p->c.data;
    const float *bias = p->bias.data, *residual = p->residual.data;
    size_t c_count = p->m ? (size_t)((p->m - 1) * p->ldc + p->n) : 0;
    for (size_t i = 0; i < c_count; i++) c[i] = mode & 4 ? residual[i] : from_word(0x7fc0dead);
    lw_gemm_args args = {.a = (float *)p->a.data + row0 * p->lda, .lda = p->lda, .w = p->w, .c = c + row0 * p->ldc,
                         .ldc = p->ldc, .bias = mode & 1 ? bias : NULL, .ldr = p->ldc, .m = rows, .exact = 1};
    if (mode & 2) args.residual = residual + row0 * p->ldc;
    if (mode & 4) args.residual = args.c;
    if (lw_gemm(ctx, &args) != LW_OK) return -1;
    int64_t wrong = 0;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->ldc && i * p->ldc + j < (int64_t)c_count; j++) {
            uint32_t untouched = mode & 4 ? word(residual[i * p->ldc + j]) : 0x7fc0dead;
            float e = j < p->n ? p->expected[i * p->n + j] : 0;
            if (mode & 1 && j < p->n) e += bias[j];
            if (mode & 6) e += residual[i * p->ldc + j];
            int inside = j < p->n && i >= row0 && i < row0 + rows;
            wrong += word(c[i * p->ldc + j]) != (inside ? word(e) : untouched);
        }
    return wrong;
}

static void check_shape(lw_ctx **contexts, int n_contexts, lw_format format, int64_t m, int64_t n, int64_t k, int64_t pad)
{
    problem p = make_problem(contexts[0], format, m, n, k, pad);
    for (int i = 0; i < n_contexts; i++) {
        static const int modes[] = {0, 1, 3, 5};
        for (int mode = 0; mode < 4; mode++) {
            int64_t wrong = run_problem(contexts[i], &p, modes[mode], 0, m);
            CHECK(wrong == 0, "%s, %d threads, format %d, mode %d: %d x %d x %d: %d wrong", lw_ctx_isa(contexts[i]),
                  lw_ctx_threads(contexts[i]), format, modes[mode], (int)m, (int)n, (int)k, (int)wrong);
        }
        if (m > 1 && m < 20) {
            int64_t wrong = run_problem(contexts[i], &p, 3, m / 2, 1);
            CHECK(wrong == 0, "%s: one row alone", lw_ctx_isa(contexts[i]));
        }
    }
    free_problem(&p);
}

/* The bf16 dot product: the same bits for any rows, threads and plan, and near float64 over the rounded operands. */
static void check_dot(lw_ctx **contexts, int n_contexts, int64_t m, int64_t n, int64_t k)
{
    problem p = make_problem(contexts[0], LW_P16, m, n, k, 1);
    float *first = malloc((size_t)(m * p.ldc) * 4), *c = p.c.data;
    const char *isa = "";
    for (int i = 0; i < n_contexts; i++) {
        if (!lw_ctx_has_dot(contexts[i])) continue;
        lw_gemm_args args = {.a = p.a.data, .lda = p.lda, .w = p.w, .c = c, .ldc = p.ldc, .m = m};
        CHECK(lw_gemm(contexts[i], &args) == LW_OK, "dot");
        int64_t far = 0, other = 0;
        for (int64_t r = 0; r < m; r++)
            for (int64_t j = 0; j < n; j++)
                far += !(fabsf(c[r * p.ldc + j] - p.expected[r * n + j]) <= 0x1p-8f * (float)k);
        if (isa != lw_ctx_isa(contexts[i])) {
            isa = lw_ctx_isa(contexts[i]);
            for (int64_t r = 0; r < m; r++) memcpy(first + r * p.ldc, c + r * p.ldc, (size_t)n * 4);
            for (int64_t r = 0; r < m; r++) {
                args.m = 1, args.a = (float *)p.a.data + r * p.lda, args.c = c + r * p.ldc;
                CHECK(lw_gemm(contexts[i], &args) == LW_OK, "dot, one row");
            }
        }
        for (int64_t r = 0; r < m; r++) other += memcmp(first + r * p.ldc, c + r * p.ldc, (size_t)n * 4) != 0;
        CHECK(far == 0 && other == 0, "%s, %d threads: %d x %d x %d: %d far, %d rows differ", isa, lw_ctx_threads(contexts[i]),
              (int)m, (int)n, (int)k, (int)far, (int)other);
    }
    free(first);
    free_problem(&p);
}

static void check_arguments(lw_ctx *ctx)
{
    problem p = make_problem(ctx, LW_P32, 3, 5, 7, 0);
    lw_gemm_args good = {.a = p.a.data, .lda = 7, .w = p.w, .c = p.c.data, .ldc = 5, .m = 3}, bad = good;
    CHECK(lw_gemm(ctx, &good) == LW_OK, "good");
#define REFUSED(...) CHECK((bad = good, __VA_ARGS__, lw_gemm(ctx, &bad)) == LW_E_ARGUMENT, "%s", #__VA_ARGS__)
    REFUSED(bad.lda = 6);
    REFUSED(bad.ldc = 4);
    REFUSED(bad.m = -1);
    REFUSED(bad.a = NULL);
    REFUSED(bad.c = NULL);
    REFUSED(bad.residual = bad.c, bad.ldr = 6);
    free_problem(&p);
    lw_ctx *none;
    CHECK(lw_ctx_create(&(lw_options){"no_such", 1}, &none) == LW_E_ISA && !none, "unknown table");
    CHECK(lw_ctx_create(&(lw_options){NULL, -1}, &none) == LW_E_ARGUMENT, "threads");
}

static void test_gemm(void)
{
    lw_ctx *contexts[32];
    int count = 0;
    static const int threads[] = {1, 2, 3, 8};
    for (int i = 0; i < lw_isa_count(); i++) {
        if (lw_isa_missing(i) || !strncmp(lw_isa_name(i), "broken", 6)) continue;
        for (int t = 0; t < (count ? 2 : 4) && count < 32; t++) {
            lw_options options = {lw_isa_name(i), threads[t]};
            CHECK(lw_ctx_create(&options, &contexts[count]) == LW_OK, "context %s", options.isa);
            contexts[count]->l1d = 8 << 10;   /* small caches: every loop gets several turns on small shapes */
            contexts[count]->l2 = t % 2 ? 32 << 10 : 4 << 20;
            count++;
        }
    }
    check_arguments(contexts[0]);
    for (int format = 0; format < 2; format++) {
        for (int m = 0; m <= 64; m++) check_shape(contexts, count, format, m, 16 * (m % 3) + 1 + m % 16, 1 + (m * 37) % 300, m % 3);
        static const int shapes[][3] = {{3, 0, 5}, {3, 5, 0}, {1, 1, 1}, {5, 16, 16}, {7, 200, 1024}, {70, 200, 1023}, {130, 150, 513},
                                        {9, 300, 2048}, {12, 128, 1024}, {257, 129, 130}};
        for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_shape(contexts, count, format, shapes[i][0], shapes[i][1], shapes[i][2], i == 6 ? 5 : 0);
    }
    static const int dots[][3] = {{1, 17, 5}, {5, 33, 64}, {13, 70, 301}, {40, 130, 1023}, {200, 64, 700}};
    for (int i = 0; i < 5; i++) check_dot(contexts, count, dots[i][0], dots[i][1], dots[i][2]);
    for (int i = 0; i < count; i++) lw_ctx_free(contexts[i]);
}

int main(void)
{
    test_gemm();
    return report();
}
