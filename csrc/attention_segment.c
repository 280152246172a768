/* attention_segment.c - scores of a segment of keys, their softmax, the weighted sum of its values. */
#include "attention.h"
#include <string.h>

static lw_span clip(lw_span r, int64_t lo, int64_t hi) {
    lw_span c = {lw_max(r.lo, lo), lw_min(r.hi, hi)};
    return c;
}

static int32_t page_of(const lw_attend_block *b, int64_t position) {
    return b->j->s->page_table[(int64_t)b->seq * b->j->s->table_width + position / LW_PAGE];
}

/* The lines after a tile's lie in another page, or among the other half of this one, where no hardware looks: tiles ask for
 * those, at the same distance line by line. */
static const unsigned char *keys_at(const lw_attend_block *b, int64_t position) {
    const lw_cache *c = b->j->cache;
    return lw_cache_keys(c, page_of(b, position), b->j->a->layer, b->head) +
           (size_t)(position % LW_PAGE / LW_LANES) * c->key_panel;
}
static const unsigned char *values_at(const lw_attend_block *b, int64_t position) {
    const lw_cache *c = b->j->cache;
    return lw_cache_values(c, page_of(b, position), b->j->a->layer, b->head) +
           (size_t)(position % LW_PAGE / c->per_line) * LW_LINE;
}

static void run_tile(const lw_attend_job *j, lw_tile *t) {
    const lw_kernels *kernels = j->ctx->kernels;
    if (j->matrix) kernels->matrix_dot(t);
    else if (j->dot) kernels->tile_dot(t);
    else if (j->cache->shape.type == LW_BF16) kernels->tile_bf16(t);
    else kernels->tile_f32(t);
}

/* Runs t over all `panels` panels, as many at a time as the table takes. */
static void run_panels(const lw_attend_job *j, lw_tile *t, int panels, float *c) {
    int step = j->matrix ? LW_MAX_STEP : j->ctx->kernels->panels[t->rows];
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
static void scores(const lw_attend_block *b, int row, int rows, int64_t origin, int64_t lo, int64_t hi) {
    const lw_attend_job *j = b->j;
    lw_tile t = {.lda = j->d_pad, .ldb = (ptrdiff_t)j->cache->key_panel, .ldc = SCORE_LD, .rows = rows, .k = j->d, .held = b->held};
    t.a = j->dot ? (const void *)(b->q16 + (size_t)row * j->q_width) : (const void *)(b->q + (size_t)row * j->d_pad);
    for (int64_t p = lo; p < hi;) {
        int64_t end = lw_min(hi, (p / LW_PAGE + 1) * LW_PAGE);
        t.b = keys_at(b, p);
        if (b->ask) t.ahead = (end < hi ? keys_at(b, end) : values_at(b, lo)) - (const unsigned char *)t.b;
        run_panels(j, &t, (int)((end - p) / LW_LANES), b->score + (p - origin));
        p = end;
    }
}

/* o2[row] += p[row][lo..hi) . values, in ascending position: chains continue, so any cut at the border of a line gives the same bits
 * (of 32 positions on tile registers). */
static void weigh(const lw_attend_block *b, int row, int rows, int64_t origin, lw_span r) {
    const lw_attend_job *j = b->j;
    const lw_cache *c = j->cache;
    for (int64_t p = r.lo; p < r.hi;) {
        int64_t end = lw_min(r.hi, (p / LW_PAGE + 1) * LW_PAGE);
        int slot = (int)(p % LW_PAGE);
        lw_tile t = {.lda = SCORE_LD, .ldb = (ptrdiff_t)c->value_panel, .ldc = j->d_pad, .rows = rows,
                     .k = (int)(end - p), .accumulate = 1, .skip = c->per_line == 2 ? slot & 1 : 0, .held = b->held};
        size_t at = j->matrix ? (size_t)(p - origin) * (size_t)rows : (size_t)row * SCORE_LD + (size_t)(p - origin);
        t.a = j->dot ? (const void *)(b->p16 + at) : (const void *)(b->score + at);
        const unsigned char *lines = values_at(b, p);
        t.b = lines;
        if (b->ask) t.ahead = (end < r.hi ? values_at(b, end) : end < b->length ? keys_at(b, end) : lines) - lines;
        run_panels(j, &t, c->value_panels, b->o2 + (size_t)row * j->d_pad);
        p = end;
    }
}

/* Whether the values of the positions from lo to hi, borders of lines, are finite: a weight of zero cancels those. `known`: what was
 * found so before, since the next rows ask for the same and a little more. */
static int all_finite(const lw_attend_block *b, int64_t lo, int64_t hi, lw_span *known) {
    const lw_cache *c = b->j->cache;
    /* An exponent of ones carries into the bit of the sign. */
    const uint64_t lanes = c->per_line == 2 ? 0x0001000100010001u : 0x0000000100000001u;
    const uint64_t one = lanes << (c->per_line == 2 ? 7 : 23), sign = lanes << (c->per_line == 2 ? 15 : 31);
    if (lo >= hi) return 1;
    if (lo < known->lo || lo > known->hi) *known = (lw_span){lo, lo};
    for (; known->hi < hi; known->hi += c->per_line) {
        const unsigned char *line = values_at(b, known->hi);
        uint64_t found = 0;
        for (int panel = 0; panel < c->value_panels; panel++, line += c->value_panel)
            for (int i = 0; i < LW_LINE; i += 8) {
                uint64_t x;
                memcpy(&x, line + i, sizeof x);
                found |= (x & ~sign) + one;
            }
        if (found & sign) return 0;
    }
    return 1;
}

/* weigh for one row on tile registers, which take whole blocks of positions: in copies of those at the borders the values outside are
 * zeros. `rows`: of the group that the row is one of. */
static void weigh_masked(const lw_attend_block *b, int row, int rows, int64_t origin, lw_span r) {
    const lw_attend_job *j = b->j;
    const lw_cache *c = j->cache;
    ALIGN(64) uint16_t lines[LW_MAX_STEP][MATRIX_LINE / 2][LW_LANES][2];
    for (int64_t p = r.lo - r.lo % MATRIX_LINE; p < r.hi; p += MATRIX_LINE)
        for (int panel = 0; panel < c->value_panels; panel += LW_MAX_STEP) {
            int panels = (int)lw_min(LW_MAX_STEP, c->value_panels - panel);
            for (int i = 0; i < panels; i++) memcpy(lines[i], values_at(b, p) + (size_t)(panel + i) * c->value_panel, sizeof lines[i]);
            for (int at = 0; at < MATRIX_LINE; at++)
                for (int i = 0; (p + at < r.lo || p + at >= r.hi) && i < panels * LW_LANES; i++)
                    lines[i / LW_LANES][at / 2][i % LW_LANES][at % 2] = 0;
            lw_tile t = {.a = b->p16 + (size_t)(p - origin) * (size_t)rows + (size_t)row * MATRIX_LINE, .b = lines,
                         .ldb = sizeof lines[0], .c = b->o2 + (size_t)row * j->d_pad + panel * LW_LANES, .ldc = j->d_pad, .rows = 1,
                         .panels = panels, .columns = panels * LW_LANES, .k = MATRIX_LINE, .accumulate = 1, .held = b->held};
            run_tile(j, &t);
        }
}

static void weigh_row(const lw_attend_block *b, int row, int rows, int64_t origin, lw_span r) {
    if (r.lo >= r.hi) return;
    if (b->j->matrix) weigh_masked(b, row, rows, origin, r);
    else weigh(b, row, 1, origin, r);
}

/* Rows differ in where they begin and end (the diagonal, a window). Weights are zeros outside, so all run as one tile of whole lines
 * unless a value there is not finite; else what they share does, and the rest goes row by row. */
static void weigh_rows(lw_attend_block *b, int rows, int64_t origin, const lw_span *spans) {
    const int line = b->j->line;
    lw_span outer = {INT64_MAX, 0}, inner = {0, INT64_MAX};
    for (int i = 0; i < rows; i++) {
        if (spans[i].lo < 0) continue;
        outer.lo = lw_min(outer.lo, spans[i].lo), outer.hi = lw_max(outer.hi, spans[i].hi);
        inner.lo = lw_max(inner.lo, spans[i].lo), inner.hi = lw_min(inner.hi, spans[i].hi);
    }
    outer.lo -= outer.lo % line, outer.hi = lw_round_up(outer.hi, line);
    inner.lo = lw_round_up(inner.lo, line), inner.hi -= inner.hi % line;
    const int apart = inner.lo >= inner.hi || b->j->matrix;
    if (inner.lo >= inner.hi ? all_finite(b, outer.lo, outer.hi, &b->sound[0])
                             : all_finite(b, outer.lo, inner.lo, &b->sound[0]) && all_finite(b, inner.hi, outer.hi, &b->sound[1])) {
        weigh(b, 0, rows, origin, outer);
        return;
    }
    for (int i = 0; i < rows; i++) weigh_row(b, i, rows, origin, apart ? spans[i] : clip(spans[i], spans[i].lo, inner.lo));
    if (apart) return;
    weigh(b, 0, rows, origin, inner);
    for (int i = 0; i < rows; i++) weigh_row(b, i, rows, origin, clip(spans[i], inner.hi, spans[i].hi));
}

void lw_attend_round(const lw_attend_job *j, int n, const float *x, int row, int rows, int ld, uint16_t *to) {
    if (!j->matrix) {
        j->ctx->kernels->to_dot((size_t)n, x, to + (size_t)row * ld);
        return;
    }
    to += row * MATRIX_LINE;
    for (int i = 0; i < n; i += MATRIX_LINE, to += rows * MATRIX_LINE) {
        int some = (int)lw_min(MATRIX_LINE, n - i);
        j->ctx->kernels->to_dot((size_t)some, x + i, to);
        if (some < MATRIX_LINE) memset(to + some, 0, (size_t)(MATRIX_LINE - some) * 2);
    }
}

void lw_attend_segment(lw_attend_block *b, int row, int rows, int64_t origin, float *max2, float *sum2) {
    const lw_attend_job *j = b->j;
    const lw_attention_shape *shape = &j->a->shape;
    lw_span spans[LW_MAX_ROWS], all = {INT64_MAX, 0};
    for (int i = 0; i < rows; i++) {
        spans[i] = clip(lw_attend_span(b, row + i), origin, origin + LW_SEGMENT);
        max2[i] = sum2[i] = 0.0f;
        if (spans[i].lo >= spans[i].hi) spans[i].lo = spans[i].hi = -1;   /* sees nothing here */
        else all.lo = lw_min(all.lo, spans[i].lo), all.hi = lw_max(all.hi, spans[i].hi);
    }
    if (all.lo >= all.hi) return;
    b->ask = row == 0;
    int64_t lines = lw_max(j->line, LW_LANES), lo = all.lo - all.lo % lines, hi = lw_round_up(all.hi, lines);
    scores(b, row, rows, origin, lo, hi);
    for (int i = 0; i < rows; i++) {
        float *s = b->score + (size_t)i * SCORE_LD + (lo - origin);
        if (spans[i].lo < 0) memset(s, 0, (size_t)(hi - lo) * sizeof(float));
        else j->ctx->kernels->segment_softmax((int)(hi - lo), (int)(spans[i].lo - lo), (int)(spans[i].hi - lo), shape->scale,
                                              shape->softcap, s, &max2[i], &sum2[i]);
        if (j->dot) lw_attend_round(j, (int)(hi - lo), s, i, rows, SCORE_LD, b->p16 + (lo - origin) * (j->matrix ? rows : 1));
    }
    memset(b->o2, 0, (size_t)rows * j->d_pad * sizeof(float));
    weigh_rows(b, rows, origin, spans);
}
