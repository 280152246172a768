/* test_runtime.c - pool and weights in plain C, so that sanitizers can watch. `test_runtime [pool|weight|order]` */
#include "../context.h"
#include "check.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

/* ---- pool ---------------------------------------------------------------------------------------------------------- */
typedef struct counts { _Atomic int done[1000]; _Atomic int workers; int threads; long plain[1000]; } counts;
static void count(void *arg, int64_t task, int worker)
{
    counts *c = arg;
    atomic_fetch_add(&c->done[task], 1);
    c->plain[task] += worker + 1;    /* unsynchronised on purpose: the pool must order runs */
    if (worker < 0 || worker >= c->threads) atomic_fetch_add(&c->workers, 1);
}

static int runs_all(lw_pool *pool, int tasks, counts *c)
{
    memset(c->done, 0, sizeof c->done);
    c->threads = lw_pool_threads(pool);
    if (lw_pool_run(pool, tasks, count, c) != LW_OK) return 0;
    for (int i = 0; i < 1000; i++)
        if (c->done[i] != (i < tasks)) return 0;
    return c->workers == 0;
}

static int no(void *arg) { (void)arg; return 0; }
static int yes(void *arg) { ++*(int *)arg; return 1; }
static void nap(void *arg, int64_t task, int worker)
{
    (void)task, (void)worker;
    nanosleep(&(struct timespec){0, 1000000}, NULL);
    atomic_fetch_add((_Atomic int *)arg, 1);
}
typedef struct nest { lw_pool **inner; counts *c; _Atomic int bad; } nest;
static void nested(void *arg, int64_t task, int worker)
{
    nest *n = arg;
    (void)worker;
    if (!runs_all(n->inner[task], 100, &n->c[task])) atomic_fetch_add(&n->bad, 1);
}

static void test_pool_poll(lw_pool *pool, int threads)
{
    _Atomic int done = 0;
    int asked = 0;
    lw_pool_set_poll(pool, yes, &asked);
    int tasks = 200 * threads;     /* of a millisecond: 0.2 seconds, asked after 0.05 */
    lw_status status = lw_pool_run(pool, tasks, nap, &done);
    CHECK(status == LW_E_CANCELLED && asked >= 1 && done < tasks, "%d threads: %d done", threads, done);
    CHECK(done >= 10, "%d threads: asked too early, after %d", threads, done);
    done = 0;
    lw_pool_set_poll(pool, no, NULL);
    status = lw_pool_run(pool, 100, nap, &done);
    CHECK(status == LW_OK && done == 100, "%d threads: %d done", threads, done);
    lw_pool_set_poll(pool, NULL, NULL);
}

static void test_pool_fork(lw_pool *pool, counts *c)
{
    pid_t child = fork();
    if (child == 0) {
        int good = 1;
        alarm(20);
        for (int i = 0; i < 20; i++) good &= runs_all(pool, 100 + i, c);
        lw_pool_free(pool);
        _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "forked child: %d", status);
    child = fork();      /* one that only frees */
    if (child == 0) {
        alarm(20);
        lw_pool_free(pool);
        _exit(0);
    }
    waitpid(child, &status, 0);
    CHECK(status == 0, "freeing child: %d", status);
}

static void test_pool(int with_fork)
{
    static const int sizes[] = {0, 1, 2, 7, 1000}, threads[] = {1, 2, 3, 4, 8, 40};
    static counts c, inner_counts[4];
    for (int i = 0; i < 6; i++) {
        lw_pool *pool;
        CHECK(lw_pool_create(threads[i], &pool) == LW_OK, "create");
        CHECK(lw_pool_threads(pool) == threads[i], "threads");
        for (int repeat = 0; repeat < 200; repeat++) {
            for (int s = 0; s < 5; s++) CHECK(runs_all(pool, sizes[s], &c), "%d threads, %d tasks", threads[i], sizes[s]);
            if (repeat % 50 == 0) nanosleep(&(struct timespec){0, 300000}, NULL);   /* let them fall asleep */
        }
        if (with_fork) test_pool_fork(pool, &c);
        CHECK(runs_all(pool, 1000, &c), "%d threads after a fork", threads[i]);
        test_pool_poll(pool, threads[i]);
        CHECK(runs_all(pool, 1000, &c), "%d threads after a cancellation", threads[i]);
        lw_pool_free(pool);
    }
    lw_pool *outer, *inner[4];
    lw_pool_create(2, &outer);
    for (int i = 0; i < 4; i++) lw_pool_create(1 + i, &inner[i]);
    nest n = {inner, inner_counts, 0};
    for (int i = 0; i < 20; i++) CHECK(lw_pool_run(outer, 4, nested, &n) == LW_OK && n.bad == 0, "nested");
    for (int i = 0; i < 4; i++) lw_pool_free(inner[i]);
    lw_pool_free(outer);
    CHECK(lw_pool_create(0, &outer) == LW_E_ARGUMENT, "no threads");
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */
static float naive_half(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    float f = e == 0 ? ldexpf((float)m, -24) : e < 31 ? ldexpf((float)(m + 1024), e - 25) : m ? NAN : INFINITY;
    return h & 0x8000 ? -f : f;
}
static uint16_t naive_bf16(float f)
{
    uint32_t u = word(f);
    if (isnan(f)) return (uint16_t)(u >> 16 | 0x40);
    if (isinf(f)) return (uint16_t)(u >> 16);
    uint32_t down = u & 0xffff0000, rest = u & 0xffff;
    return (uint16_t)((down >> 16) + (rest > 0x8000 || (rest == 0x8000 && (down >> 16 & 1))));
}
/* What the packed weight must unpack to. */
static uint32_t expected_word(lw_format format, lw_type type, const unsigned char *from)
{
    uint32_t u = 0;
    memcpy(&u, from, lw_type_size(type));
    float f = type == LW_F32 ? from_word(u) : type == LW_F16 ? naive_half((uint16_t)u) : from_word(u << 16);
    if (type == LW_BF16) return u << 16;
    if (format == LW_P16) return (uint32_t)naive_bf16(f) << 16;
    return word(f);
}

static void check_pack(lw_ctx *ctx, lw_format format, lw_type type, int64_t n, int64_t k, int64_t rows, int64_t row0,
                       int step, int layout)
{
    size_t size = lw_type_size(type), count = (size_t)(rows * k), shift = layout == 4 ? 1 : 0;
    guarded source = guard(count * size + shift, 1);
    unsigned char *data = (unsigned char *)source.data + shift;
    for (size_t i = 0; i < count * size + shift; i++) ((unsigned char *)source.data)[i] = (unsigned char)bits();
    lw_source s = {data, type, rows, (int64_t)size * k, (int64_t)size};
    if (layout == 1) s.row_stride = (int64_t)size, s.col_stride = (int64_t)size * rows;
    if (layout == 2 && rows && k) s.data = data + (count - 1) * size, s.row_stride *= -1, s.col_stride *= -1;
    if (layout == 3 && rows) s.data = data + (size_t)(rows - 1) * k * size, s.row_stride *= -1;
    lw_weight *w;
    CHECK(lw_weight_create(format, n, k, &w) == LW_OK, "create");
    lw_status status = lw_weight_pack(ctx, w, row0, step, &s);
    CHECK(status == LW_OK, "pack: %s", lw_status_text(status));
    float *out = malloc((size_t)(n * k + 1) * 4);
    unsigned char *written = calloc((size_t)n + 1, 1);
    CHECK(lw_weight_unpack(w, 0, n, out) == LW_OK, "unpack");
    int wrong = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t o = row0 + i / 16 * 16 * step + i % 16;
        written[o] = 1;
        for (int64_t j = 0; j < k; j++) {
            const unsigned char *from = (const unsigned char *)s.data + i * s.row_stride + j * s.col_stride;
            uint32_t e = expected_word(format, type, from), got = word(out[o * k + j]);
            int both_nan = (e & 0x7fffffff) > 0x7f800000 && (got & 0x7fffffff) > 0x7f800000;
            wrong += got != e && !(both_nan && type == LW_F16);
        }
    }
    for (int64_t o = 0; o < n; o++)
        for (int64_t j = 0; j < k && !written[o]; j++) wrong += word(out[o * k + j]) != 0;
    CHECK(wrong == 0, "format %d type %d n %d k %d rows %d row0 %d step %d layout %d: %d wrong", format, type, (int)n, (int)k,
          (int)rows, (int)row0, step, layout, wrong);
    free(out);
    free(written);
    lw_weight_free(w);
    unguard(source);
}

static void test_weight(lw_ctx *ctx)
{
    static const int shapes[][5] = {  /* n, k, rows, row0, step */
        {1, 1, 1, 0, 1}, {16, 2, 16, 0, 1}, {17, 3, 17, 0, 1}, {33, 129, 20, 5, 1}, {48, 257, 48, 0, 1}, {96, 255, 48, 0, 2},
        {96, 515, 48, 16, 2}, {100, 128, 40, 3, 2}, {80, 256, 33, 0, 2}, {160, 31, 48, 32, 3}, {20, 700, 0, 20, 1}, {5, 0, 5, 0, 1}};
    for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int format = 0; format < 2; format++)
            for (int type = 0; type < 3; type++)
                for (int layout = 0; layout < 5; layout++)
                    check_pack(ctx, format, type, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], shapes[i][4], layout);
    lw_weight *w;
    CHECK(lw_weight_create(LW_P32, -1, 4, &w) == LW_E_ARGUMENT, "negative");
    CHECK(lw_weight_create(LW_P32, INT64_MAX, INT64_MAX, &w) == LW_E_ARGUMENT, "overflow");
    CHECK(lw_weight_create(LW_P32, INT32_MAX - 64, INT32_MAX - 64, &w) != LW_OK, "too large");
    CHECK(lw_weight_create((lw_format)7, 1, 1, &w) == LW_E_ARGUMENT, "format");
    CHECK(lw_weight_create(LW_P32, 20, 4, &w) == LW_OK && lw_weight_n(w) == 20 && lw_weight_k(w) == 4, "create");
    CHECK(lw_weight_bytes(w) == 2 * 4 * 64, "bytes");
    float data[80] = {0};
    lw_source s = {data, LW_F32, 20, 16, 4};
    CHECK(lw_weight_pack(ctx, w, 1, 1, &s) == LW_E_ARGUMENT, "past the end");
    CHECK(lw_weight_pack(ctx, w, 0, 2, &s) == LW_E_ARGUMENT, "past the end, interleaved");
    CHECK(lw_weight_pack(ctx, w, -1, 1, &s) == LW_E_ARGUMENT, "negative row");
    s.type = (lw_type)9;
    CHECK(lw_weight_pack(ctx, w, 0, 1, &s) == LW_E_ARGUMENT, "type");
    CHECK(lw_weight_unpack(w, 19, 2, data) == LW_E_ARGUMENT, "unpack past the end");
    lw_weight_free(w);
    lw_weight_free(NULL);
}

/* ---- the order of inputs ------------------------------------------------------------------------------------------- */
enum { ORDER_N = 40, ORDER_K = 288, ORDER_ROWS = 100, ORDER_BYTES = ORDER_K / 32 * 18 };

static void test_order(lw_ctx *ctx)
{
    static unsigned char blocks[ORDER_N][ORDER_BYTES];
    static float a[ORDER_ROWS][ORDER_K], gathered[ORDER_ROWS][ORDER_K], c[2][ORDER_ROWS][ORDER_N], out[2][ORDER_N][ORDER_K];
    int32_t order[ORDER_K], wrong[ORDER_K];
    for (int i = 0; i < ORDER_K; i++) order[i] = i;
    for (int i = ORDER_K - 1; i > 0; i--) {
        int j = (int)(bits() % (unsigned)(i + 1)), held = order[i];
        order[i] = order[j], order[j] = held;
    }
    for (int o = 0; o < ORDER_N; o++)
        for (int i = 0; i < ORDER_BYTES; i++) blocks[o][i] = i % 18 == 1 ? 0x3c : (unsigned char)bits();
    for (int r = 0; r < ORDER_ROWS; r++) {
        for (int k = 0; k < ORDER_K; k++) a[r][k] = uniform();
        for (int k = 0; k < ORDER_K; k++) gathered[r][k] = a[r][order[k]];
    }
    lw_weight *w[2], *floats;
    lw_source s = {blocks, LW_BLOCKS, ORDER_N, ORDER_BYTES, 1};
    for (int i = 0; i < 2; i++) {
        CHECK(lw_weight_create(LW_Q4_0, ORDER_N, ORDER_K, &w[i]) == LW_OK, "create");
        CHECK(lw_weight_pack(ctx, w[i], 0, 1, &s) == LW_OK, "pack");
    }
    for (int i = 0; i < 4; i++) {
        memcpy(wrong, order, sizeof order);
        wrong[i * 90] = i == 0 ? -1 : i == 1 ? ORDER_K : i == 2 ? INT32_MIN : order[i * 90 - 1];
        CHECK(lw_weight_set_order(w[0], wrong) == LW_E_ARGUMENT, "wrong order %d", i);
    }
    CHECK(lw_weight_set_order(w[0], NULL) == LW_E_ARGUMENT, "no order");
    CHECK(lw_weight_set_order(w[0], order) == LW_OK, "set");
    CHECK(lw_weight_set_order(w[0], order) == LW_E_ARGUMENT, "set twice");
    CHECK(lw_weight_bytes(w[0]) == lw_weight_bytes(w[1]) + sizeof order, "bytes");
    CHECK(lw_weight_create(LW_P32, 1, ORDER_K, &floats) == LW_OK, "create");
    CHECK(lw_weight_set_order(floats, order) == LW_E_ARGUMENT, "of floats");
    for (int rows = 1; rows <= ORDER_ROWS; rows += rows < 9 ? 1 : 13) {
        for (int i = 0; i < 2; i++) {
            lw_gemm_args g = {.a = i ? gathered[0] : a[0], .lda = ORDER_K, .w = w[i], .c = c[i][0], .ldc = ORDER_N, .m = rows};
            CHECK(lw_gemm(ctx, &g) == LW_OK, "product");
        }
        CHECK(!memcmp(c[0], c[1], sizeof c[0][0] * (size_t)rows), "%d rows", rows);
    }
    for (int i = 0; i < 2; i++) CHECK(lw_weight_unpack(w[i], 0, ORDER_N, out[i][0]) == LW_OK, "unpack");
    int differ = 0;
    for (int o = 0; o < ORDER_N; o++)
        for (int k = 0; k < ORDER_K; k++) differ += word(out[0][o][order[k]]) != word(out[1][o][k]);
    CHECK(!differ, "unpacked: %d differ", differ);
    for (int i = 0; i < 2; i++) lw_weight_free(w[i]);
    lw_weight_free(floats);
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : "";
    lw_ctx *ctx;
    if (lw_ctx_create(&(lw_options){NULL, 2}, &ctx) != LW_OK) return 2;
    if (!*only || !strcmp(only, "pool")) test_pool(!*only);   /* alone: without forks, which the thread sanitizer does not know */
    if (!*only || !strcmp(only, "weight")) test_weight(ctx);
    if (!*only || !strcmp(only, "order")) test_order(ctx);
    lw_ctx_free(ctx);
    return report();
}
