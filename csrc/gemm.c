/* gemm.c - the driver of products: row groups, k blocks, tasks.
 *
 * Nothing here can change a bit: every output element stays one chain in ascending k, cut only at even positions, with its
 * partial sums kept in float32. What the plan decides is which operand is read again from which cache:
 *   few rows    a task walks its panels in order: a few sequential streams of weights, all rows per panel
 *   many rows   a panel step's weights stay in cache while all row groups of a block pass by as one stream; the lines of
 *               the next step are fetched meanwhile */
#include "gemm.h"

/* ---- planning ---------------------------------------------------------------------------------------------------- */
static int most_rows(const lw_gemm_plan *p) { return p->matrix ? p->kernels->matrix_rows : p->kernels->rows; }

enum {
    STAGE_BYTES = 4 << 20,       /* activations of one pass: they are read again for every panel step, from a shared cache; */
    STAGE_THREAD_BYTES = 2 << 20,   /* with many threads so much each: a pass reads all weights, and needs rows for all of them */
    ALIAS = 4096,                /* rows at multiples of this fall into one set of the L1 cache */
    TASKS_PER_THREAD = 32,       /* the last of them is what threads wait for */
    TASKS_PER_MATRIX_THREAD = 4, /* where sums wait for the next block of k: each task reads all activations */
    TASK_NS = 1500,              /* about what handing a task to another thread costs, a few times */
    STREAMS_PER_THREAD = 4,      /* with one row group: long streams */
    PASS_ROWS = 64,              /* at least */
    MATRIX_INT8_ROWS = 8,        /* with fewer the byte dot product of vectors wastes less */
    MATRIX_GROUPS = 3,           /* row groups at least for which panels stay in L1 */
    MATRIX_K_BYTES = 4096,       /* of bfloat16 in a block of k on tile registers at most */
    DIRECT_PANELS = 16,          /* with fewer panels interleaving costs more than it gives */
    WIDE_TILE = 16,              /* accumulator lines from which on a tile can take its weights from L2 */
    BLOCK_GROUPS = 4             /* row groups at least for which a panel step's weights are fetched */
};

/* k blocks. Large tiles take both operands from L2: a block of rows and a panel step's lines stay there. Small ones need
 * the lines in L1, beside one row group's activations: longer blocks (fewer visits to c) were worth more than room to spare. */
static void plan_k(lw_gemm_plan *p, const lw_ctx *ctx) {
    const lw_weight *w = p->w;
    int64_t per_line = lw_k_per_line(p), high = p->a.low + (p->a.higher > 0);
    int64_t per_unit = p->a.kind == LW_STAGE_F32 ? 1 : per_line;
    p->a.kc = w->k;
    p->a.k_blocks = 1;
    if (p->a.groups == 1 || p->a.kind == LW_STAGE_INT8) return;
    if (p->matrix) {
        p->a.k_blocks = lw_ceil_div(w->k, MATRIX_K_BYTES / 4 * per_line);
        p->a.kc = lw_round_up(lw_ceil_div(w->k, p->a.k_blocks), 64);
        p->a.k_blocks = lw_ceil_div(w->k, p->a.kc);
        return;
    }
    int64_t most = (int64_t)ctx->l2 / (p->amd ? 2 : 8) / (p->step * LW_LINE) * per_unit;
    if (high * p->step < WIDE_TILE) most = (int64_t)ctx->l1d / (p->step * LW_LINE / per_line + high * 4 / per_unit);
    /* Of few groups the lines of the next step are all there as well, and each of them counts. */
    else if (p->a.groups < BLOCK_GROUPS) most = (int64_t)ctx->l2 * 7 / 8 / (2 * p->step * LW_LINE / per_line + p->a.rows * 4 / per_unit);
    int64_t blocks = lw_ceil_div(w->k, lw_max(most, 32 * per_line));
    if (blocks > 1) {
        p->a.kc = lw_round_up(lw_ceil_div(w->k, blocks), 32);
        p->a.k_blocks = lw_ceil_div(w->k, p->a.kc);
    }
}

static int own_rows(const lw_gemm_plan *p, int64_t threads) { return !p->matrix && !p->g->plain && lw_own_rows(p->a.rows, threads); }

static void plan_tasks(lw_gemm_plan *p, const lw_ctx *ctx) {
    const lw_weight *w = p->w;
    int64_t threads = lw_pool_threads(ctx->pool), lines = lw_ceil_div(p->a.kc, lw_k_per_line(p));
    p->steps = lw_ceil_div(w->panels, p->step);
    /* A task should outlast what starting it costs: count a byte of weights, and 8 multiply-adds,
     * as a tenth of a nanosecond. */
    int64_t cost = lw_max((int64_t)w->panel_bytes, p->a.rows * w->k * LW_LANES / 8) / 10 * w->panels;
    int64_t wanted = lw_min((p->a.groups == 1 || p->g->plain ? STREAMS_PER_THREAD : TASKS_PER_THREAD) * threads, lw_max(cost / TASK_NS, 1));
    /* Blocks of rows that stay in L2 while a share of the panels passes; with many threads and few panels, more of them. */
    int64_t stay = (int64_t)ctx->l2 / 10 * (p->matrix ? 5 : p->amd ? 4 : 6) / (most_rows(p) * lw_max(lines, 1) * 4);
    p->blocks = p->g->plain ? 1 : lw_ceil_div(p->a.groups, lw_max(stay, BLOCK_GROUPS));
    p->ranges = lw_max(lw_min(lw_ceil_div(wanted, p->blocks), p->steps), 1);
    if (p->matrix && p->a.k_blocks > 1) {
        /* Three eighths of L2 each for the activations of a block of k and for the sums of all panels of a task. */
        int64_t rows = most_rows(p) * LW_LINE, fit = lw_max((int64_t)ctx->l2 * 3 / 8, 1);
        p->blocks = lw_min(lw_ceil_div(p->a.groups * rows * lw_max(lines / LW_LANES, 1), fit), p->a.groups);
        int64_t sums = lw_ceil_div(p->a.groups, p->blocks) * rows * p->step;
        wanted = lw_min(wanted, TASKS_PER_MATRIX_THREAD * threads);
        p->ranges = lw_min(lw_max(lw_ceil_div(p->steps * sums, fit), lw_ceil_div(wanted, p->blocks)), p->steps);
    }
    /* Each block of rows reads all weights, which for few row groups is most of what there is to do (bfloat16 that is widened reads half as
     * much). On tile registers one row group waits for its weights, and only the next finds them in L2. */
    const int narrow = w->format == LW_P16 && p->a.kind == LW_STAGE_F32;
    if (!p->matrix && !narrow && p->a.groups < BLOCK_GROUPS && p->ranges >= 4 * threads) return;
    p->blocks = lw_max(p->blocks, lw_min(wanted / p->ranges, p->matrix ? lw_max(p->a.groups / 2, 1) : p->a.groups));
    if (own_rows(p, threads) && wanted >= threads) {
        p->blocks = lw_min(lw_round_up(p->blocks, threads), p->a.groups);
        p->ranges = lw_max(lw_min(lw_ceil_div(wanted, p->blocks), p->steps), 1);
    }
}

static int needs_stage(const lw_gemm_plan *p) {
    if (p->a.kind != LW_STAGE_F32 || p->a.type != LW_F32 || p->a.k_blocks > 1) return 1;
    if (p->a.groups > 1 && p->w->panels >= DIRECT_PANELS) return 1;
    /* Rows in one cache set push each other out once a tile has as many rows as the set has ways. */
    return p->a.rows >= 4 && p->g->lda * 4 % ALIAS == 0 && p->w->panels >= 8;
}

static lw_status plan_memory(lw_gemm_plan *p, lw_ctx *ctx) {
    size_t staged = 0, slabs = 0;
    p->a.data = NULL;
    p->a.scale = NULL;
    p->slabs = NULL;
    p->a.tiles = p->matrix;
    p->a.lace = !p->matrix && (p->a.groups > 1 || p->a.kind == LW_STAGE_INT8);
    if (needs_stage(p)) staged = lw_stage_plan(&p->a);
    /* c cannot hold partial sums where it is no float32, or still holds the residual; tile registers would meet its rows in one
     * set of the cache. */
    if (p->a.k_blocks > 1 && (p->late || p->matrix || (p->g->residual && p->g->residual == p->g->c))) {
        p->late = 1;
        p->slab_ld = (lw_ceil_div(p->steps, p->ranges) * p->step + 1) * LW_LANES;
        p->slab_size = (lw_ceil_div(p->a.groups, p->blocks) * most_rows(p)) * p->slab_ld;
        slabs = (size_t)(lw_pool_threads(ctx->pool) * p->slab_size) * sizeof(float);
    }
    size_t packed = 0;
    if (p->g->plain) {
        p->packed_bytes = (size_t)(p->step * lw_ceil_div(p->a.kc, lw_k_per_line(p)) + 4) * LW_LINE;
        packed = p->packed_bytes * (size_t)lw_pool_threads(ctx->pool);
    }
    if (staged + slabs + packed == 0) return LW_OK;
    LW_TRY(lw_block_reserve(&ctx->scratch, staged + packed + slabs));
    unsigned char *memory = ctx->scratch.data;
    if (staged) lw_stage_place(&p->a, memory);
    p->packed = memory + staged;
    if (slabs) p->slabs = (float *)(memory + staged + packed);
    return LW_OK;
}

/* Panels that the busiest thread has with steps of so many. */
static int64_t share_of(int64_t panels, int64_t step, int64_t threads) {
    const int64_t steps = lw_ceil_div(panels, step), rounds = lw_ceil_div(steps, threads), alone = steps - (rounds - 1) * threads == 1;
    return (rounds - 1) * step + (alone ? panels - (steps - 1) * step : step);
}

/* Panels worked on together: no more than all row groups take at once, and fewer where few rows and many threads would leave
 * threads waiting for another's last step. */
static int step_of(const lw_gemm_plan *p, const lw_ctx *ctx) {
    const int64_t threads = lw_pool_threads(ctx->pool);
    const int unit = p->g->gated || p->matrix ? 2 : 1, most = lw_most_panels(p, p->a.low + (p->a.higher > 0));
    int step = most + most % unit;
    /* With rows enough two panels at a time, so that more of them stay in L1. */
    if (p->matrix && p->a.groups >= MATRIX_GROUPS) step = unit;
    /* Of int8 on tile registers k is not cut: this step and the next take a quarter of L2 at most. */
    if (p->matrix && p->a.kind == LW_STAGE_INT8 && 2 * step * p->w->panel_bytes > ctx->l2 / 4) step = unit;
    for (int s = step - unit; s > 0 && p->a.groups < BLOCK_GROUPS; s -= unit)
        if (5 * share_of(p->w->panels, s, threads) < 4 * share_of(p->w->panels, step, threads)) step = s;
    return step;
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */
static lw_status run_pass(lw_gemm_plan *p, lw_ctx *ctx) {
    const int64_t threads = lw_pool_threads(ctx->pool);
    p->a.groups = lw_ceil_div(p->a.rows, most_rows(p));
    if (own_rows(p, threads)) p->a.groups = lw_round_up(p->a.groups, threads);
    p->a.low = p->a.rows / p->a.groups;
    p->a.higher = p->a.rows % p->a.groups;
    p->step = step_of(p, ctx);
    plan_k(p, ctx);
    plan_tasks(p, ctx);
    p->ask_c = p->matrix && p->a.rows * p->g->ldc * lw_output_size(p) > (int64_t)ctx->l1d;
    LW_TRY(plan_memory(p, ctx));
    p->row_scale = p->a.scale ? p->a.scale : p->g->row_scale ? p->g->row_scale + p->row0 : NULL;
    if (p->a.data) LW_TRY(lw_stage_run(ctx, &p->a));
    return lw_pool_run(ctx->pool, p->blocks * p->ranges, lw_gemm_task, p);
}

/* k = 0: empty sums, finished. */
static void empty_sum(lw_gemm_plan *p) {
    static const float zeros[2 * LW_LANES];
    int unit = p->g->gated ? 2 : 1;
    p->row_scale = p->g->row_scale;
    for (int64_t row = 0; row < p->g->m; row++)
        for (int64_t panel = 0; panel < p->w->panels; panel += unit) {
            const lw_finish f = lw_gemm_due(p, row, 1, panel, unit, zeros, 2 * LW_LANES, NULL);
            p->kernels->finish(&f);
        }
}

lw_status lw_gemm_run(lw_ctx *ctx, const lw_gemm_args *args) {
    lw_weight plain;             /* the shape that b has once packed */
    const lw_weight *w = args->w;
    if (args->plain) {
        lw_format format = args->plain->type == LW_I8 ? LW_P8 : LW_P32;
        int64_t lines = lw_ceil_div(args->k, lw_formats[format].k_per_line);
        plain = (lw_weight){.format = format, .n = args->plain->rows, .k = args->k, .panel_bytes = (size_t)lines * LW_LINE,
                            .panels = lw_ceil_div(args->plain->rows, LW_LANES)};
        w = &plain;
    }
    if (args->m == 0 || w->n == 0) return LW_OK;
    lw_gemm_plan p = {.g = args, .w = w, .kernels = ctx->kernels, .amd = ctx->amd, .far = lw_from_memory(ctx, w)};
    p.a = (lw_stage){.kernels = ctx->kernels, .kind = LW_STAGE_F32, .type = args->a_type, .lda = args->lda, .k = w->k};
    p.late = args->act != LW_ACT_NONE || args->gated || args->c_type != LW_F32;
    p.tile = w->format == LW_P32 ? p.kernels->tile_f32 : p.kernels->tile_bf16;
    if (w->format == LW_P16 && p.kernels->tile_dot && !args->exact) {
        p.matrix = p.kernels->matrix_rows > 0;
        p.tile = p.matrix ? p.kernels->matrix_dot : p.kernels->tile_dot;
        p.a.kind = LW_STAGE_BF16;
        p.late = p.late || (p.matrix && (args->bias || args->residual));
    } else if (w->format == LW_P8) {
        p.matrix = p.kernels->matrix_rows > 0 && args->m >= MATRIX_INT8_ROWS;
        p.tile = p.matrix ? p.kernels->matrix_int8 : p.kernels->tile_int8;
        p.a.kind = LW_STAGE_INT8;
        int scaled = args->column_scale && (args->row_scale || args->a_type == LW_F32);
        p.late = p.matrix || (args->c_type != LW_I32 && (p.late || !scaled || args->residual));
    }
    if (w->k == 0) {
        empty_sum(&p);
        return LW_OK;
    }
    if (w->format >= LW_Q4_0) return lw_gemm_quant_run(ctx, args);
    int64_t per_unit = p.a.kind == LW_STAGE_F32 ? 1 : p.a.kind == LW_STAGE_BF16 ? 2 : 4;
    const int64_t threads = lw_pool_threads(ctx->pool), fit = lw_max(STAGE_BYTES, STAGE_THREAD_BYTES * threads);
    const int64_t most = lw_max(fit / (w->k * 4 / per_unit), PASS_ROWS), passes = lw_ceil_div(args->m, most);
    /* Passes of as many row groups for each thread, where there are some; or groups would be smaller. */
    const int64_t groups = lw_ceil_div(args->m, most_rows(&p) * threads), parts = groups >= passes ? groups : args->m;
    for (int64_t pass = 0; pass < passes; pass++) {
        p.row0 = lw_split(args->m, parts, lw_split(parts, passes, pass));
        p.a.rows = lw_split(args->m, parts, lw_split(parts, passes, pass + 1)) - p.row0;
        p.a.a = (const char *)args->a + p.row0 * args->lda * (int64_t)lw_type_size(args->a_type);
        LW_TRY(run_pass(&p, ctx));
    }
    return LW_OK;
}
