/* measure.c - this machine's own limits, with the instructions of the context's table: what every figure is compared with. */
#include "context.h"
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

typedef struct measure_job {
    double (*peak)(long);
    long iterations;
    const lw_kernels *kernels;
    const unsigned char *data;
    size_t share;
    atomic_long arrived, expected;   /* threads that are there, and that must be before anybody goes on */
    double work[256];
    uint64_t sum[256];
} measure_job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Every task waits for all: the pool would else give all of them to the thread that comes first, and one core would be measured. */
static void meet(measure_job *j) {
    atomic_fetch_add(&j->arrived, 1);
    double begin = 0.0;
    for (int spins = 0; atomic_load_explicit(&j->arrived, memory_order_acquire) < j->expected; spins++) {
        if (spins < 10000) continue;
        sched_yield();
        if (begin == 0.0) begin = now();
        if (now() - begin > 0.1) return;   /* the call was cancelled, or the machine has no core to spare */
    }
}

static void peak_task(void *arg, int64_t task, int worker) {
    (void)worker;
    measure_job *j = arg;
    meet(j);
    j->work[task] = j->peak(j->iterations);
}

static void read_task(void *arg, int64_t task, int worker) {
    (void)worker;
    measure_job *j = arg;
    meet(j);
    j->sum[task] = j->kernels->read(j->data + (size_t)task * j->share, j->share);
    j->work[task] = (double)j->share;
}

static void meet_task(void *arg, int64_t task, int worker) {
    (void)task, (void)worker;
    meet(arg);
}

static lw_status timed(lw_ctx *ctx, measure_job *j, lw_task fn, double *work, double *seconds) {
    int threads = lw_pool_threads(ctx->pool);
    j->arrived = 0;
    j->expected = threads;
    double begin = now();
    LW_TRY(lw_pool_run(ctx->pool, threads, fn, j));
    *seconds = now() - begin;
    *work = 0.0;
    for (int i = 0; i < threads; i++) *work += j->work[i];
    return LW_OK;
}

/* Bursts of about 5 ms: long beside the barrier, short beside what else runs on the machine. */
static lw_status measure_peak(lw_ctx *ctx, measure_job *j, double *work, double *seconds) {
    j->iterations = 1000;
    do {
        j->iterations *= 2;
        LW_TRY(timed(ctx, j, peak_task, work, seconds));
    } while (*seconds < 0.005 && j->iterations < 1L << 40);
    return LW_OK;
}

static lw_status measure_read(lw_ctx *ctx, measure_job *j, size_t bytes, double *work, double *seconds) {
    int threads = lw_pool_threads(ctx->pool);
    void *data;
    j->share = bytes / (size_t)threads / 4096 * 4096;
    if (!j->share) return LW_E_ARGUMENT;
    size_t total = j->share * (size_t)threads;
    LW_TRY(lw_memory_alloc(total, &data));
    memset(data, 1, total);
    j->data = data;
    lw_status status = LW_OK;
    *seconds = 1e30;
    int passes = (int)lw_max(3, (int64_t)(((size_t)64 << 20) / total));
    for (int i = 0; status == LW_OK && i < passes; i++) {
        double w, s;
        status = timed(ctx, j, read_task, &w, &s);
        if (status == LW_OK && s < *seconds) *seconds = s, *work = w;
    }
    lw_memory_free(data, total);
    return status;
}

lw_status lw_measure(lw_ctx *ctx, lw_peak what, size_t bytes, double *work, double *seconds) {
    measure_job j;
    memset(&j, 0, sizeof j);
    j.kernels = ctx->kernels;
    *work = *seconds = 0.0;
    if (lw_pool_threads(ctx->pool) > 256) return LW_E_ARGUMENT;
    lw_fp fp = lw_fp_enter();
    lw_status status = LW_E_ARGUMENT;
    switch (what) {
    case LW_PEAK_F32: j.peak = ctx->kernels->peak_f32; break;
    case LW_PEAK_BF16: j.peak = ctx->kernels->peak_bf16; break;
    case LW_PEAK_INT8: j.peak = ctx->kernels->peak_int8; break;
    case LW_PEAK_READ: status = measure_read(ctx, &j, bytes, work, seconds); break;
    case LW_PEAK_BARRIER: {
        double begin = now();
        int rounds = 2000, threads = lw_pool_threads(ctx->pool);
        status = LW_OK;
        for (int i = 0; status == LW_OK && i < rounds; i++) {
            j.arrived = 0;
            j.expected = threads;
            status = lw_pool_run(ctx->pool, threads, meet_task, &j);
        }
        *work = rounds, *seconds = now() - begin;
        break;
    }
    }
    if (j.peak) status = measure_peak(ctx, &j, work, seconds);
    lw_fp_leave(fp);
    return status;
}
