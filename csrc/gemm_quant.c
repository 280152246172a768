/* gemm_quant.c - the driver of products with quantised weights.
 *
 * The activations are quantised once per call, row group by row group, into streams that tiles read from end to end (quant.h).
 * A pair of panels over all k fits L2, and passes every row group while it is there.
 *   few row groups    tiles read the packed planes as they are: the weights leave memory once and are small in the caches
 *   more              each pair is expanded to bytes and float32 scales first, into a buffer of the worker's own, and one kind
 *                     of tile does the work whatever the format
 *   on tile registers the same with other forms of both operands. k is cut so that the activations of a block of k stay in L2 beside
 *                     the sums of a few pairs, which wait there for the next block
 * Nothing here can change a bit: a row's sums do not depend on its group, nor on the form of the weights. */
#include "context.h"
#include "quant.h"
#include <string.h>

enum {
    PAIR = 2,                    /* panels of a tile */
    STAGE_BYTES = 32 << 20,      /* quantised activations per pass */
    TASKS_PER_THREAD = 4,
    AHEAD = 6144, NEAR = 2048,   /* bytes from the line in use to the one to fetch from memory, and on from L2, per panel */
    LEAN_AHEAD = 1536,           /* with one request for a line */
    MATRIX_ROWS = 32,            /* from so many on tile registers are ahead, */
    MATRIX_FINE_ROWS = 48,       /* or where each block has a scale of the activations', */
    MATRIX_WHOLE_ROWS = 28,      /* or where sub-scales are integers, */
    MATRIX_WHOLE16_ROWS = 20,    /* and blocks are small */
    MATRIX_PASS = 512,           /* rows of a pass on tile registers */
    MATRIX_UNITS = LW_MATRIX_QUANT_ROWS / LW_MATRIX_UNIT,
    MATRIX_SUMS = PAIR * LW_MATRIX_QUANT_ROWS * LW_LANES,
    MATRIX_PAIRS = 4,            /* whose sums wait together */
    FEW_GROUPS = 8               /* so few fetch the next pair while they multiply; of more, on AMD, each a slice before */
};

typedef struct plan {
    const lw_gemm_args *g;
    const lw_kernels *kernels;
    int form, run_form, act_form;    /* rows of lw_quants: of the weights; of what tiles read; of whom the activations are made */
    int amd, far;                /* far: the weights come from memory */
    int matrix;                  /* on tile registers; then rows are grouped by whole units */
    int64_t kc;                  /* k of a block, whole superblocks */
    int64_t row0, rows;          /* of this pass */
    int64_t groups, low, higher; /* row groups: `low` rows (units) each, one more in the first `higher` */
    int64_t pairs, ranges, blocks, slice;
    int late;                    /* sums are formed aside and finished from there */
    size_t row_bytes;            /* of quantised activations */
    size_t panel_bytes;          /* of an expanded panel */
    unsigned char *staged, *buffers;
    float *sums;                 /* of a worker's pairs between two blocks of k: [pair][group][MATRIX_SUMS] */
    float *gathered;             /* a row group of each worker: the activations in the order of the weight's inputs */
    int64_t gather_rows, gather_ld;
} plan;

static int64_t split(int64_t total, int64_t parts, int64_t i) { return total / parts * i + total % parts * i / parts; }
static int64_t group_first(const plan *p, int64_t group) { return group * p->low + lw_min(group, p->higher); }
static int64_t group_row(const plan *p, int64_t group) {
    return p->matrix ? lw_min(group_first(p, group) * LW_MATRIX_UNIT, p->rows) : group_first(p, group);
}
static int64_t units_of(const plan *p) { return lw_ceil_div(p->rows, LW_MATRIX_UNIT); }

/* Rows in the order of the weight's inputs. Row by row: one that is picked from has to be in L1, and the next comes meanwhile. */
static void gather_rows(const plan *p, int64_t rows, const float *a, float *out)
{
    const int32_t *order = p->g->w->order;
    for (int64_t r = 0, k = p->g->w->k; r < rows; r++, out += p->gather_ld) {
        const float *row = a + r * p->g->lda, *next = row + p->g->lda;
        for (int64_t i = 0; i < k; i += LW_LANES) {      /* k is a multiple of 32 */
            __builtin_prefetch(next + i, 0, 3);
            for (int64_t j = i; j < i + LW_LANES; j++) out[j] = row[order[j]];
        }
    }
}

/* Rows as the weight's inputs are ordered. */
static const float *ordered(const plan *p, int64_t row, int64_t rows, int worker, int64_t *lda)
{
    const float *a = (const float *)p->g->a + (p->row0 + row) * p->g->lda;
    *lda = p->g->lda;
    if (!p->g->w->order) return a;
    float *gathered = p->gathered + worker * p->gather_rows * p->gather_ld;
    gather_rows(p, rows, a, gathered);
    *lda = p->gather_ld;
    return gathered;
}

static void quantize_group(void *arg, int64_t group, int worker)
{
    const plan *p = arg;
    int64_t row = group_row(p, group), rows = group_row(p, group + 1) - row, lda;
    const float *a = ordered(p, row, rows, worker, &lda);
    p->kernels->quantize(p->act_form, (int)rows, p->g->w->k, a, lda, p->staged + (size_t)row * p->row_bytes);
}

static void quantize_unit(void *arg, int64_t unit, int worker)
{
    const plan *p = arg;
    int64_t wide = p->higher * (p->low + 1), group = unit < wide ? unit / (p->low + 1) : p->higher + (unit - wide) / p->low;
    int64_t first = group_first(p, group), row = unit * LW_MATRIX_UNIT, rows = lw_min(LW_MATRIX_UNIT, p->rows - row), lda;
    const float *a = ordered(p, row, rows, worker, &lda);
    p->kernels->matrix_quantize(p->form, (int)rows, p->g->w->k, a, lda, (int)(unit - first), (int)(group_first(p, group + 1) - first),
                                p->staged + (size_t)(first * LW_MATRIX_UNIT) * p->row_bytes);
}

/* Rows of c that a tile or what finishes its sums writes: tall tiles ask for them while they multiply, others are asked for before, as
 * is a residual that lies elsewhere. */
static void ask_rows(const plan *p, int64_t row, int64_t column, lw_quant_tile *t)
{
    const lw_gemm_args *g = p->g;
    const int64_t size = g->c_type == LW_BF16 ? 2 : 4, unit = g->gated ? 2 : 1;
    const char *c = (char *)g->c + ((p->row0 + row) * g->ldc + column / unit) * size;
    if (t->rows > LW_QUANT_LOW_ROWS) {
        t->ask = c, t->ld_ask = g->ldc * size;
        return;
    }
    lw_fetch_rows(c, g->ldc * size, t->rows, PAIR * LW_LANES * size / unit, 0);
    if (g->residual && g->residual != g->c)
        lw_fetch_rows(g->residual + (p->row0 + row) * g->ldr + column / unit, g->ldr * 4, t->rows, PAIR * LW_LINE / unit, 0);
}

/* Sums of a tile that are still to be finished -> c. */
static void finish(const plan *p, int64_t row, int rows, int64_t panel, int64_t panels, const float *sums)
{
    lw_sums s = {.sums = sums, .ld = PAIR * LW_LANES, .row = p->row0 + row, .rows = rows, .panel = panel, .panels = panels};
    lw_gemm_finish(p->kernels, p->g, &s, p->g->w->n);
}

/* The tiles of one pair of panels. */
static void run_pair(const plan *p, int64_t pair, int64_t group0, int64_t group1, unsigned char *buffer)
{
    const lw_gemm_args *g = p->g;
    const lw_weight *w = g->w;
    const unsigned char *lines = w->lines + (size_t)(pair * PAIR) * w->panel_bytes, *next = lines + PAIR * w->panel_bytes;
    int64_t column = pair * PAIR * LW_LANES;
    lw_quant_tile t = {.b = lines, .ldb = (ptrdiff_t)w->panel_bytes, .k = w->k, .form = p->run_form, .ldc = g->ldc,
                       .ldr = g->ldr, .panels = (int)lw_min(PAIR, w->panels - pair * PAIR),
                       .columns = (int)lw_min(PAIR * LW_LANES, w->n - column), .bias = g->bias ? g->bias + column : NULL};
    const int sliced = buffer || group1 - group0 > FEW_GROUPS;
    t.ahead = sliced ? AHEAD : (int)(PAIR * w->panel_bytes);
    t.shares = sliced ? 1 : (int)(group1 - group0);
    ALIGN(64) float aside[LW_MAX_ROWS * PAIR * LW_LANES];
    if (p->late) t.c = aside, t.ldc = PAIR * LW_LANES, t.columns = t.panels * LW_LANES, t.bias = NULL;
    if (buffer) {
        for (int i = 0; i < t.panels; i++)
            p->kernels->expand_quant(p->form, w->k, lines + (size_t)i * w->panel_bytes, buffer + (size_t)i * p->panel_bytes);
        t.b = buffer;
        t.ldb = (ptrdiff_t)p->panel_bytes;
    }
    for (int64_t group = group0; group < group1; group++) {
        int64_t row = group_row(p, group);
        t.rows = (int)(group_row(p, group + 1) - row);
        t.a = p->staged + (size_t)row * p->row_bytes;
        if (!p->late) t.c = (float *)g->c + (p->row0 + row) * g->ldc + column;
        t.residual = g->residual && !p->late ? g->residual + (p->row0 + row) * g->ldr + column : NULL;
        /* The next pair is on its way to L2, a slice with each group: on AMD, where others fill their few buffers with it and wait. */
        for (int64_t i = 0; sliced && p->amd && i < p->slice; i += LW_LINE) __builtin_prefetch(next + i, 0, 2);
        next += p->slice;
        ask_rows(p, row, column, &t);
        p->kernels->tile_quant(&t);
        if (p->late) finish(p, row, t.rows, pair * PAIR, t.panels, aside);
        if (sliced) t.ahead = 0;     /* the weights are in the caches now */
        else t.share++;
    }
}

static const unsigned char *lines_at(const plan *p, int64_t pair, int64_t k0)
{
    return p->g->w->lines + (size_t)(pair * PAIR) * p->g->w->panel_bytes + lw_quant_panel_bytes(&lw_quants[p->form], k0);
}

/* The same on tile registers, for the k values from k0 on. sums: [group][MATRIX_SUMS], what came before and what goes on.
 * next: the weights after these, of which each group fetches its share; or NULL. */
static void run_matrix_pair(const plan *p, int64_t pair, int64_t k0, int64_t group0, int64_t group1, unsigned char *buffer, float *sums,
                            int *held, const unsigned char *next)
{
    const lw_gemm_args *g = p->g;
    const lw_weight *w = g->w;
    const lw_quant *f = &lw_quants[p->form];
    const int64_t k = lw_min(p->kc, w->k - k0), column = pair * PAIR * LW_LANES;
    const int64_t share = lw_ceil_div(lw_quant_panel_bytes(f, k), group1 - group0);
    const unsigned char *lines = lines_at(p, pair, k0);
    ALIGN(64) float aside[LW_MATRIX_QUANT_ROWS * PAIR * LW_LANES];
    lw_quant_matrix t = {.b = buffer, .ldb = (ptrdiff_t)p->panel_bytes, .k = (int)k, .form = p->run_form, .ldc = g->ldc, .ldr = g->ldr,
                         .panels = (int)lw_min(PAIR, w->panels - pair * PAIR), .columns = (int)lw_min(PAIR * LW_LANES, w->n - column),
                         .group = lw_quant_group(w->k), .bias = g->bias ? g->bias + column : NULL, .first = k0 == 0,
                         .last = k0 + k == w->k, .finite = 1, .held = held, .ldn = (ptrdiff_t)w->panel_bytes};
    if (p->late) t.c = aside, t.ldc = PAIR * LW_LANES, t.columns = t.panels * LW_LANES, t.bias = NULL;
    for (int i = 0; i < t.panels; i++)
        t.finite &= p->kernels->matrix_expand(p->form, k, lines + (size_t)i * w->panel_bytes, buffer + (size_t)i * p->panel_bytes);
    for (int64_t group = group0; group < group1; group++, sums += MATRIX_SUMS) {
        int64_t row = group_row(p, group), units = group_first(p, group + 1) - group_first(p, group);
        t.rows = (int)(group_row(p, group + 1) - row);
        t.a = p->staged + (size_t)(group_first(p, group) * LW_MATRIX_UNIT) * p->row_bytes + units * lw_matrix_bytes(f, k0, w->k);
        t.sums = sums;
        if (next) t.next = next + (group - group0) * share, t.coming = share;
        if (!p->late) t.c = (float *)g->c + (p->row0 + row) * g->ldc + column;
        t.residual = g->residual && !p->late ? g->residual + (p->row0 + row) * g->ldr + column : NULL;
        if (!p->late && t.last) lw_fetch_rows(t.c, g->ldc * 4, t.rows, PAIR * LW_LINE, 1);
        p->kernels->matrix_quant(&t);
        if (p->late && t.last) finish(p, row, t.rows, pair * PAIR, t.panels, aside);
    }
}

/* Pairs pair0 .. pair1, a few at a time, whose sums wait together between blocks of k. */
static void run_matrix(const plan *p, int64_t pair0, int64_t pair1, int64_t group0, int64_t group1, unsigned char *buffer, float *waiting)
{
    int held = 0;
    for (int64_t first = pair0; first < pair1; first += MATRIX_PAIRS)
        for (int64_t k0 = 0; k0 < p->g->w->k; k0 += p->kc)
            for (int64_t pair = first, end = lw_min(first + MATRIX_PAIRS, pair1); pair < end; pair++) {
                const int more = pair + 1 < end, again = k0 + p->kc < p->g->w->k;
                const unsigned char *next = more ? lines_at(p, pair + 1, k0) : again ? lines_at(p, first, k0 + p->kc)
                                                 : end < pair1 ? lines_at(p, end, 0) : NULL;
                run_matrix_pair(p, pair, k0, group0, group1, buffer, waiting + (pair - first) * (group1 - group0) * MATRIX_SUMS, &held, next);
            }
    p->kernels->matrix_release();
}

/* One and two rows of two panels side by side: on AMD a second request costs more than it gives, but where codes are of two bits. */
static int lean(const plan *p) {
    const int code = lw_quants[p->form].code;
    return p->amd && p->rows <= 2 && p->kernels->quant_panels == PAIR && code != LW_CODE_TWO && code != LW_CODE_TWO_BIT;
}

/* One row group: every weight is used once, so memory sets the pace. The panels of a tile are not neighbours but come from the two
 * halves of the range: each half is then one stream from its first panel to its last. Gate and up of a panel follow each other. */
static void stream_range(const plan *p, int64_t panel0, int64_t panel1)
{
    const lw_weight *w = p->g->w;
    ALIGN(64) float sums[2][LW_MAX_ROWS * PAIR * LW_LANES], pair[LW_MAX_ROWS * PAIR * LW_LANES];
    int64_t unit = p->g->gated ? 2 : 1, half = lw_ceil_div((panel1 - panel0) / unit, PAIR);
    int rows = (int)p->rows;
    lw_quant_tile t = {.a = p->staged, .ldb = (ptrdiff_t)((size_t)(half * unit) * w->panel_bytes), .ldc = PAIR * LW_LANES,
                       .k = w->k, .form = p->run_form, .rows = rows, .shares = 1};
    if (p->far || (rows > LW_CACHED_ROWS && p->kernels->quant_panels < PAIR)) {
        t.ahead = lean(p) ? LEAN_AHEAD : AHEAD;
        t.near = lean(p) ? 0 : NEAR;
    }
    for (int64_t i = 0; i < half; i++) {
        t.panels = panel0 + (half + i) * unit < panel1 ? PAIR : 1;
        t.columns = t.panels * LW_LANES;
        for (int64_t u = 0; u < unit; u++) {
            t.c = sums[u];
            t.b = w->lines + (size_t)(panel0 + i * unit + u) * w->panel_bytes;
            p->kernels->tile_quant(&t);
        }
        for (int q = 0; q < t.panels; q++) {
            int64_t panel = panel0 + (i + q * half) * unit;
            if (unit == 1) {
                finish(p, 0, rows, panel, 1, sums[0] + q * LW_LANES);
                continue;
            }
            for (int r = 0; r < PAIR * rows; r++)
                memcpy(pair + r * LW_LANES, sums[r % 2] + (r / 2 * PAIR + q) * LW_LANES, LW_LINE);
            finish(p, 0, rows, panel, 2, pair);
        }
    }
}

static void run_task(void *arg, int64_t task, int worker)
{
    const plan *p = arg;
    int64_t block = task / p->ranges, range = task % p->ranges;
    unsigned char *buffer = p->buffers ? p->buffers + (size_t)worker * PAIR * p->panel_bytes : NULL;
    int64_t first = split(p->pairs, p->ranges, range), last = split(p->pairs, p->ranges, range + 1);
    int64_t group0 = split(p->groups, p->blocks, block), group1 = split(p->groups, p->blocks, block + 1);
    if (p->matrix) {
        run_matrix(p, first, last, group0, group1, buffer, p->sums + worker * MATRIX_PAIRS * p->groups * MATRIX_SUMS);
        return;
    }
    if (p->groups == 1 && !buffer) {
        stream_range(p, first * PAIR, lw_min(last * PAIR, p->g->w->panels));
        return;
    }
    for (int64_t pair = first; pair < last; pair++) run_pair(p, pair, group0, group1, buffer);
}

/* From so many rows on expanding pays. It costs about as much as three groups gain where codes are put together from planes; more
 * is gained where scales take work as well, most where they go into the codes. In tiles of few rows nibbles with float16 scales gain
 * nothing. */
static int64_t expand_rows(const plan *p)
{
    const lw_quant *q = &lw_quants[p->form];
    if (p->kernels->quant_direct < p->kernels->quant_rows) return 3 * p->kernels->quant_rows;
    const int plain = (q->scales == LW_SCALES_F16 && (q->code == LW_CODE_NIBBLE || q->code == LW_CODE_IQ4)) ||
                      (q->scales == LW_SCALES_F16M && q->code == LW_CODE_NIBBLE);
    if (q->code == LW_CODE_LINE) return INT64_MAX;
    const int tall = p->kernels->quant_rows > LW_QUANT_LOW_ROWS;
    if (lw_quants[q->expanded].block == LW_SUPER) return q->minima != LW_MIN_INT ? 24 : p->kernels->quant_fold && !tall ? 64 : 18;
    if (tall) return q->code == LW_CODE_NIBBLE ? 96 : q->code == LW_CODE_IQ4 ? 64 : 40;
    if (plain) return INT64_MAX;
    if (q->scales == LW_SCALES_F16 || q->scales == LW_SCALES_F16M) return q->code == LW_CODE_NIBBLE_BIT && q->minima ? 96 : 160;
    return q->code == LW_CODE_NIBBLE || q->code == LW_CODE_IQ4 ? 80 : q->scales == LW_SCALES_K8 || q->scales == LW_SCALES_K8F ? 72 : 56;
}

/* From so many rows on tile registers are ahead. */
static int64_t matrix_rows(const lw_quant *q)
{
    if (q->whole) return lw_quants[q->expanded].block == 16 ? MATRIX_WHOLE16_ROWS : MATRIX_WHOLE_ROWS;
    return q->fine ? MATRIX_FINE_ROWS : MATRIX_ROWS;
}

/* Activations of a block of k take a quarter of L2. */
static void plan_matrix(plan *p, const lw_ctx *ctx)
{
    int64_t fit = (int64_t)ctx->l2 / 4 / (units_of(p) * LW_MATRIX_UNIT) / LW_SUPER * LW_SUPER;
    p->run_form = lw_quants[p->form].expanded;
    p->row_bytes = (size_t)(lw_matrix_bytes(&lw_quants[p->form], p->g->w->k, p->g->w->k) / LW_MATRIX_UNIT);
    p->kc = lw_min(lw_max(fit, LW_SUPER), lw_round_up(p->g->w->k, LW_SUPER));
    p->panel_bytes = (size_t)lw_matrix_panel_bytes(p->form, p->kc);
}

/* Where the activations, which each thread has from others otherwise, count as much as the weights, which each has to read (and expand)
 * then. */
static int own_rows(const plan *p, int64_t threads, int expand)
{
    const int64_t bytes = p->rows * (int64_t)p->row_bytes;
    return !p->matrix && lw_own_rows(p->rows, threads) && bytes * (expand ? 8 : 16) >= (int64_t)p->g->w->bytes;
}

static lw_status plan_pass(plan *p, lw_ctx *ctx)
{
    const lw_weight *w = p->g->w;
    int64_t threads = lw_pool_threads(ctx->pool);
    p->matrix = p->kernels->matrix_quant && lw_matrix_fits(p->form) && p->rows >= matrix_rows(&lw_quants[p->form]);
    int expand = p->matrix || p->rows >= expand_rows(p);
    p->pairs = lw_ceil_div(w->panels, PAIR);
    p->run_form = expand ? lw_quant_expanded(p->form, p->kernels->quant_dot4) : p->form;
    p->act_form = expand && lw_quants[p->run_form].block == LW_SUPER ? p->run_form : p->form;
    p->row_bytes = (size_t)lw_quant_row_words(&lw_quants[p->act_form], w->k) * 4;
    p->panel_bytes = (size_t)lw_quant_panel_bytes(&lw_quants[p->run_form], w->k);
    if (p->matrix) plan_matrix(p, ctx);
    int64_t count = p->matrix ? units_of(p) : p->rows;
    p->groups = lw_ceil_div(count, p->matrix ? MATRIX_UNITS : expand ? p->kernels->quant_rows : p->kernels->quant_direct);
    /* As in gemm.c: a task should outlast what starting it costs. */
    int64_t worth = lw_max((int64_t)w->panel_bytes, p->rows * w->k * LW_LANES / 32) / 10 * w->panels / 3000;
    const int own = own_rows(p, threads, expand) && worth >= threads;
    if (own) p->groups = lw_round_up(p->groups, threads);
    p->low = count / p->groups;
    p->higher = count % p->groups;
    const int64_t high = p->low + (p->higher > 0), fold = lw_quants[p->form].fold;
    if (!expand && p->kernels->quant_fold && fold && p->low >= LW_QUANT_FOLD_ROWS && high <= LW_QUANT_LOW_ROWS) p->run_form = (int)fold;
    p->ranges = lw_min(lw_min(TASKS_PER_THREAD * threads, lw_max(worth, 1)), p->pairs);
    p->blocks = lw_max(lw_min(TASKS_PER_THREAD * threads / p->ranges, lw_min(p->groups / 8, worth)), 1);
    if (own) {
        p->blocks = lw_min(lw_round_up(p->blocks, threads), p->groups);
        p->ranges = lw_max(lw_min(lw_ceil_div(TASKS_PER_THREAD * threads, p->blocks), p->pairs), 1);
    }
    p->slice = lw_round_up(lw_ceil_div(PAIR * (int64_t)w->panel_bytes, lw_ceil_div(p->groups, p->blocks)), LW_LINE);
    p->gather_rows = p->matrix ? LW_MATRIX_UNIT : p->low + 1;
    p->gather_ld = w->k + LW_LANES;   /* rows apart in the caches */
    size_t staged = (size_t)lw_round_up((p->matrix ? count * LW_MATRIX_UNIT : p->rows) * (int64_t)p->row_bytes, LW_LINE);
    size_t buffers = expand ? (size_t)threads * PAIR * p->panel_bytes : 0;
    size_t sums = p->matrix ? (size_t)(threads * MATRIX_PAIRS * p->groups * MATRIX_SUMS) * sizeof(float) : 0;
    size_t gathered = w->order ? (size_t)(threads * p->gather_rows * p->gather_ld) * sizeof(float) : 0;
    LW_TRY(lw_block_reserve(&ctx->scratch, staged + (size_t)lw_max((int64_t)(sums + buffers), (int64_t)gathered)));
    p->staged = ctx->scratch.data;
    p->sums = (float *)(p->staged + staged);
    p->buffers = expand ? p->staged + staged + sums : NULL;
    p->gathered = (float *)(p->staged + staged);   /* needed before the others are */
    return LW_OK;
}

lw_status lw_gemm_quant_run(lw_ctx *ctx, const lw_gemm_args *args)
{
    const lw_weight *w = args->w;
    plan p = {.g = args, .kernels = ctx->kernels, .amd = ctx->amd, .far = lw_from_memory(ctx, w), .form = (int)(w->format - LW_Q4_0)};
    p.late = args->act != LW_ACT_NONE || args->gated || args->c_type != LW_F32;
    p.row_bytes = (size_t)lw_quant_row_words(&lw_quants[p.form], w->k) * 4;
    int64_t most = lw_max(STAGE_BYTES / (int64_t)p.row_bytes, 4 * LW_MAX_ROWS);
    if (p.kernels->matrix_quant && lw_matrix_fits(p.form)) most = MATRIX_PASS;
    int64_t passes = lw_ceil_div(args->m, most);
    for (int64_t pass = 0; pass < passes; pass++) {
        p.row0 = split(args->m, passes, pass);
        p.rows = split(args->m, passes, pass + 1) - p.row0;
        LW_TRY(plan_pass(&p, ctx));
        if (p.matrix) LW_TRY(lw_pool_run(ctx->pool, units_of(&p), quantize_unit, &p));
        else if (p.groups == 1) quantize_group(&p, 0, 0);
        else LW_TRY(lw_pool_run(ctx->pool, p.groups, quantize_group, &p));
        LW_TRY(lw_pool_run(ctx->pool, p.blocks * p.ranges, run_task, &p));
    }
    return LW_OK;
}
