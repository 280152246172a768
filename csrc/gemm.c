/* gemm.c - the driver of products: row groups, k blocks, tasks.
 *
 * Nothing here can change a bit: every output element stays one chain in ascending k, cut only at even positions, with its
 * partial sums kept in float32 (in c, or in a slab where c still holds the residual). What the plan decides is which
 * operand is read again from which cache:
 *   few rows    a task walks its panels in order: one sequential stream of weights, all rows per panel (activations in L2)
 *   many rows   a block of rows x one k block of activations stays in L2 while the weights of a task pass by, and a panel's
 *               k block stays in L1 while the row groups pass by; the activations are first copied k block after k block */
#include "context.h"
#include "format.h"
#include <string.h>

typedef struct plan {
    const lw_gemm_args *g;
    const lw_kernels *kernels;
    void (*tile)(const lw_tile *);
    int64_t row0, rows;          /* of this pass */
    int64_t groups, blocks;      /* row groups (one tile high); row blocks (runs of groups) */
    int64_t low, higher;         /* rows of a group: low, and one more in the first `higher` groups */
    int64_t steps, ranges;       /* steps of `step` panels; ranges of steps. Tasks: blocks x ranges */
    int64_t kc, k_blocks;        /* k per block, a multiple of 16 unless there is only one */
    int step;
    int k_outer;                 /* k blocks outside of panels: the activations of a row block do not fit L2 */
    int64_t slice;               /* bytes of the next weights to fetch ahead per row group */
    int element;                 /* bytes of an activation: 4, or 2 for the bf16 dot */
    int lace;                    /* staged activations are interleaved: [k block][group][k][row] */
    unsigned char *staged;       /* activations [k block][row][ld], NULL: where the caller has them */
    int64_t ld;
    float *slabs;                /* partial sums, one slab per worker, NULL: in c */
    int64_t slab_size, slab_ld;
} plan;

/* i * total / parts without overflow for any sizes that occur: the first of part i of a balanced split. */
static int64_t split(int64_t total, int64_t parts, int64_t i) { return total / parts * i + total % parts * i / parts; }

/* Without a division: this stands in the inner loops. */
static int64_t group_row(const plan *p, int64_t group) { return group * p->low + lw_min(group, p->higher); }

/* ---- planning ---------------------------------------------------------------------------------------------------- */
enum {
    STAGE_BYTES = 32 << 20,      /* activations copied per pass */
    ALIAS = 4096,                /* rows at multiples of this fall into one set of the L1 cache */
    AHEAD_LINES = 20,
    TASKS_PER_THREAD = 4,
    AHEAD = 2560,                /* bytes in flight that cover the latency of memory at a core's share of its bandwidth */
    TASK_PANELS = 8              /* with row blocks: panels per task, to earn the fetch of the block */
};

static void plan_k(plan *p, const lw_ctx *ctx, int64_t rows)
{
    const lw_kernels *kernels = p->kernels;
    int64_t k = p->g->w->k, high = lw_min(rows, kernels->rows);
    p->kc = k;
    p->k_blocks = 1;
    if (rows <= kernels->rows) return;
    /* A panel step's lines and one row group's activations fill L1: longer k blocks (fewer visits to c) were worth more
     * than room to spare. */
    int64_t per_line = lw_formats[p->g->w->format].k_per_line;
    int64_t most = (int64_t)ctx->l1d / (p->step * LW_LINE / per_line + high * p->element);
    /* With few groups the weights set the pace. They are fetched one block ahead, a slice per group, and a slice of more
     * lines than the core can have under way makes it wait. */
    most = lw_max(lw_min(most, AHEAD_LINES * p->groups / p->step * per_line), 32 * per_line);
    p->k_blocks = lw_max(lw_ceil_div(k, most), 1);
    if (p->k_blocks > 1) {
        p->kc = lw_round_up(lw_ceil_div(k, p->k_blocks), 16);
        p->k_blocks = lw_ceil_div(k, p->kc);
    }
}

static void plan_tasks(plan *p, const lw_ctx *ctx)
{
    const lw_weight *w = p->g->w;
    int64_t threads = lw_pool_threads(ctx->pool), half = (int64_t)(ctx->l2 / 2);
    p->k_outer = p->k_blocks > 1 && p->rows * w->k * p->element > half;
    p->blocks = 1;
    if (p->k_outer) {
        int64_t most = lw_max(half / (p->kc * p->element) / p->kernels->rows, 1);   /* groups of a block */
        p->blocks = lw_ceil_div(p->groups, most);
    }
    int64_t block_groups = lw_ceil_div(p->groups, p->blocks);
    int64_t block_bytes = lw_ceil_div(p->kc, lw_formats[w->format].k_per_line) * LW_LINE;
    p->slice = p->k_blocks > 1 ? lw_round_up(lw_ceil_div(block_bytes, block_groups), LW_LINE) : 0;
    p->steps = lw_ceil_div(w->panels, p->step);
    /* A task should outlast what starting it costs (about a microsecond): count a byte of weights, and 8 multiply-adds,
     * as a tenth of a nanosecond. */
    int64_t cost = lw_max((int64_t)w->panel_bytes, p->rows * w->k * LW_LANES / 8) / 10 * w->panels;
    int64_t most = lw_max(cost / 3000, 1), wanted = lw_min(TASKS_PER_THREAD * threads, most);
    p->ranges = lw_min(lw_ceil_div(wanted, p->blocks), p->steps);
    if (p->k_outer) {
        int64_t by_size = lw_max(w->panels / (2 * TASK_PANELS), 1);
        p->ranges = lw_min(lw_max(p->ranges, by_size), lw_max(w->panels / TASK_PANELS, 1));
    }
    if (p->ranges > p->steps) p->ranges = p->steps;
}

static int needs_stage(const plan *p)
{
    if (p->element == 2 || p->k_outer) return 1;
    /* Rows in one cache set push each other out once a tile has as many rows as the set has ways. */
    return p->rows >= 4 && p->g->lda * p->element % ALIAS == 0 && p->g->w->panels >= 8;
}

static lw_status plan_memory(plan *p, lw_ctx *ctx)
{
    size_t staged = 0, slabs = 0;
    p->staged = NULL;
    p->slabs = NULL;
    p->lace = p->k_outer && p->g->w->format == LW_P32;
    if (needs_stage(p)) {
        p->ld = lw_round_up(p->kc, 16);
        if (p->ld * p->element % ALIAS == 0) p->ld += 16;
        staged = (size_t)(p->k_blocks * p->rows * p->ld * p->element + LW_LINE) / LW_LINE * LW_LINE;
    }
    if (p->g->residual == p->g->c && p->g->residual && p->k_blocks > 1) {
        p->slab_ld = (lw_ceil_div(p->steps, p->ranges) * p->step + 1) * LW_LANES;
        p->slab_size = (lw_ceil_div(p->groups, p->blocks) * p->kernels->rows) * p->slab_ld;
        slabs = (size_t)(lw_pool_threads(ctx->pool) * p->slab_size) * sizeof(float);
    }
    if (staged + slabs == 0) return LW_OK;
    LW_TRY(lw_block_reserve(&ctx->scratch, staged + slabs));
    if (staged) p->staged = ctx->scratch.data;
    if (slabs) p->slabs = (float *)((unsigned char *)ctx->scratch.data + staged);
    return LW_OK;
}

/* ---- staging ----------------------------------------------------------------------------------------------------- */
enum { STAGE_ROWS = 16, LACE_RUN = 16 };

static void stage_rows(void *arg, int64_t task, int worker)
{
    (void)worker;
    const plan *p = arg;
    int64_t k = p->g->w->k, last = lw_min(p->rows, (task + 1) * STAGE_ROWS);
    for (int64_t row = task * STAGE_ROWS; row < last; row++) {
        const float *a = p->g->a + (p->row0 + row) * p->g->lda;
        for (int64_t kb = 0; kb < p->k_blocks; kb++) {
            int64_t k0 = kb * p->kc, n = lw_min(p->kc, k - k0);
            unsigned char *to = p->staged + (kb * p->rows + row) * p->ld * p->element;
            if (p->element == 4) {
                memcpy(to, a + k0, (size_t)n * 4);
            } else {
                p->kernels->to_bf16((size_t)n, a + k0, (uint16_t *)to);
                if (n & 1) ((uint16_t *)to)[n] = 0;   /* read, though never counted */
            }
        }
    }
}

/* Runs of LACE_RUN values keep the scattered stores within a few lines. */
static void lace_rows(const float *a, int64_t lda, int64_t rows, int64_t n, float *to)
{
    for (int64_t k0 = 0; k0 < n; k0 += LACE_RUN)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = k0; k < lw_min(k0 + LACE_RUN, n); k++) to[k * rows + r] = a[r * lda + k];
}

static void stage_group(void *arg, int64_t group, int worker)
{
    (void)worker;
    const plan *p = arg;
    int64_t row = group_row(p, group), rows = group_row(p, group + 1) - row;
    const float *a = p->g->a + (p->row0 + row) * p->g->lda;
    for (int64_t kb = 0; kb < p->k_blocks; kb++)
        lace_rows(a + kb * p->kc, p->g->lda, rows, lw_min(p->kc, p->g->w->k - kb * p->kc),
                  (float *)p->staged + (kb * p->rows + row) * p->ld);
}

static lw_status stage(plan *p, lw_ctx *ctx)
{
    if (p->lace) return lw_pool_run(ctx->pool, p->groups, stage_group, p);
    return lw_pool_run(ctx->pool, lw_ceil_div(p->rows, STAGE_ROWS), stage_rows, p);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------- */
typedef struct job {
    int64_t group0, group1, panel0, panel1;
    float *slab;                 /* c of (first row, first panel) of this task, or NULL */
} job;

/* The hardware follows neither the jump to the next weights of a k block nor the rows of c: ask for them while computing.
 * Without this, waiting for c alone costs a fifth of the time where it comes from memory. */
static void fetch_ahead(const unsigned char *lines, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += LW_LINE) __builtin_prefetch(lines + i, 0, 2);
}

static void fetch_rows(const float *c, int64_t ldc, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) __builtin_prefetch(c + i * ldc, 1, 3);
}

/* All row groups of a task x one panel step x one k block. `next`: the lines that come after these, or NULL. */
static void cell(const plan *p, const job *j, int64_t panel, int64_t kb, const unsigned char *next)
{
    const lw_gemm_args *g = p->g;
    const lw_weight *w = g->w;
    int last = kb == p->k_blocks - 1;
    int64_t k0 = kb * p->kc, panel_end = lw_min(panel + p->step, j->panel1), first_row = group_row(p, j->group0);
    int64_t line0 = k0 / lw_formats[w->format].k_per_line * LW_LINE;
    lw_tile t = {.ldb = (ptrdiff_t)w->panel_bytes, .ldr = g->ldr, .k = (int)lw_min(p->kc, w->k - k0), .accumulate = kb > 0,
                 .lda = p->lace ? 0 : p->staged ? p->ld : g->lda, .ldc = j->slab ? p->slab_ld : g->ldc};
    float *c = j->slab ? j->slab : g->c + (p->row0 + first_row) * g->ldc + j->panel0 * LW_LANES;   /* of this task */
    for (int64_t group = j->group0; group < j->group1; group++) {
        int64_t row = group_row(p, group);
        t.rows = (int)(group_row(p, group + 1) - row);
        t.a = p->staged ? (const void *)(p->staged + (kb * p->rows + row) * p->ld * p->element)
                        : (const void *)(g->a + (p->row0 + row) * g->lda + k0);
        float *c_row = c + (row - first_row) * t.ldc;
        if (group + 1 < j->group1) fetch_rows(c_row + t.rows * t.ldc + (panel - j->panel0) * LW_LANES, t.ldc, p->low);
        if (next) {
            for (int i = 0; i < p->step; i++) fetch_ahead(next + (size_t)i * w->panel_bytes, p->slice);
            next += p->slice;
        }
        int most = p->kernels->panels[t.rows];
        for (int64_t at = panel; at < panel_end; at += t.panels) {
            int64_t column = at * LW_LANES;
            t.panels = (int)lw_min(most, panel_end - at);
            t.columns = (int)lw_min(t.panels * LW_LANES, w->n - column);
            t.ahead = p->groups == 1 ? AHEAD / t.panels : 0;
            t.b = w->lines + (size_t)at * w->panel_bytes + line0;
            t.bias = last && g->bias ? g->bias + column : NULL;
            t.residual = last && g->residual ? g->residual + (p->row0 + row) * g->ldr + column : NULL;
            t.c = c_row + (at - j->panel0) * LW_LANES;
            p->tile(&t);
        }
    }
}

static void copy_slab(const plan *p, const job *j)
{
    int64_t first = group_row(p, j->group0), end = group_row(p, j->group1);
    int64_t column = j->panel0 * LW_LANES, columns = lw_min(j->panel1 * LW_LANES, p->g->w->n) - column;
    for (int64_t row = first; row < end; row++)
        memcpy(p->g->c + (p->row0 + row) * p->g->ldc + column, j->slab + (row - first) * p->slab_ld, (size_t)columns * 4);
}

static const unsigned char *lines_at(const plan *p, int64_t panel, int64_t kb)
{
    const lw_weight *w = p->g->w;
    return w->lines + (size_t)panel * w->panel_bytes + (size_t)(kb * p->kc / lw_formats[w->format].k_per_line * LW_LINE);
}

/* One row group: every weight is used once, so memory sets the pace. The panels of a tile are taken from equal parts of the
 * range, not side by side: each part is then one stream from its first panel to its last, and the hardware, which
 * follows streams, is not thrown off at the end of every panel. Sums go through a small buffer to their columns. */
static void stream_range(const plan *p, const job *j)
{
    const lw_gemm_args *g = p->g;
    const lw_weight *w = g->w;
    float sums[LW_MAX_ROWS * 8 * LW_LANES];
    int rows = (int)p->rows, most = p->kernels->panels[rows];
    int64_t panels = j->panel1 - j->panel0, part = lw_ceil_div(panels, most);
    lw_tile t = {.a = p->staged ? (const void *)p->staged : (const void *)(g->a + p->row0 * g->lda), .rows = rows,
                 .lda = p->staged ? p->ld : g->lda, .ldb = (ptrdiff_t)((size_t)part * w->panel_bytes), .c = sums,
                 .k = (int)w->k};
    for (int64_t i = 0; i < part; i++) {
        t.panels = (int)lw_ceil_div(panels - i, part);
        t.columns = t.panels * LW_LANES;
        t.ldc = t.columns;
        t.ahead = AHEAD / t.panels;
        t.b = w->lines + (size_t)(j->panel0 + i) * w->panel_bytes;
        p->tile(&t);
        for (int q = 0; q < t.panels; q++) {
            int64_t column = (j->panel0 + i + q * part) * LW_LANES, n = lw_min(LW_LANES, w->n - column);
            for (int r = 0; r < rows; r++) {
                float *c = g->c + (p->row0 + r) * g->ldc + column, *sum = sums + r * t.ldc + q * LW_LANES;
                if (g->bias)
                    for (int64_t x = 0; x < n; x++) sum[x] += g->bias[column + x];
                if (g->residual)
                    for (int64_t x = 0; x < n; x++) sum[x] += g->residual[(p->row0 + r) * g->ldr + column + x];
                memcpy(c, sum, (size_t)n * sizeof(float));
            }
        }
    }
}

static void run_task(void *arg, int64_t task, int worker)
{
    const plan *p = arg;
    int64_t block = task / p->ranges, range = task % p->ranges;
    job j = {.group0 = split(p->groups, p->blocks, block), .group1 = split(p->groups, p->blocks, block + 1),
             .panel0 = split(p->steps, p->ranges, range) * p->step,
             .panel1 = lw_min(split(p->steps, p->ranges, range + 1) * p->step, p->g->w->panels),
             .slab = p->slabs ? p->slabs + worker * p->slab_size : NULL};
    if (p->groups == 1 && p->step > 1) {
        stream_range(p, &j);
        return;
    }
    int64_t steps = lw_ceil_div(j.panel1 - j.panel0, p->step), cells = steps * p->k_blocks;
    int64_t panel = j.panel0, kb = 0;
    for (int64_t i = 0; i < cells; i++) {
        int64_t next_panel = panel, next_kb = kb;
        if (p->k_outer) {
            if ((next_panel += p->step) >= j.panel1) next_panel = j.panel0, next_kb++;
        } else {
            if (++next_kb == p->k_blocks) next_kb = 0, next_panel += p->step;
        }
        cell(p, &j, panel, kb, p->slice && i + 1 < cells ? lines_at(p, next_panel, next_kb) : NULL);
        panel = next_panel;
        kb = next_kb;
    }
    if (j.slab) copy_slab(p, &j);
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */
/* k = 0: an empty sum. */
static void empty_sum(const lw_gemm_args *g)
{
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->w->n; j++) {
            float sum = 0;
            if (g->bias) sum += g->bias[j];
            if (g->residual) sum += g->residual[i * g->ldr + j];
            g->c[i * g->ldc + j] = sum;
        }
}

lw_status lw_gemm_run(lw_ctx *ctx, const lw_gemm_args *args)
{
    const lw_weight *w = args->w;
    if (args->m == 0 || w->n == 0) return LW_OK;
    if (w->k == 0) {
        empty_sum(args);
        return LW_OK;
    }
    if (w->format >= LW_Q4_0) return lw_gemm_quant_run(ctx, args);
    plan p = {.g = args, .kernels = ctx->kernels, .element = 4};
    p.tile = w->format == LW_P32 ? p.kernels->tile_f32 : p.kernels->tile_bf16;
    if (w->format == LW_P16 && p.kernels->tile_dot && !args->exact) {
        p.tile = p.kernels->tile_dot;
        p.element = 2;
    }
    int64_t most = lw_max(STAGE_BYTES / (w->k * p.element), 4 * LW_MAX_ROWS), passes = lw_ceil_div(args->m, most);
    for (int64_t pass = 0; pass < passes; pass++) {
        p.row0 = split(args->m, passes, pass);
        p.rows = split(args->m, passes, pass + 1) - p.row0;
        p.groups = lw_ceil_div(p.rows, p.kernels->rows);
        p.low = p.rows / p.groups;
        p.higher = p.rows % p.groups;
        p.step = p.kernels->panels[p.low];   /* at least as many as the higher groups take */
        plan_k(&p, ctx, p.rows);
        plan_tasks(&p, ctx);
        LW_TRY(plan_memory(&p, ctx));
        if (p.staged) LW_TRY(stage(&p, ctx));
        LW_TRY(lw_pool_run(ctx->pool, p.blocks * p.ranges, run_task, &p));
    }
    return LW_OK;
}

lw_status lw_gemm(lw_ctx *ctx, const lw_gemm_args *args)
{
    if (!ctx || !args || !args->w || args->m < 0) return LW_E_ARGUMENT;
    const lw_weight *w = args->w;
    if (args->lda < w->k || args->ldc < w->n || (args->residual && args->ldr < w->n)) return LW_E_ARGUMENT;
    if (args->m && w->n && (!args->c || (w->k && !args->a))) return LW_E_ARGUMENT;
    if (args->residual && args->residual == args->c && args->ldr != args->ldc) return LW_E_ARGUMENT;
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_gemm_run(ctx, args);
    lw_fp_leave(fp);
    return status;
}
