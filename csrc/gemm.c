/* gemm.c - the driver of products: row groups, k blocks, tasks.
 *
 * Nothing here can change a bit: every output element stays one chain in ascending k, cut only at even positions, with its
 * partial sums kept in float32. What the plan decides is which operand is read again from which cache:
 *   few rows    a task walks its panels in order: a few sequential streams of weights, all rows per panel
 *   many rows   a panel step's weights stay in cache while all row groups of a block pass by as one stream; the lines of
 *               the next step are fetched meanwhile */
#include "stage.h"
#include "format.h"
#include <string.h>

typedef struct plan {
    const lw_gemm_args *g;
    const lw_weight *w;
    const lw_kernels *kernels;
    void (*tile)(const lw_tile *);
    lw_stage a;                  /* the rows of this pass; a.data NULL: activations where the caller has them */
    int64_t row0;
    int64_t steps, ranges;       /* steps of `step` panels; ranges of steps */
    int64_t blocks;              /* runs of row groups. Tasks: blocks x ranges */
    int step;
    int amd;
    int matrix;                  /* on tile registers: other tiles, and activations stay rows */
    int wide_c;                  /* on tile registers: c is larger than L2 */
    int late;                    /* sums are formed aside and finished from there */
    const float *row_scale;      /* of this pass, or NULL */
    unsigned char *packed;       /* plain b: a panel step's lines, packed by the worker that needs them */
    size_t packed_bytes;         /* per worker */
    float *slabs;                /* sums of a task where k is cut: one slab per worker */
    int64_t slab_size, slab_ld;
} plan;

/* i * total / parts without overflow for any sizes that occur: the first of part i of a balanced split. */
static int64_t split(int64_t total, int64_t parts, int64_t i) { return total / parts * i + total % parts * i / parts; }

/* ---- planning ---------------------------------------------------------------------------------------------------- */
static int most_rows(const plan *p) { return p->matrix ? p->kernels->matrix_rows : p->kernels->rows; }
static int most_panels(const plan *p, int64_t rows) { return p->matrix ? LW_MAX_STEP : p->kernels->panels[rows]; }

enum {
    STAGE_BYTES = 4 << 20,       /* activations of one pass: they are read again for every panel step, from a shared cache */
    ALIAS = 4096,                /* rows at multiples of this fall into one set of the L1 cache */
    TASKS_PER_THREAD = 32,       /* the last of them is what threads wait for */
    TASKS_PER_MATRIX_THREAD = 4, /* where sums wait for the next block of k: each task reads all activations */
    TASK_NS = 1500,              /* about what handing a task to another thread costs, a few times */
    STREAMS_PER_THREAD = 4,      /* with one row group: long streams */
    AHEAD = 6144,                /* bytes from the line in use of a panel to the one to fetch */
    GUESSED_ROWS = 4,            /* two to so many rows of many panels need none on AMD */
    FAR_BYTES = 32 << 20,        /* so large weights come from memory, and those of a model */
    PASS_ROWS = 64,              /* at least */
    MATRIX_INT8_ROWS = 8,        /* with fewer the byte dot product of vectors wastes less */
    MATRIX_K_BYTES = 4096,       /* of bfloat16 in a block of k on tile registers at most */
    DIRECT_PANELS = 16,          /* with fewer panels interleaving costs more than it gives */
    WIDE_TILE = 16,              /* accumulator lines from which on a tile can take its weights from L2 */
    BLOCK_GROUPS = 4             /* row groups at least for which a panel step's weights are fetched */
};

/* k blocks. Large tiles take both operands from L2: a block of rows and a panel step's lines stay there. Small ones need
 * the lines in L1, beside one row group's activations: longer blocks (fewer visits to c) were worth more than room to spare. */
static void plan_k(plan *p, const lw_ctx *ctx) {
    const lw_weight *w = p->w;
    int64_t per_line = lw_formats[w->format].k_per_line, high = p->a.low + (p->a.higher > 0);
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

static void plan_tasks(plan *p, const lw_ctx *ctx) {
    const lw_weight *w = p->w;
    int64_t threads = lw_pool_threads(ctx->pool), lines = lw_ceil_div(p->a.kc, lw_formats[w->format].k_per_line);
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
        /* A quarter of L2 each for the activations of a block of k and for the sums of all panels of a task. */
        int64_t rows = most_rows(p) * LW_LINE, fit = lw_max((int64_t)ctx->l2 / 4, 1);
        p->blocks = lw_min(lw_ceil_div(p->a.groups * rows * lw_max(lines / LW_LANES, 1), fit), p->a.groups);
        int64_t sums = lw_ceil_div(p->a.groups, p->blocks) * rows * p->step;
        wanted = lw_min(wanted, TASKS_PER_MATRIX_THREAD * threads);
        p->ranges = lw_min(lw_max(lw_ceil_div(p->steps * sums, fit), lw_ceil_div(wanted, p->blocks)), p->steps);
    }
    /* On tile registers one row group waits for its weights, and only the next finds them in L2. */
    p->blocks = lw_max(p->blocks, lw_min(wanted / p->ranges, p->matrix ? lw_max(p->a.groups / 2, 1) : p->a.groups));
}

static int needs_stage(const plan *p) {
    if (p->a.kind != LW_STAGE_F32 || p->a.type != LW_F32 || p->a.k_blocks > 1) return 1;
    if (p->a.groups > 1 && p->w->panels >= DIRECT_PANELS) return 1;
    /* Rows in one cache set push each other out once a tile has as many rows as the set has ways. */
    return p->a.rows >= 4 && p->g->lda * 4 % ALIAS == 0 && p->w->panels >= 8;
}

static lw_status plan_memory(plan *p, lw_ctx *ctx) {
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
        p->packed_bytes = (size_t)(p->step * lw_ceil_div(p->a.kc, lw_formats[p->w->format].k_per_line) + 4) * LW_LINE;
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

/* ---- tasks ------------------------------------------------------------------------------------------------------- */
typedef struct job {
    int64_t group0, group1, panel0, panel1;
    float *slab;                 /* sums of (first row, first panel) of this task, or NULL */
    unsigned char *packed;       /* for a panel step's lines of a plain b */
    int *held;                   /* what the tile registers are configured for */
} job;

/* The hardware follows no jumps between rows of c: ask for them before the tile that needs them at its end (at its
 * beginning, where it continues sums: then one tile ahead). Waiting for c alone costs a fifth where it comes from memory. */
ALWAYS_INLINE void fetch_rows(const char *c, int64_t stride, int64_t rows, int64_t bytes) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t at = 0; at < bytes + LW_LINE - 1; at += LW_LINE) __builtin_prefetch(c + i * stride + at, 1, 3);
}

void lw_gemm_finish(const lw_kernels *kernels, const lw_gemm_args *g, const lw_sums *s, int64_t n) {
    int64_t column = s->panel * LW_LANES, to = g->gated ? column / 2 : column;
    int64_t width = g->gated ? lw_min(s->panels / 2 * LW_LANES, g->gated - to) : lw_min(s->panels * LW_LANES, n - column);
    lw_finish f = {.sums = s->sums, .ld = s->ld, .integers = s->integers, .rows = s->rows, .columns = (int)width,
                   .act = g->act, .gated = g->gated > 0, .type = g->c_type, .dot = g->c_dot, .ldc = g->ldc, .ldr = g->ldr,
                   .row_scale = s->row_scale};
    if (g->bias) f.bias = g->bias + column;
    if (g->column_scale) f.column_scale = g->column_scale + column;
    if (g->residual) f.residual = g->residual + s->row * g->ldr + to;
    f.c = (char *)g->c + (s->row * g->ldc + to) * (int64_t)lw_type_size(g->c_type);
    kernels->finish(&f);
}

/* Sums of `rows` rows from `row` (of the pass) and `panels` panels from `panel` -> c. */
static void finish(const plan *p, int64_t row, int rows, int64_t panel, int64_t panels, const float *sums, int64_t ld) {
    lw_sums s = {.sums = sums, .ld = ld, .integers = p->a.kind == LW_STAGE_INT8, .row = p->row0 + row, .rows = rows,
                 .panel = panel, .panels = panels, .row_scale = p->row_scale ? p->row_scale + row : NULL};
    lw_gemm_finish(p->kernels, p->g, &s, p->w->n);
}

static const void *activations(const plan *p, int64_t row, int64_t kb) {
    if (p->a.data) return lw_staged(&p->a, kb, row);
    return (const float *)p->a.a + row * p->g->lda + kb * p->a.kc;
}

static const unsigned char *lines_at(const plan *p, int64_t panel, int64_t kb) {
    const lw_weight *w = p->w;
    return w->lines + (size_t)panel * w->panel_bytes + (size_t)(kb * p->a.kc / lw_formats[w->format].k_per_line * LW_LINE);
}

/* lda of the tiles. */
static int64_t row_elements(const plan *p) {
    if (!p->a.data) return p->g->lda;
    return p->a.lace ? 0 : p->a.ld * (p->a.kind == LW_STAGE_F32 ? 1 : p->a.kind == LW_STAGE_BF16 ? 2 : 4);
}

static int64_t output_size(const plan *p) { return p->g->c_type == LW_BF16 ? 2 : 4; }
static char *output_at(const plan *p, int64_t row, int64_t panel) {
    return (char *)p->g->c + ((p->row0 + row) * p->g->ldc + panel * LW_LANES / (p->g->gated ? 2 : 1)) * output_size(p);
}

/* Rows of c that the tile at `row` writes, or that one tile further on reads. */
ALWAYS_INLINE void fetch_outputs(const plan *p, int64_t row, int64_t rows, int64_t panel, const lw_tile *t) {
    fetch_rows(output_at(p, row, panel), t->ldo, rows, p->step * t->out_line);
}

static int far(const plan *p) { return p->w->borrowed || p->w->bytes >= FAR_BYTES; }

/* All row groups of a task x one panel step x one k block. `next`: the lines that come after these, of which each group fetches its
 * share. */
static void cell(const plan *p, const job *j, int64_t panel, int64_t kb, const unsigned char *next) {
    const lw_gemm_args *g = p->g;
    const lw_weight *w = p->w;
    ALIGN(64) float aside[LW_MAX_ROWS * LW_MAX_STEP * LW_LANES];
    int last = kb == p->a.k_blocks - 1, direct = last && !p->late, per_line = lw_formats[w->format].k_per_line;
    int64_t k0 = kb * p->a.kc, panel_end = lw_min(panel + p->step, j->panel1), first_row = lw_group_row(&p->a, j->group0);
    lw_tile t = {.ldb = (ptrdiff_t)w->panel_bytes, .ldr = g->ldr, .k = (int)lw_min(p->a.kc, w->k - k0), .accumulate = kb > 0,
                 .lda = row_elements(p), .held = j->held, .ldo = g->ldc * output_size(p),
                 .out_line = LW_LANES * output_size(p) / (g->gated ? 2 : 1)};
    const int64_t groups = j->group1 - j->group0;
    if (!p->g->plain) t.pace = lw_ceil_div(LW_LINE, groups);
    if (p->a.kind != LW_STAGE_F32) t.k = (int)lw_round_up(t.k, per_line);   /* the tail is zero */
    const unsigned char *lines = p->g->plain ? j->packed : lines_at(p, panel, kb);
    if (p->g->plain) t.ldb = lw_ceil_div(t.k, per_line) * LW_LINE;
    int32_t sums[LW_MAX_STEP * LW_LANES];
    for (int64_t i = panel; p->g->plain && i < panel_end; i++) {
        unsigned char *to = j->packed + (i - panel) * t.ldb;
        lw_pack_panel(w->format, p->g->plain, i, k0, lw_min(p->a.kc, w->k - k0), to);
        if (p->g->a_type == LW_U8) lw_byte_sums(to, w->k, sums + (i - panel) * LW_LANES);
    }
    const int32_t *offsets = p->g->a_type != LW_U8 ? NULL : p->g->plain ? sums : w->sums + panel * LW_LANES;
    float *c = j->slab ? j->slab + (panel - j->panel0) * LW_LANES
                       : p->late ? aside : (float *)g->c + (p->row0 + first_row) * g->ldc + panel * LW_LANES;
    t.ldc = j->slab ? p->slab_ld : p->late ? p->step * LW_LANES : g->ldc;
    int64_t row = first_row, rows_end = lw_group_row(&p->a, j->group1);
    for (int64_t group = j->group0; group < j->group1; group++, row += t.rows) {
        t.rows = (int)(p->a.low + (group < p->a.higher));
        t.a = activations(p, row, kb);
        if (p->a.start) t.start = p->a.start + row;
        if (direct && p->row_scale) t.row_scale = p->row_scale + row;
        float *c_row = c == aside ? c : c + (row - first_row) * t.ldc;
        if (kb == 0 && last && !p->matrix) fetch_outputs(p, row, t.rows, panel, &t);
        else if (!p->late && row + t.rows < rows_end && !p->matrix) fetch_outputs(p, row + t.rows, t.rows, panel, &t);
        int most = most_panels(p, t.rows);
        for (int64_t at = panel; at < panel_end; at += t.panels) {
            int64_t column = at * LW_LANES;
            t.panels = (int)lw_min(most, panel_end - at);
            t.columns = p->late ? t.panels * LW_LANES : (int)lw_min(t.panels * LW_LANES, w->n - column);
            t.b = lines + (at - panel) * t.ldb;
            t.offsets = offsets ? offsets + (at - panel) * LW_LANES : NULL;
            t.next = next + (at - panel) * t.ldb + (group - j->group0) * (t.k / per_line) / groups * LW_LINE;
            t.bias = direct && g->bias ? g->bias + column : NULL;
            t.residual = direct && g->residual ? g->residual + (p->row0 + row) * g->ldr + column : NULL;
            t.column_scale = direct && g->column_scale ? g->column_scale + column : NULL;
            t.c = c_row + (at - panel) * LW_LANES;
            if (last && p->wide_c) t.out = output_at(p, row, at);
            p->tile(&t);
        }
        if (p->late && last) finish(p, row, t.rows, panel, panel_end - panel, c_row, t.ldc);
    }
}

static void add_offsets(int32_t *sums, int64_t ld, int rows, const int32_t *offsets) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < LW_LANES; i++) sums[r * ld + i] = (int32_t)((uint32_t)sums[r * ld + i] + (uint32_t)offsets[i]);
}

/* What to ask for ahead of the lines in use; 0 where the hardware does as well. Elsewhere than on AMD it follows what comes from the
 * last cache, and one row of vectors in any case. */
static ptrdiff_t fetch_ahead(const plan *p, int rows, int panels) {
    if (p->amd) {
        const int guessed = p->a.kind == LW_STAGE_INT8 ? rows <= GUESSED_ROWS : rows > 1 && rows <= GUESSED_ROWS && panels > 2;
        return guessed && !p->matrix ? 0 : AHEAD;
    }
    if (!far(p)) return 0;
    return rows == 1 && !p->matrix ? 0 : AHEAD;
}

/* One row group: every weight is used once, so memory sets the pace. The panels of a tile are taken from equal parts of the
 * range, not side by side: each part is then one stream from its first panel to its last, and the hardware, which
 * follows streams, is not thrown off at the end of every panel. Sums go through a small buffer to their columns. */
static void stream_range(const plan *p, const job *j) {
    const lw_weight *w = p->w;
    ALIGN(64) float sums[LW_MAX_ROWS * LW_MAX_STEP * 2 * LW_LANES];
    int rows = (int)p->a.rows, most = most_panels(p, rows), unit = p->g->gated ? 2 : 1;
    int64_t units = (j->panel1 - j->panel0) / unit, part = lw_ceil_div(units, most);
    lw_tile t = {.a = activations(p, 0, 0), .rows = rows, .start = p->a.start,
                 .lda = row_elements(p), .ldb = (ptrdiff_t)((size_t)(part * unit) * w->panel_bytes), .k = (int)w->k, .held = j->held,
                 .ahead = fetch_ahead(p, rows, most)};
    if (p->a.kind == LW_STAGE_INT8) t.k = (int)lw_round_up(t.k, 4);
    for (int64_t i = 0; i < part; i++) {
        t.panels = (int)lw_ceil_div(units - i, part);
        t.columns = t.panels * LW_LANES;
        t.ldc = t.columns;
        for (int half = 0; half < unit; half++) {
            t.c = sums + half * rows * t.ldc;
            int64_t panel = j->panel0 + i * unit + half;
            t.b = w->lines + (size_t)panel * w->panel_bytes;
            p->tile(&t);
            for (int q = 0; p->g->a_type == LW_U8 && q < t.panels; q++)
                add_offsets((int32_t *)t.c + q * LW_LANES, t.ldc, rows, w->sums + (panel + q * part * unit) * LW_LANES);
        }
        for (int q = 0; q < t.panels; q++) {
            ALIGN(64) float pair[LW_MAX_ROWS * 2 * LW_LANES];
            int64_t panel = j->panel0 + (i + q * part) * unit;
            if (unit == 1) {
                finish(p, 0, rows, panel, 1, sums + q * LW_LANES, t.ldc);
                continue;
            }
            for (int r = 0; r < 2 * rows; r++)
                memcpy(pair + r * LW_LANES, sums + (r % 2 * rows + r / 2) * t.ldc + q * LW_LANES, LW_LINE);
            finish(p, 0, rows, panel, 2, pair, 2 * LW_LANES);
        }
    }
}

static void run_task(void *arg, int64_t task, int worker) {
    const plan *p = arg;
    int64_t range = task % p->ranges, block = task / p->ranges;
    job j = {.group0 = split(p->a.groups, p->blocks, block), .group1 = split(p->a.groups, p->blocks, block + 1),
             .panel0 = split(p->steps, p->ranges, range) * p->step,
             .panel1 = lw_min(split(p->steps, p->ranges, range + 1) * p->step, p->w->panels),
             .slab = p->slabs ? p->slabs + worker * p->slab_size : NULL,
             .packed = p->packed + (size_t)worker * p->packed_bytes};
    int held = 0;
    if (p->matrix) j.held = &held;
    if (p->a.groups == 1 && !p->g->plain) stream_range(p, &j);
    else for (int64_t kb = 0; kb < p->a.k_blocks; kb++)
        for (int64_t panel = j.panel0; panel < j.panel1; panel += p->step) {
            int more = panel + p->step < j.panel1;
            int64_t next = more || (kb + 1 == p->a.k_blocks && j.panel1 < p->w->panels) ? panel + p->step : j.panel0;
            cell(p, &j, panel, kb, p->g->plain ? j.packed : lines_at(p, next, more ? kb : (kb + 1) % p->a.k_blocks));
        }
    if (p->matrix) p->kernels->matrix_release();
}

/* Panels that the busiest thread has with steps of so many. */
static int64_t share_of(int64_t panels, int64_t step, int64_t threads) {
    const int64_t steps = lw_ceil_div(panels, step), rounds = lw_ceil_div(steps, threads), alone = steps - (rounds - 1) * threads == 1;
    return (rounds - 1) * step + (alone ? panels - (steps - 1) * step : step);
}

/* Panels worked on together: no more than all row groups take at once, and fewer where few rows and many threads would leave
 * threads waiting for another's last step. */
static int step_of(const plan *p, const lw_ctx *ctx) {
    const int64_t threads = lw_pool_threads(ctx->pool);
    const int unit = p->g->gated || p->matrix ? 2 : 1, most = most_panels(p, p->a.low + (p->a.higher > 0));
    int step = most + most % unit;
    /* Of int8 on tile registers k is not cut: this step and the next take a quarter of L2 at most. */
    if (p->matrix && p->a.kind == LW_STAGE_INT8 && 2 * step * p->w->panel_bytes > ctx->l2 / 4) step = unit;
    for (int s = step - unit; s > 0 && p->a.groups < BLOCK_GROUPS; s -= unit)
        if (5 * share_of(p->w->panels, s, threads) < 4 * share_of(p->w->panels, step, threads)) step = s;
    return step;
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */
static lw_status run_pass(plan *p, lw_ctx *ctx) {
    p->a.groups = lw_ceil_div(p->a.rows, most_rows(p));
    p->a.low = p->a.rows / p->a.groups;
    p->a.higher = p->a.rows % p->a.groups;
    p->step = step_of(p, ctx);
    plan_k(p, ctx);
    plan_tasks(p, ctx);
    p->wide_c = p->matrix && p->a.rows * p->g->ldc * output_size(p) > (int64_t)ctx->l2;
    LW_TRY(plan_memory(p, ctx));
    p->row_scale = p->a.scale ? p->a.scale : p->g->row_scale ? p->g->row_scale + p->row0 : NULL;
    if (p->a.data) LW_TRY(lw_stage_run(ctx, &p->a));
    return lw_pool_run(ctx->pool, p->blocks * p->ranges, run_task, p);
}

/* k = 0: empty sums, finished. */
static void empty_sum(plan *p) {
    static const float zeros[2 * LW_LANES];
    int unit = p->g->gated ? 2 : 1;
    p->row_scale = p->g->row_scale;
    for (int64_t row = 0; row < p->g->m; row++)
        for (int64_t panel = 0; panel < p->w->panels; panel += unit) finish(p, row, 1, panel, unit, zeros, 2 * LW_LANES);
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
    plan p = {.g = args, .w = w, .kernels = ctx->kernels, .amd = ctx->amd};
    p.a = (lw_stage){.kernels = ctx->kernels, .kind = LW_STAGE_F32, .type = args->a_type, .lda = args->lda, .k = w->k};
    p.late = args->act != LW_ACT_NONE || args->gated || args->c_type != LW_F32;
    p.tile = w->format == LW_P32 ? p.kernels->tile_f32 : p.kernels->tile_bf16;
    if (w->format == LW_P16 && p.kernels->tile_dot && !args->exact) {
        p.matrix = p.kernels->matrix_rows > 0;
        p.tile = p.matrix ? p.kernels->matrix_dot : p.kernels->tile_dot;
        p.a.kind = LW_STAGE_BF16;
    } else if (w->format == LW_P8) {
        p.matrix = p.kernels->matrix_rows > 0 && args->m >= MATRIX_INT8_ROWS;
        p.tile = p.matrix ? p.kernels->matrix_int8 : p.kernels->tile_int8;
        p.a.kind = LW_STAGE_INT8;
        int scaled = args->column_scale && (args->row_scale || args->a_type == LW_F32);
        p.late = args->c_type != LW_I32 && (p.late || !scaled || args->residual);
    }
    if (w->k == 0) {
        empty_sum(&p);
        return LW_OK;
    }
    if (w->format >= LW_Q4_0) return lw_gemm_quant_run(ctx, args);
    int64_t per_unit = p.a.kind == LW_STAGE_F32 ? 1 : p.a.kind == LW_STAGE_BF16 ? 2 : 4;
    int64_t most = lw_max(STAGE_BYTES / (w->k * 4 / per_unit + 1), PASS_ROWS), passes = lw_ceil_div(args->m, most);
    for (int64_t pass = 0; pass < passes; pass++) {
        p.row0 = split(args->m, passes, pass);
        p.a.rows = split(args->m, passes, pass + 1) - p.row0;
        p.a.a = (const char *)args->a + p.row0 * args->lda * (int64_t)lw_type_size(args->a_type);
        LW_TRY(run_pass(&p, ctx));
    }
    return LW_OK;
}
