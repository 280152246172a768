/* gemm_tasks.c - one task of a product: its row groups times its panels; from sums to c. Tiles of vectors. */
#include "gemm.h"
#include <string.h>

enum {
    AHEAD = 6144,                /* bytes from the line in use of a panel to the one to fetch */
    GUESSED_ROWS = 4,            /* two to so many rows of many panels need none on AMD */
    SUMS = LW_MAX_ROWS * LW_MAX_STEP * LW_LANES   /* of a tile at most */
};

/* ---- from sums to c ---------------------------------------------------------------------------------------------- */
static lw_finish to_finish(const lw_gemm_args *g, const lw_sums *s, int64_t n) {
    int64_t column = s->panel * LW_LANES, to = g->gated ? column / 2 : column;
    int64_t width = g->gated ? lw_min(s->panels / 2 * LW_LANES, g->gated - to) : lw_min(s->panels * LW_LANES, n - column);
    lw_finish f = {.sums = s->sums, .ld = s->ld, .integers = s->integers, .rows = s->rows, .columns = (int)width,
                   .act = g->act, .gated = g->gated > 0, .type = g->c_type, .dot = g->c_dot, .ldc = g->ldc, .ldr = g->ldr,
                   .row_scale = s->row_scale, .start = s->start, .offsets = s->offsets};
    if (g->bias) f.bias = g->bias + column;
    if (g->column_scale) f.column_scale = g->column_scale + column;
    if (g->residual) f.residual = g->residual + s->row * g->ldr + to;
    f.c = (char *)g->c + (s->row * g->ldc + to) * (int64_t)lw_type_size(g->c_type);
    return f;
}

void lw_gemm_finish(const lw_kernels *kernels, const lw_gemm_args *g, const lw_sums *s, int64_t n) {
    const lw_finish f = to_finish(g, s, n);
    kernels->finish(&f);
}

lw_finish lw_gemm_due(const lw_gemm_plan *p, int64_t row, int rows, int64_t panel, int64_t panels, const float *sums, int64_t ld,
                      const int32_t *offsets) {
    lw_sums s = {.sums = sums, .ld = ld, .integers = p->a.kind == LW_STAGE_INT8, .row = p->row0 + row, .rows = rows,
                 .panel = panel, .panels = panels, .row_scale = p->row_scale ? p->row_scale + row : NULL, .offsets = offsets};
    if (p->matrix && p->a.start) s.start = p->a.start + row;
    return to_finish(p->g, &s, p->w->n);
}

static void finish(const lw_gemm_plan *p, int64_t row, int rows, int64_t panel, int64_t panels, const float *sums, int64_t ld,
                   const int32_t *offsets) {
    const lw_finish f = lw_gemm_due(p, row, rows, panel, panels, sums, ld, offsets);
    p->kernels->finish(&f);
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */
static const void *activations(const lw_gemm_plan *p, int64_t row, int64_t kb) {
    if (p->a.data) return lw_staged(&p->a, kb, row);
    return (const float *)p->a.a + row * p->g->lda + kb * p->a.kc;
}

/* lda of the tiles. */
static int64_t row_elements(const lw_gemm_plan *p) {
    if (!p->a.data) return p->g->lda;
    return p->a.lace ? 0 : p->a.ld * (p->a.kind == LW_STAGE_F32 ? 1 : p->a.kind == LW_STAGE_BF16 ? 2 : 4);
}

static const unsigned char *lines_at(const lw_gemm_plan *p, int64_t panel, int64_t kb) {
    const lw_weight *w = p->w;
    return w->lines + (size_t)panel * w->panel_bytes + (size_t)(kb * p->a.kc / lw_k_per_line(p) * LW_LINE);
}

void lw_gemm_weights(const lw_gemm_plan *p, const lw_gemm_job *j, int64_t panel, int64_t kb, lw_gemm_lines *l) {
    const lw_weight *w = p->w;
    l->offsets = NULL;
    if (!p->g->plain) {
        l->at = lines_at(p, panel, kb);
        l->ldb = (ptrdiff_t)w->panel_bytes;
        if (p->g->a_type == LW_U8) l->offsets = w->sums + panel * LW_LANES;
        return;
    }
    l->at = j->packed;
    l->ldb = lw_ceil_div(lw_block_k(p, kb), lw_k_per_line(p)) * LW_LINE;
    if (p->g->a_type == LW_U8) l->offsets = l->sums;
    for (int64_t i = panel; i < lw_min(panel + p->step, j->panel1); i++) {
        unsigned char *to = j->packed + (i - panel) * l->ldb;
        lw_pack_panel(w->format, p->g->plain, i, kb * p->a.kc, lw_min(p->a.kc, w->k - kb * p->a.kc), to);
        if (l->offsets) lw_byte_sums(to, w->k, l->sums + (i - panel) * LW_LANES);
    }
}

/* Rows of c: asked for before the tile that needs them at its end, or one tile before that which begins with them. Waiting for
 * c alone costs a fifth where it comes from memory. On AMD those of a residual that lies elsewhere, too. */
ALWAYS_INLINE void fetch_outputs(const lw_gemm_plan *p, int64_t row, int64_t rows, int64_t panel) {
    const int64_t size = lw_output_size(p), line = LW_LANES * size / (p->g->gated ? 2 : 1);
    lw_fetch_rows(lw_output_at(p, row, panel), p->g->ldc * size, rows, p->step * line, !p->amd);
    if (p->amd && p->g->residual && p->g->residual != p->g->c)
        lw_fetch_rows(p->g->residual + (p->row0 + row) * p->g->ldr + panel * LW_LANES / (p->g->gated ? 2 : 1), p->g->ldr * 4, rows,
                      p->step * line * 4 / size, 0);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------- */
static void cell(const lw_gemm_plan *p, const lw_gemm_job *j, int64_t panel, int64_t kb, const unsigned char *next) {
    const lw_gemm_args *g = p->g;
    const lw_weight *w = p->w;
    ALIGN(64) float aside[SUMS];
    int last = kb == p->a.k_blocks - 1, direct = last && !p->late;
    int64_t panel_end = lw_min(panel + p->step, j->panel1), first_row = lw_group_row(&p->a, j->group0);
    lw_gemm_lines lines;
    lw_gemm_weights(p, j, panel, kb, &lines);
    lw_tile t = {.ldb = lines.ldb, .ldr = g->ldr, .k = lw_block_k(p, kb), .accumulate = kb > 0, .lda = row_elements(p)};
    const int64_t groups = j->group1 - j->group0;
    if (next) t.pace = lw_ceil_div(LW_LINE, groups);
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
        if (kb == 0 && last) fetch_outputs(p, row, t.rows, panel);
        else if (!p->late && row + t.rows < rows_end) fetch_outputs(p, row + t.rows, t.rows, panel);
        int most = lw_most_panels(p, t.rows);
        for (int64_t at = panel; at < panel_end; at += t.panels) {
            int64_t column = at * LW_LANES;
            t.panels = (int)lw_min(most, panel_end - at);
            t.columns = p->late ? t.panels * LW_LANES : (int)lw_min(t.panels * LW_LANES, w->n - column);
            t.b = lines.at + (at - panel) * t.ldb;
            t.offsets = lines.offsets ? lines.offsets + (at - panel) * LW_LANES : NULL;
            if (next) t.next = next + (at - panel) * t.ldb + (group - j->group0) * (t.k / lw_k_per_line(p)) / groups * LW_LINE;
            t.bias = direct && g->bias ? g->bias + column : NULL;
            t.residual = direct && g->residual ? g->residual + (p->row0 + row) * g->ldr + column : NULL;
            t.column_scale = direct && g->column_scale ? g->column_scale + column : NULL;
            t.c = c_row + (at - panel) * LW_LANES;
            p->tile(&t);
        }
        if (p->late && last) finish(p, row, t.rows, panel, panel_end - panel, c_row, t.ldc, NULL);
    }
}

/* What to ask for ahead of the lines in use; 0 where the hardware does as well: of what the last cache holds for few rows, elsewhere than
 * on AMD for any number; and there for one row of vectors in any case. */
static ptrdiff_t fetch_ahead(const lw_gemm_plan *p, int rows, int panels) {
    if (!p->far && (rows <= LW_CACHED_ROWS || !p->amd)) return 0;
    if (p->amd) {
        const int guessed = p->a.kind == LW_STAGE_INT8 ? rows <= GUESSED_ROWS : rows > 1 && rows <= GUESSED_ROWS && panels > 2;
        return guessed && !p->matrix ? 0 : AHEAD;
    }
    return rows == 1 && !p->matrix ? 0 : AHEAD;
}

/* One row group: every weight is used once, so memory sets the pace. The panels of a tile are taken from equal parts of the
 * range, not side by side: each part is then one stream from its first panel to its last, and the hardware, which
 * follows streams, is not thrown off at the end of every panel. Sums go through a small buffer to their columns. */
static void stream_range(const lw_gemm_plan *p, const lw_gemm_job *j) {
    const lw_weight *w = p->w;
    ALIGN(64) float sums[2 * SUMS];
    int rows = (int)p->a.rows, most = lw_most_panels(p, rows), unit = p->g->gated ? 2 : 1;
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
            t.b = w->lines + (size_t)(j->panel0 + i * unit + half) * w->panel_bytes;
            p->tile(&t);
        }
        for (int q = 0; q < t.panels; q++) {
            ALIGN(64) float pair[LW_MAX_ROWS * 2 * LW_LANES];
            int64_t panel = j->panel0 + (i + q * part) * unit;
            const int32_t *offsets = p->g->a_type == LW_U8 ? w->sums + panel * LW_LANES : NULL;
            if (unit == 1) {
                finish(p, 0, rows, panel, 1, sums + q * LW_LANES, t.ldc, offsets);
                continue;
            }
            for (int r = 0; r < 2 * rows; r++)
                memcpy(pair + r * LW_LANES, sums + (r % 2 * rows + r / 2) * t.ldc + q * LW_LANES, LW_LINE);
            finish(p, 0, rows, panel, 2, pair, 2 * LW_LANES, offsets);
        }
    }
}

void lw_gemm_task(void *arg, int64_t task, int worker) {
    const lw_gemm_plan *p = arg;
    int64_t range = task % p->ranges, block = task / p->ranges;
    lw_gemm_job j = {.group0 = lw_split(p->a.groups, p->blocks, block), .group1 = lw_split(p->a.groups, p->blocks, block + 1),
                     .panel0 = lw_split(p->steps, p->ranges, range) * p->step,
                     .panel1 = lw_min(lw_split(p->steps, p->ranges, range + 1) * p->step, p->w->panels),
                     .slab = p->slabs ? p->slabs + worker * p->slab_size : NULL,
                     .packed = p->packed ? p->packed + (size_t)worker * p->packed_bytes : NULL};
    ALIGN(64) float aside[2][SUMS];
    int held = 0;
    if (p->matrix) j.held = &held, j.aside = aside[0], j.before = aside[1];
    if (p->a.groups == 1 && !p->g->plain) stream_range(p, &j);
    else for (int64_t kb = 0; kb < p->a.k_blocks; kb++)
        for (int64_t panel = j.panel0; panel < j.panel1; panel += p->step) {
            int more = panel + p->step < j.panel1;
            int64_t to = more || (kb + 1 == p->a.k_blocks && j.panel1 < p->w->panels) ? panel + p->step : j.panel0;
            const unsigned char *next = p->g->plain ? NULL : lines_at(p, to, more ? kb : (kb + 1) % p->a.k_blocks);
            if (p->matrix) lw_gemm_matrix_cell(p, &j, panel, kb, next);
            else cell(p, &j, panel, kb, next);
        }
    if (j.due.rows) p->kernels->finish(&j.due);
    if (p->matrix) p->kernels->matrix_release();
}
