/* attention.c - fused attention over the paged cache, in fixed segments of LW_SEGMENT positions.
 *
 * For every row: scores of one segment, their softmax with the segment's own maximum, the weighted sum of the values;
 * then the segment is merged into the running (o, max, sum) - the online softmax of Milakov and Gimelshein (2018), as
 * FlashAttention uses it (Dao et al. 2022), so the score matrix never exists. Segments begin at multiples of LW_SEGMENT
 * and are merged in index order. Hence a row's bits depend on nothing but its own keys: not on the other rows, nor on how
 * the prompt was cut, nor on who computed which segment.
 *
 * The query heads that share a kv head are rows of one product: G heads x tokens. Both products use the GEMM's tiles. */
#include "cache.h"
#include <math.h>
#include <string.h>

enum { BLOCK_GROUPS = 8 };       /* row groups per task: a segment of keys is read from L2 by that many tiles */

typedef struct attend_job {
    lw_ctx *ctx;
    const lw_cache *cache;
    const lw_sequences *s;
    const lw_attend_args *a;
    int group;                   /* query heads per kv head */
    int d, d_pad, dot;
    int block_rows;              /* rows (token, head) per task */
    int64_t tasks;               /* without the split over segments */
    int splits;                  /* segments are computed by that many tasks, 1 = no split */
    unsigned char *scratch;      /* per worker */
    size_t worker_bytes;
    float *partial;              /* split: [task][segment][row](d_pad + 2) */
    int64_t segments;            /* split: the most that a sequence has */
} attend_job;

/* One task's rows: `rows` rows from virtual row `first` (token * group + head) of kv head `head` of sequence `seq`. */
typedef struct attend_block {
    const attend_job *j;
    int seq, head, rows;
    int ask;                     /* for the lines to come: the first row group of each segment does */
    int64_t first;
    float *q, *o, *o2, *score, *max, *sum;
    uint16_t *q16, *p16;
    int64_t length;
} attend_block;

typedef struct span { int64_t lo, hi; } span;

static span row_span(const attend_block *b, int row) {
    const lw_attention_shape *shape = &b->j->a->shape;
    int64_t position = b->j->s->first_position[b->seq] + (b->first + row) / b->j->group;
    span r = {0, b->length};
    if (shape->causal) r.hi = lw_min(r.hi, position + 1);
    if (shape->window_right >= 0) r.hi = lw_min(r.hi, position + shape->window_right + 1);
    if (shape->window_left >= 0) r.lo = lw_max(0, position - shape->window_left);
    return r;
}

static span clip(span r, int64_t lo, int64_t hi) {
    span c = {lw_max(r.lo, lo), lw_min(r.hi, hi)};
    return c;
}

static int32_t page_of(const attend_block *b, int64_t position) {
    return b->j->s->page_table[(int64_t)b->seq * b->j->s->table_width + position / LW_PAGE];
}

/* The lines after a tile's lie in another page, or among the other half of this one, where no hardware looks: tiles ask for
 * those, at the same distance line by line. */
static const unsigned char *keys_at(const attend_block *b, int64_t position) {
    const lw_cache *c = b->j->cache;
    return lw_cache_keys(c, page_of(b, position), b->j->a->layer, b->head) +
           (size_t)(position % LW_PAGE / LW_LANES) * c->key_panel;
}
static const unsigned char *values_at(const attend_block *b, int64_t position) {
    const lw_cache *c = b->j->cache;
    return lw_cache_values(c, page_of(b, position), b->j->a->layer, b->head) +
           (size_t)(position % LW_PAGE / c->per_line) * LW_LINE;
}

static void run_tile(const attend_job *j, lw_tile *t) {
    const lw_kernels *kernels = j->ctx->kernels;
    if (j->dot) kernels->tile_dot(t);
    else if (j->cache->shape.type == LW_BF16) kernels->tile_bf16(t);
    else kernels->tile_f32(t);
}

/* Runs t over all `panels` panels, as many at a time as the table takes. */
static void run_panels(const attend_job *j, lw_tile *t, int panels, float *c) {
    int step = j->ctx->kernels->panels[t->rows];
    const unsigned char *b = t->b;
    for (int p = 0; p < panels; p += step) {
        t->panels = (int)lw_min(step, panels - p);
        t->columns = t->panels * LW_LANES;
        t->b = b + (size_t)p * (size_t)t->ldb;
        t->c = c + p * LW_LANES;
        run_tile(j, t);
    }
}

/* score[row][position - origin] for the keys of [lo, hi), lo and hi multiples of 16 inside one segment. */
static void scores(const attend_block *b, int row, int rows, int64_t origin, int64_t lo, int64_t hi) {
    const attend_job *j = b->j;
    lw_tile t = {.lda = j->d_pad, .ldb = (ptrdiff_t)j->cache->key_panel, .ldc = LW_SEGMENT, .rows = rows, .k = j->d};
    t.a = j->dot ? (const void *)(b->q16 + (size_t)row * j->d_pad) : (const void *)(b->q + (size_t)row * j->d_pad);
    for (int64_t p = lo; p < hi;) {
        int64_t end = lw_min(hi, (p / LW_PAGE + 1) * LW_PAGE);
        t.b = keys_at(b, p);
        if (b->ask) t.ahead = (end < hi ? keys_at(b, end) : values_at(b, lo)) - (const unsigned char *)t.b;
        run_panels(j, &t, (int)((end - p) / LW_LANES), b->score + (p - origin));
        p = end;
    }
}

/* o2[row] += p[row][lo..hi) . values, in ascending position: chains continue, so any cut at an even position gives the same bits. */
static void weigh(const attend_block *b, int row, int rows, int64_t origin, span r) {
    const attend_job *j = b->j;
    const lw_cache *c = j->cache;
    for (int64_t p = r.lo; p < r.hi;) {
        int64_t end = lw_min(r.hi, (p / LW_PAGE + 1) * LW_PAGE);
        int slot = (int)(p % LW_PAGE);
        lw_tile t = {.lda = LW_SEGMENT, .ldb = (ptrdiff_t)c->value_panel, .ldc = j->d_pad, .rows = rows,
                     .k = (int)(end - p), .accumulate = 1, .skip = c->per_line == 2 ? slot & 1 : 0};
        size_t at = (size_t)row * LW_SEGMENT + (size_t)(p - origin);
        t.a = j->dot ? (const void *)(b->p16 + at) : (const void *)(b->score + at);
        const unsigned char *lines = values_at(b, p);
        t.b = lines;
        if (b->ask) t.ahead = (end < r.hi ? values_at(b, end) : end < b->length ? keys_at(b, end) : lines) - lines;
        run_panels(j, &t, c->value_panels, b->o2 + (size_t)row * j->d_pad);
        p = end;
    }
}

/* Rows differ in where they begin and end (the diagonal, a window): the part that they share runs as one tile, the rest
 * row by row. Inner borders are even, so that the pairs of a bf16 line stay the same pairs for every row. */
static void weigh_rows(const attend_block *b, int rows, int64_t origin, const span *spans) {
    span all = spans[0], common = spans[0];
    for (int i = 1; i < rows; i++) {
        all.lo = lw_min(all.lo, spans[i].lo), all.hi = lw_max(all.hi, spans[i].hi);
        common.lo = lw_max(common.lo, spans[i].lo), common.hi = lw_min(common.hi, spans[i].hi);
    }
    if (all.lo != common.lo) common.lo = lw_round_up(common.lo, 2);
    if (all.hi != common.hi) common.hi &= ~(int64_t)1;
    if (common.lo >= common.hi) {
        for (int i = 0; i < rows; i++) weigh(b, i, 1, origin, spans[i]);
        return;
    }
    if (all.lo != common.lo)
        for (int i = 0; i < rows; i++) weigh(b, i, 1, origin, clip(spans[i], spans[i].lo, common.lo));
    weigh(b, 0, rows, origin, common);
    if (all.hi != common.hi)
        for (int i = 0; i < rows; i++) weigh(b, i, 1, origin, clip(spans[i], common.hi, spans[i].hi));
}

/* Rows row .. row+rows-1 of the block over the segment at `origin`; leaves o2 (from its first row), and fills max2, sum2 (sum2 = 0: the
 * row sees nothing of this segment). */
static void segment(attend_block *b, int row, int rows, int64_t origin, float *max2, float *sum2) {
    const attend_job *j = b->j;
    const lw_attention_shape *shape = &j->a->shape;
    span spans[LW_MAX_ROWS], all = {INT64_MAX, 0};
    for (int i = 0; i < rows; i++) {
        spans[i] = clip(row_span(b, row + i), origin, origin + LW_SEGMENT);
        max2[i] = sum2[i] = 0.0f;
        if (spans[i].lo >= spans[i].hi) spans[i].lo = spans[i].hi = -1;   /* sees nothing here */
        else all.lo = lw_min(all.lo, spans[i].lo), all.hi = lw_max(all.hi, spans[i].hi);
    }
    if (all.lo >= all.hi) return;
    b->ask = row == 0;
    int64_t lo = all.lo & ~(int64_t)(LW_LANES - 1), hi = lw_round_up(all.hi, LW_LANES);
    scores(b, row, rows, origin, lo, hi);
    int seeing = 0;
    for (int i = 0; i < rows; i++) {
        if (spans[i].lo < 0) continue;
        seeing++;
        float *s = b->score + (size_t)i * LW_SEGMENT + (lo - origin);
        j->ctx->kernels->segment_softmax((int)(hi - lo), (int)(spans[i].lo - lo), (int)(spans[i].hi - lo), shape->scale,
                                         shape->softcap, s, &max2[i], &sum2[i]);
        if (j->dot) j->ctx->kernels->to_dot((size_t)(hi - lo), s, b->p16 + (s - b->score));
    }
    memset(b->o2, 0, (size_t)rows * j->d_pad * sizeof(float));
    if (seeing == rows) {
        weigh_rows(b, rows, origin, spans);
    } else {
        for (int i = 0; i < rows; i++)
            if (spans[i].lo >= 0) weigh(b, i, 1, origin, spans[i]);
    }
}

static void place(attend_block *b, int worker) {
    const attend_job *j = b->j;
    unsigned char *at = j->scratch + (size_t)worker * j->worker_bytes;
    size_t rows = (size_t)j->block_rows, tile = (size_t)j->ctx->kernels->rows;
    b->q = (float *)at, at += rows * j->d_pad * 4;
    b->o = (float *)at, at += rows * j->d_pad * 4;
    b->o2 = (float *)at, at += tile * j->d_pad * 4;
    b->score = (float *)at, at += tile * LW_SEGMENT * 4;
    b->q16 = (uint16_t *)at, at += rows * j->d_pad * 2;
    b->p16 = (uint16_t *)at, at += tile * LW_SEGMENT * 2;
    b->max = (float *)at, at += rows * 4;
    b->sum = (float *)at;
}

static size_t worker_bytes(const attend_job *j) {
    size_t rows = (size_t)j->block_rows, tile = (size_t)j->ctx->kernels->rows;
    size_t bytes = rows * j->d_pad * 10 + tile * j->d_pad * 4 + tile * LW_SEGMENT * 6 + rows * 8;
    return (size_t)lw_round_up((int64_t)bytes, 4096) + 256;   /* + 256: workers do not share cache sets in step */
}

/* Finds the rows of a task and gathers their queries. Returns 0 if there are none. */
static int open_block(const attend_job *j, int64_t task, int worker, attend_block *b) {
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
        if (j->dot) j->ctx->kernels->to_dot((size_t)j->d_pad, q, b->q16 + (size_t)i * j->d_pad);
        b->max[i] = -INFINITY, b->sum[i] = 0.0f;
    }
    memset(b->o, 0, (size_t)b->rows * j->d_pad * sizeof(float));
    return b->rows;
}

static void close_row(const attend_block *b, int i, const float *o, float max, float sum) {
    const attend_job *j = b->j;
    int64_t row = j->s->row_starts[b->seq] + (b->first + i) / j->group;
    int head = b->head * j->group + (int)((b->first + i) % j->group);
    float *out = j->a->out + row * j->a->ldo + (int64_t)head * j->d;
    if (sum > 0.0f || sum != sum) j->ctx->kernels->segment_finish(j->d, o, sum, out);
    else memset(out, 0, (size_t)j->d * sizeof(float));
    if (j->a->lse) j->a->lse[row * j->a->shape.heads + head] = max + logf(sum);
}

/* The segments that some row of the block sees. */
static span block_segments(const attend_block *b) {
    span all = {INT64_MAX, 0};
    for (int i = 0; i < b->rows; i++) {
        span r = row_span(b, i);
        if (r.lo < r.hi) all.lo = lw_min(all.lo, r.lo), all.hi = lw_max(all.hi, r.hi);
    }
    if (all.lo >= all.hi) return (span){0, 0};
    return (span){all.lo / LW_SEGMENT, lw_ceil_div(all.hi, LW_SEGMENT)};
}

/* Even groups of at most R rows: no row is left alone. */
static int group_rows(const attend_block *b, int row) {
    int r = b->j->ctx->kernels->rows, left = b->rows - row;
    return (int)lw_ceil_div(left, lw_ceil_div(left, r));
}

static void attend_task(void *arg, int64_t task, int worker) {
    const attend_job *j = arg;
    attend_block b;
    if (!open_block(j, task, worker, &b)) return;
    span segments = block_segments(&b);
    float max2[LW_MAX_ROWS], sum2[LW_MAX_ROWS];
    for (int64_t s = segments.lo; s < segments.hi; s++)
        for (int row = 0, rows; row < b.rows; row += rows) {
            rows = group_rows(&b, row);
            segment(&b, row, rows, s * LW_SEGMENT, max2, sum2);
            for (int i = 0; i < rows; i++)
                if (sum2[i] != 0.0f)
                    j->ctx->kernels->segment_merge(j->d_pad, b.o + (size_t)(row + i) * j->d_pad, &b.max[row + i],
                                                   &b.sum[row + i], b.o2 + (size_t)i * j->d_pad, max2[i], sum2[i]);
        }
    for (int i = 0; i < b.rows; i++) close_row(&b, i, b.o + (size_t)i * j->d_pad, b.max[i], b.sum[i]);
}

/* ---- few rows, long cache: the segments are shared out, and merged afterwards in index order ---- */

static float *partial_of(const attend_job *j, int64_t task, int64_t s, int row) {
    return j->partial + (((task * j->segments + s) * j->block_rows) + row) * (j->d_pad + 2);
}

static void split_task(void *arg, int64_t index, int worker) {
    const attend_job *j = arg;
    int64_t task = index / j->splits, part = index % j->splits;
    attend_block b;
    if (!open_block(j, task, worker, &b)) return;
    span segments = block_segments(&b);
    int64_t n = segments.hi - segments.lo;
    float max2[LW_MAX_ROWS], sum2[LW_MAX_ROWS];
    for (int64_t s = segments.lo + n * part / j->splits; s < segments.lo + n * (part + 1) / j->splits; s++)
        for (int row = 0, rows; row < b.rows; row += rows) {
            rows = group_rows(&b, row);
            segment(&b, row, rows, s * LW_SEGMENT, max2, sum2);
            for (int i = 0; i < rows; i++) {
                float *out = partial_of(j, task, s, row + i);
                memcpy(out, b.o2 + (size_t)i * j->d_pad, (size_t)j->d_pad * sizeof(float));
                out[j->d_pad] = max2[i], out[j->d_pad + 1] = sum2[i];
            }
        }
}

static void merge_task(void *arg, int64_t task, int worker) {
    const attend_job *j = arg;
    attend_block b;
    if (!open_block(j, task, worker, &b)) return;
    span segments = block_segments(&b);
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
static lw_status plan(attend_job *j) {
    int threads = lw_pool_threads(j->ctx->pool), tile = j->ctx->kernels->rows, heads = j->cache->shape.kv_heads;
    int64_t longest = 0;
    for (int groups = BLOCK_GROUPS;; groups /= 2) {
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
    attend_job j = {.ctx = ctx, .cache = cache, .s = s, .a = a, .group = a->shape.heads / a->shape.kv_heads};
    j.d = cache->shape.head_dim;
    j.d_pad = cache->value_panels * LW_LANES;
    /* CPUs with tile registers multiply bfloat16 pairs of vectors at half the rate of float32. */
    j.dot = !a->exact && cache->shape.type == LW_BF16 && ctx->kernels->tile_dot && !ctx->kernels->matrix_rows;
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
