/* attention.c - fused attention over the paged cache, in fixed segments of LW_SEGMENT positions.
 *
 * For every row: scores of one segment, their softmax with the segment's own maximum, the weighted sum of the values;
 * then the segment is merged into the running (o, max, sum) - the online softmax of Milakov and Gimelshein (2018), as
 * FlashAttention uses it (Dao et al. 2022), so the score matrix never exists. Segments begin at multiples of LW_SEGMENT
 * and are merged in index order. Hence a row's bits depend on nothing but its own keys: not on the other rows, nor on how
 * the prompt was cut, nor on who computed which segment.
 *
 * The query heads that share a kv head are rows of one product: G heads x tokens. Both products use the GEMM's tiles; on
 * tile registers (AMX) queries and weights are laid out as its activations, and blocks of 32 positions begin at multiples of 32. */
#include "attention.h"
#include <math.h>
#include <string.h>

enum { BLOCK_GROUPS = 8 };       /* row groups per task: a segment of keys is read from L2 by that many tiles */

lw_span lw_attend_span(const lw_attend_block *b, int row) {
    const lw_attention_shape *shape = &b->j->a->shape;
    int64_t position = b->j->s->first_position[b->seq] + (b->first + row) / b->j->group;
    lw_span r = {0, b->length};
    if (shape->causal) r.hi = lw_min(r.hi, position + 1);
    if (shape->window_right >= 0) r.hi = lw_min(r.hi, position + shape->window_right + 1);
    if (shape->window_left >= 0) r.lo = lw_max(0, position - shape->window_left);
    return r;
}

static void place(lw_attend_block *b, int worker) {
    const lw_attend_job *j = b->j;
    unsigned char *at = j->scratch + (size_t)worker * j->worker_bytes;
    size_t rows = (size_t)j->block_rows, tile = (size_t)j->tile_rows;
    b->q = (float *)at, at += rows * j->d_pad * 4;
    b->o = (float *)at, at += rows * j->d_pad * 4;
    b->o2 = (float *)at, at += tile * j->d_pad * 4;
    b->score = (float *)at, at += tile * SCORE_LD * 4;
    b->p16 = (uint16_t *)at, at += tile * SCORE_LD * 2;
    b->q16 = (uint16_t *)at, at += rows * j->q_width * 2;
    b->max = (float *)at, at += rows * 4;
    b->sum = (float *)at;
}

static size_t worker_bytes(const lw_attend_job *j) {
    size_t rows = (size_t)j->block_rows, tile = (size_t)j->tile_rows;
    size_t bytes = rows * (j->d_pad * 8 + j->q_width * 2 + 8) + tile * (j->d_pad * 4 + SCORE_LD * 6);
    return (size_t)lw_round_up((int64_t)bytes, 4096) + 256;   /* + 256: workers do not share cache sets in step */
}

/* Even groups of at most R rows: no row is left alone. */
static int group_rows(const lw_attend_block *b, int row) {
    int r = b->j->tile_rows, left = b->rows - row;
    return (int)lw_ceil_div(left, lw_ceil_div(left, r));
}

static void round_queries(const lw_attend_block *b) {
    const lw_attend_job *j = b->j;
    for (int row = 0, rows; row < b->rows; row += rows) {
        rows = group_rows(b, row);
        for (int i = 0; i < rows; i++)
            lw_attend_round(j, j->d_pad, b->q + (size_t)(row + i) * j->d_pad, i, rows, j->q_width, b->q16 + (size_t)row * j->q_width);
    }
}

/* Finds the rows of a task and gathers their queries. Returns 0 if there are none. */
static int open_block(const lw_attend_job *j, int64_t task, int worker, lw_attend_block *b) {
    memset(b, 0, sizeof *b);
    b->j = j;
    int heads = j->cache->shape.kv_heads;
    for (b->seq = 0;; b->seq++) {
        int64_t rows = (int64_t)(j->s->row_starts[b->seq + 1] - j->s->row_starts[b->seq]) * j->group;
        int64_t blocks = lw_ceil_div(rows, j->block_rows) * heads;
        if (task < blocks) {
            b->head = (int)(task % heads);
            b->first = task / heads * j->block_rows;
            b->rows = (int)lw_min(j->block_rows, rows - b->first);
            break;
        }
        task -= blocks;
    }
    int tokens = j->s->row_starts[b->seq + 1] - j->s->row_starts[b->seq];
    b->length = j->a->kv_length ? j->a->kv_length[b->seq] : (int64_t)j->s->first_position[b->seq] + tokens;
    place(b, worker);
    for (int i = 0; i < b->rows; i++) {
        int64_t row = j->s->row_starts[b->seq] + (b->first + i) / j->group;
        int head = b->head * j->group + (int)((b->first + i) % j->group);
        float *q = b->q + (size_t)i * j->d_pad;
        memcpy(q, j->a->q + row * j->a->ldq + (int64_t)head * j->d, (size_t)j->d * sizeof(float));
        memset(q + j->d, 0, (size_t)(j->d_pad - j->d) * sizeof(float));
        b->max[i] = -INFINITY, b->sum[i] = 0.0f;
    }
    memset(b->o, 0, (size_t)b->rows * j->d_pad * sizeof(float));
    if (j->dot) round_queries(b);
    return b->rows;
}

static void close_row(const lw_attend_block *b, int i, const float *o, float max, float sum) {
    const lw_attend_job *j = b->j;
    int64_t row = j->s->row_starts[b->seq] + (b->first + i) / j->group;
    int head = b->head * j->group + (int)((b->first + i) % j->group);
    float *out = j->a->out + row * j->a->ldo + (int64_t)head * j->d;
    if (sum > 0.0f || sum != sum) j->ctx->kernels->segment_finish(j->d, o, sum, out);
    else memset(out, 0, (size_t)j->d * sizeof(float));
    if (j->a->lse) j->a->lse[row * j->a->shape.heads + head] = max + logf(sum);
}

/* The segments that some row of the block sees. */
static lw_span block_segments(const lw_attend_block *b) {
    lw_span all = {INT64_MAX, 0};
    for (int i = 0; i < b->rows; i++) {
        lw_span r = lw_attend_span(b, i);
        if (r.lo < r.hi) all.lo = lw_min(all.lo, r.lo), all.hi = lw_max(all.hi, r.hi);
    }
    if (all.lo >= all.hi) return (lw_span){0, 0};
    return (lw_span){all.lo / LW_SEGMENT, lw_ceil_div(all.hi, LW_SEGMENT)};
}

static void attend_task(void *arg, int64_t task, int worker) {
    const lw_attend_job *j = arg;
    lw_attend_block b;
    int held = 0;
    if (!open_block(j, task, worker, &b)) return;
    b.held = &held;
    lw_span segments = block_segments(&b);
    float max2[LW_MAX_ROWS], sum2[LW_MAX_ROWS];
    for (int64_t s = segments.lo; s < segments.hi; s++)
        for (int row = 0, rows; row < b.rows; row += rows) {
            rows = group_rows(&b, row);
            lw_attend_segment(&b, row, rows, s * LW_SEGMENT, max2, sum2);
            for (int i = 0; i < rows; i++)
                if (sum2[i] != 0.0f)
                    j->ctx->kernels->segment_merge(j->d_pad, b.o + (size_t)(row + i) * j->d_pad, &b.max[row + i],
                                                   &b.sum[row + i], b.o2 + (size_t)i * j->d_pad, max2[i], sum2[i]);
        }
    if (held) j->ctx->kernels->matrix_release();
    for (int i = 0; i < b.rows; i++) close_row(&b, i, b.o + (size_t)i * j->d_pad, b.max[i], b.sum[i]);
}

/* ---- few rows, long cache: the segments are shared out, and merged afterwards in index order ---- */

static float *partial_of(const lw_attend_job *j, int64_t task, int64_t s, int row) {
    return j->partial + (((task * j->segments + s) * j->block_rows) + row) * (j->d_pad + 2);
}

static void split_task(void *arg, int64_t index, int worker) {
    const lw_attend_job *j = arg;
    int64_t task = index / j->splits, part = index % j->splits;
    lw_attend_block b;
    int held = 0;
    if (!open_block(j, task, worker, &b)) return;
    b.held = &held;
    lw_span segments = block_segments(&b);
    int64_t n = segments.hi - segments.lo;
    float max2[LW_MAX_ROWS], sum2[LW_MAX_ROWS];
    for (int64_t s = segments.lo + n * part / j->splits; s < segments.lo + n * (part + 1) / j->splits; s++)
        for (int row = 0, rows; row < b.rows; row += rows) {
            rows = group_rows(&b, row);
            lw_attend_segment(&b, row, rows, s * LW_SEGMENT, max2, sum2);
            for (int i = 0; i < rows; i++) {
                float *out = partial_of(j, task, s, row + i);
                memcpy(out, b.o2 + (size_t)i * j->d_pad, (size_t)j->d_pad * sizeof(float));
                out[j->d_pad] = max2[i], out[j->d_pad + 1] = sum2[i];
            }
        }
    if (held) j->ctx->kernels->matrix_release();
}

static void merge_task(void *arg, int64_t task, int worker) {
    const lw_attend_job *j = arg;
    lw_attend_block b;
    if (!open_block(j, task, worker, &b)) return;
    lw_span segments = block_segments(&b);
    for (int i = 0; i < b.rows; i++) {
        float *o = b.o + (size_t)i * j->d_pad;
        for (int64_t s = segments.lo; s < segments.hi; s++) {
            const float *part = partial_of(j, task, s, i);
            if (part[j->d_pad + 1] != 0.0f)
                j->ctx->kernels->segment_merge(j->d_pad, o, &b.max[i], &b.sum[i], part, part[j->d_pad],
                                               part[j->d_pad + 1]);
        }
        close_row(&b, i, o, b.max[i], b.sum[i]);
    }
}

/* Blocks as large as the rows allow while every thread has work; splits where there are fewer blocks than threads. */
static lw_status plan(lw_attend_job *j) {
    int threads = lw_pool_threads(j->ctx->pool), tile = j->tile_rows, heads = j->cache->shape.kv_heads;
    int64_t longest = 0;
    for (int groups = j->matrix ? BLOCK_GROUPS / 2 : BLOCK_GROUPS;; groups /= 2) {
        j->block_rows = groups * tile, j->tasks = 0, longest = 0;
        for (int s = 0; s < j->s->count; s++) {
            int64_t tokens = j->s->row_starts[s + 1] - j->s->row_starts[s];
            j->tasks += lw_ceil_div(tokens * j->group, j->block_rows) * heads;
            longest = lw_max(longest, j->a->kv_length ? j->a->kv_length[s] : j->s->first_position[s] + tokens);
        }
        if (groups == 1 || j->tasks >= 4 * threads) break;
    }
    j->segments = lw_ceil_div(longest, LW_SEGMENT);
    j->splits = 1;
    if (threads > 1 && j->tasks < 2 * threads && j->segments > 1)
        j->splits = (int)lw_min(j->segments, lw_ceil_div(4 * threads, lw_max(j->tasks, 1)));
    j->worker_bytes = worker_bytes(j);
    size_t bytes = j->worker_bytes * (size_t)threads, partial = 0;
    if (j->splits > 1)
        partial = (size_t)(j->tasks * j->segments * j->block_rows) * (size_t)(j->d_pad + 2) * sizeof(float);
    LW_TRY(lw_block_reserve(&j->ctx->scratch, bytes + partial));
    j->scratch = j->ctx->scratch.data;
    j->partial = (float *)(j->scratch + bytes);
    return LW_OK;
}

lw_status lw_attend_run(lw_ctx *ctx, lw_cache *cache, const lw_sequences *s, const lw_attend_args *a) {
    lw_attend_job j = {.ctx = ctx, .cache = cache, .s = s, .a = a, .group = a->shape.heads / a->shape.kv_heads};
    j.d = cache->shape.head_dim;
    j.d_pad = cache->value_panels * LW_LANES;
    j.dot = !a->exact && cache->shape.type == LW_BF16 && ctx->kernels->tile_dot;
    j.matrix = j.dot && ctx->kernels->matrix_rows;
    j.tile_rows = j.matrix ? ctx->kernels->matrix_rows : ctx->kernels->rows;
    j.line = j.matrix ? MATRIX_LINE : cache->per_line;
    j.q_width = j.matrix ? (int)lw_round_up(j.d, MATRIX_LINE) : j.d_pad;
    LW_TRY(plan(&j));
    if (j.splits == 1) return lw_pool_run(ctx->pool, j.tasks, attend_task, &j);
    LW_TRY(lw_pool_run(ctx->pool, j.tasks * j.splits, split_task, &j));
    return lw_pool_run(ctx->pool, j.tasks, merge_task, &j);
}

lw_status lw_attend(lw_ctx *ctx, lw_cache *cache, const lw_sequences *s, const lw_attend_args *a) {
    const lw_attention_shape *shape = &a->shape;
    int64_t width = (int64_t)shape->heads * cache->shape.head_dim;
    if (a->layer < 0 || a->layer >= cache->shape.layers || shape->kv_heads != cache->shape.kv_heads ||
        shape->heads < 1 || shape->heads % shape->kv_heads || a->ldq < width || a->ldo < width)
        return LW_E_ARGUMENT;
    LW_TRY(lw_sequences_check(cache, s, a->kv_length));
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_attend_run(ctx, cache, s, a);
    lw_fp_leave(fp);
    return status;
}
