/* gemm_matrix.c - many rows on tile registers.
 *
 * Tiles are bound by how many lines may be on their way to the L1 cache at once: of the lines of two panels as many as fit stay there
 * for all row groups of a task. While one tile is multiplied the sums of the one before are finished, row by row: vectors
 * have nothing else to do. */
#include "gemm.h"

/* The sums that wait are finished; those of the last tile wait. */
static void wait_for_next(const lw_gemm_plan *p, lw_gemm_job *j, const lw_finish *f) {
    if (j->due.rows) p->kernels->finish(&j->due);
    j->due = *f;
    float *free = j->before;
    j->before = j->aside;
    j->aside = free;
}

void lw_gemm_matrix_cell(const lw_gemm_plan *p, lw_gemm_job *j, int64_t panel, int64_t kb, const unsigned char *next) {
    const lw_gemm_args *g = p->g;
    const int last = kb == p->a.k_blocks - 1;
    const int64_t groups = j->group1 - j->group0, first_row = lw_group_row(&p->a, j->group0), size = lw_output_size(p);
    lw_gemm_lines lines;
    lw_gemm_weights(p, j, panel, kb, &lines);
    lw_tile t = {.b = lines.at, .ldb = lines.ldb, .k = lw_block_k(p, kb), .accumulate = kb > 0, .held = j->held, .due = &j->due,
                 .panels = (int)lw_min(p->step, j->panel1 - panel), .again = groups > 1};
    t.columns = t.panels * LW_LANES;
    const int64_t k_lines = t.k / lw_k_per_line(p);
    if (next) t.pace = lw_ceil_div(LW_LINE, groups);
    /* Whole columns of float32 as they are go where they belong at once. */
    const int direct = !p->late && panel * LW_LANES + t.columns <= p->w->n;
    t.ldc = j->slab ? p->slab_ld : direct ? g->ldc : t.columns;
    t.ldo = g->ldc * size, t.out_line = LW_LANES * size / (g->gated ? 2 : 1);
    int64_t row = first_row;
    for (int64_t group = j->group0; group < j->group1; group++, row += t.rows) {
        t.rows = (int)(p->a.low + (group < p->a.higher));
        t.a = lw_staged(&p->a, kb, row);
        t.c = j->slab ? j->slab + (row - first_row) * p->slab_ld + (panel - j->panel0) * LW_LANES
                      : direct ? (float *)lw_output_at(p, row, panel) : j->aside;
        if (next) t.next = next + (group - j->group0) * k_lines / groups * LW_LINE;
        /* Residuals, which are read, most of all: waiting for them took a third of the time. */
        if (last && (p->ask_c || g->residual)) t.out = lw_output_at(p, row, panel);
        p->tile(&t);
        if (direct || !last) continue;
        const lw_finish f = lw_gemm_due(p, row, t.rows, panel, t.panels, t.c, t.ldc, lines.offsets);
        wait_for_next(p, j, &f);
    }
    if (g->plain && j->due.rows) {   /* with offsets that end here */
        p->kernels->finish(&j->due);
        j->due.rows = 0;
    }
}
