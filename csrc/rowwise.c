/* rowwise.c - norms, softmax, activations and rotary embedding over the rows of plain arrays. */
#include "rowwise.h"

enum { PIECE = 8192 };   /* elements: about a microsecond of work, a few barriers long */

typedef struct rows_job {
    lw_rows_fn fn;
    void *arg;
    int64_t rows, tasks;
} rows_job;

static void rows_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const rows_job *j = arg;
    j->fn(j->arg, j->rows * task / j->tasks, j->rows * (task + 1) / j->tasks);
}

lw_status lw_rows_run(lw_ctx *ctx, int64_t rows, int64_t cost, lw_rows_fn fn, void *arg) {
    if (rows <= 0) return LW_OK;
    int64_t pieces = lw_min(lw_min(rows, 4 * lw_pool_threads(ctx->pool)), rows * lw_max(cost, 1) / PIECE);
    rows_job job = {fn, arg, rows, lw_max(pieces, 1)};
    return lw_pool_run(ctx->pool, job.tasks, rows_task, &job);
}

typedef struct row_job {
    const lw_kernels *kernels;
    lw_act act;
    int64_t n, ldx, ldy;
    const float *x, *w, *b;
    float eps, *y;
    const lw_rope_args *rope;
} row_job;

static void rms_rows(void *arg, int64_t first, int64_t last) {
    const row_job *j = arg;
    for (int64_t i = first; i < last; i++)
        j->kernels->rms_norm((size_t)j->n, j->x + i * j->ldx, j->w, j->eps, j->y + i * j->ldy);
}

static void layer_rows(void *arg, int64_t first, int64_t last) {
    const row_job *j = arg;
    for (int64_t i = first; i < last; i++)
        j->kernels->layer_norm((size_t)j->n, j->x + i * j->ldx, j->w, j->b, j->eps, j->y + i * j->ldy);
}

static void softmax_rows(void *arg, int64_t first, int64_t last) {
    const row_job *j = arg;
    for (int64_t i = first; i < last; i++)
        j->kernels->softmax((size_t)j->n, j->x + i * j->ldx, j->y + i * j->ldy);
}

static lw_status run_rows(lw_ctx *ctx, int64_t rows, row_job *j, lw_rows_fn fn) {
    if (rows < 0 || j->n < 0 || (rows > 1 && (j->ldx < j->n || j->ldy < j->n))) return LW_E_ARGUMENT;
    if (!j->n) return LW_OK;
    j->kernels = ctx->kernels;
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_rows_run(ctx, rows, j->n, fn, j);
    lw_fp_leave(fp);
    return status;
}

lw_status lw_rms_norm(lw_ctx *ctx, int64_t rows, int64_t n, const float *x, int64_t ldx, const float *w, float eps,
                      float *y, int64_t ldy) {
    row_job j = {.n = n, .x = x, .ldx = ldx, .w = w, .eps = eps, .y = y, .ldy = ldy};
    return run_rows(ctx, rows, &j, rms_rows);
}

lw_status lw_layer_norm(lw_ctx *ctx, int64_t rows, int64_t n, const float *x, int64_t ldx, const float *w,
                        const float *b, float eps, float *y, int64_t ldy) {
    row_job j = {.n = n, .x = x, .ldx = ldx, .w = w, .b = b, .eps = eps, .y = y, .ldy = ldy};
    return run_rows(ctx, rows, &j, layer_rows);
}

lw_status lw_softmax(lw_ctx *ctx, int64_t rows, int64_t n, const float *x, int64_t ldx, float *y, int64_t ldy) {
    row_job j = {.n = n, .x = x, .ldx = ldx, .y = y, .ldy = ldy};
    return run_rows(ctx, rows, &j, softmax_rows);
}

/* Element by element: a "row" is a run of 1024 values. */
enum { RUN = 1024 };

static void act_runs(void *arg, int64_t first, int64_t last) {
    const row_job *j = arg;
    int64_t from = first * RUN, to = lw_min(last * RUN, j->n);
    if (j->w) j->kernels->mul_activation(j->act, (size_t)(to - from), j->x + from, j->w + from, j->y + from);
    else j->kernels->activation(j->act, (size_t)(to - from), j->x + from, j->y + from);
}

static lw_status run_act(lw_ctx *ctx, row_job *j) {
    if (j->n < 0 || (unsigned)j->act > LW_ACT_EXP) return LW_E_ARGUMENT;
    j->kernels = ctx->kernels;
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_rows_run(ctx, lw_ceil_div(j->n, RUN), RUN, act_runs, j);
    lw_fp_leave(fp);
    return status;
}

lw_status lw_activation(lw_ctx *ctx, lw_act act, int64_t n, const float *x, float *y) {
    row_job j = {.act = act, .n = n, .x = x, .y = y};
    return run_act(ctx, &j);
}

lw_status lw_mul_activation(lw_ctx *ctx, lw_act act, int64_t n, const float *gate, const float *up, float *y) {
    row_job j = {.act = act, .n = n, .x = gate, .w = up, .y = y};
    return n && !up ? LW_E_ARGUMENT : run_act(ctx, &j);
}

static void rope_rows(void *arg, int64_t first, int64_t last) {
    const row_job *j = arg;
    const lw_rope_args *r = j->rope;
    for (int64_t i = first; i < last; i++) {
        const float *angles = j->w + i * 2 * r->pairs;
        j->kernels->rope(r->x + i * r->ldx, r->heads, r->head_dim, r->pairs, r->interleaved, angles,
                         angles + r->pairs);
    }
}

static void angle_rows(void *arg, int64_t first, int64_t last) {
    const row_job *j = arg;
    const lw_rope_args *r = j->rope;
    for (int64_t i = first; i < last; i++) {
        float *angles = j->y + i * 2 * r->pairs;
        lw_angles(r->positions[i], r->pairs, r->inv_freq, r->factor, angles, angles + r->pairs);
    }
}

lw_status lw_rope(lw_ctx *ctx, const lw_rope_args *r) {
    if (r->tokens < 0 || r->heads < 0 || r->head_dim < 1 || r->pairs < 0 || 2 * (int64_t)r->pairs > r->head_dim ||
        (r->tokens > 1 && r->ldx < (int64_t)r->heads * r->head_dim) || r->tokens > INT64_C(1) << 32)
        return LW_E_ARGUMENT;
    if (!r->pairs || !r->tokens) return LW_OK;
    LW_TRY(lw_block_reserve(&ctx->angles, (size_t)r->tokens * (size_t)r->pairs * 2 * sizeof(float)));
    row_job j = {.kernels = ctx->kernels, .rope = r, .w = ctx->angles.data, .y = ctx->angles.data};
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_rows_run(ctx, r->tokens, r->pairs * 16, angle_rows, &j);
    if (status == LW_OK) status = lw_rows_run(ctx, r->tokens, (int64_t)r->heads * r->pairs * 2, rope_rows, &j);
    lw_fp_leave(fp);
    return status;
}
