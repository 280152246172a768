/* broken.c - deliberately wrong tables, in test builds only: a suite that does not fail on each of them tests nothing.
 * Each is the scalar table with some slots wrapped. */
#include <string.h>
#include "../quant.h"
#include "tables.h"

#define GOOD lw_kernels_scalar
typedef void tile_fn(const lw_tile *t);

/* The scalar table with some slots replaced; C cannot copy a constant struct into another, so the slots are listed. */
#define TABLE(symbol, isa, ...)                                                                                   \
    const lw_kernels symbol = {                                                                                   \
        isa, 4, {0, 1, 1, 1, 1}, tile_f32_##symbol, tile_bf16_##symbol, NULL, NULL, tile_int8_##symbol, 8, to_quads,    \
        __VA_ARGS__,                                                                                              \
    }
#define TILES(symbol, change)                                                                \
    static void tile_f32_##symbol(const lw_tile *t) { change(t, GOOD.tile_f32); }            \
    static void tile_bf16_##symbol(const lw_tile *t) { change(t, GOOD.tile_bf16); }          \
    static void tile_int8_##symbol(const lw_tile *t) { change(t, GOOD.tile_int8); }

/* Pass-through slots (function pointers of another object are no constant expressions). */
static int32_t to_quads(size_t n, const void *a, int flip, uint32_t *out) { return GOOD.to_quads(n, a, flip, out); }
static void finish(const lw_finish *f) { GOOD.finish(f); }
static void to_bf16(size_t n, const float *x, uint16_t *y) { GOOD.to_bf16(n, x, y); }
static void rms_norm(size_t n, const float *x, const float *w, float eps, float *y) { GOOD.rms_norm(n, x, w, eps, y); }
static void layer_norm(size_t n, const float *x, const float *w, const float *b, float eps, float *y) {
    GOOD.layer_norm(n, x, w, b, eps, y);
}
static void softmax(size_t n, const float *x, float *y) { GOOD.softmax(n, x, y); }
static void activation(lw_act act, size_t n, const float *x, float *y) { GOOD.activation(act, n, x, y); }
static void mul_activation(lw_act act, size_t n, const float *g, const float *u, float *y) {
    GOOD.mul_activation(act, n, g, u, y);
}
static void add(size_t n, const float *x, const float *y, float *z) { GOOD.add(n, x, y, z); }
static void rope(float *x, int heads, int head_dim, int pairs, int interleaved, const float *cos, const float *sin) {
    GOOD.rope(x, heads, head_dim, pairs, interleaved, cos, sin);
}
static void segment_softmax(int n, int lo, int hi, float scale, float softcap, float *s, float *max, float *sum) {
    GOOD.segment_softmax(n, lo, hi, scale, softcap, s, max, sum);
}
static void segment_merge(int n, float *o, float *max, float *sum, const float *o2, float max2, float sum2) {
    GOOD.segment_merge(n, o, max, sum, o2, max2, sum2);
}
static void segment_finish(int n, const float *o, float sum, float *y) { GOOD.segment_finish(n, o, sum, y); }
static double peak_f32(long iterations) { return GOOD.peak_f32(iterations); }
static double peak_int8(long iterations) { return GOOD.peak_int8(iterations); }
static uint64_t read_all(const void *data, size_t bytes) { return GOOD.read(data, bytes); }

static void tile_quant(const lw_quant_tile *t) { GOOD.tile_quant(t); }
static void expand_quant(int form, int64_t k, const void *panel, void *out) { GOOD.expand_quant(form, k, panel, out); }
static void quantize(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out) {
    GOOD.quantize(form, rows, k, a, lda, out);
}

/* broken_k: the last value of k is left out. */
static void drop_k(const lw_tile *t, tile_fn *run) {
    lw_tile u = *t;
    if (u.k > 0) u.k -= run == GOOD.tile_int8 ? 4 : 1;
    run(&u);
}
/* broken_lanes: columns 0 and 1 change places. */
static void swap_lanes(const lw_tile *t, tile_fn *run) {
    run(t);
    for (int r = 0; t->columns > 1 && r < t->rows; r++) {
        float *c = t->c + r * t->ldc, first = c[0];
        c[0] = c[1];
        c[1] = first;
    }
}
/* broken_tail: the last column is not written; row kernels forget the last element of an odd length. */
static void drop_column(const lw_tile *t, tile_fn *run) {
    lw_tile u = *t;
    if (--u.columns > 0) run(&u);
}
static size_t odd_off(size_t n) { return n - n % 2; }
static void tail_to_bf16(size_t n, const float *x, uint16_t *y) { GOOD.to_bf16(odd_off(n), x, y); }
static void tail_rms_norm(size_t n, const float *x, const float *w, float eps, float *y) {
    GOOD.rms_norm(odd_off(n), x, w, eps, y);
}
static void tail_layer_norm(size_t n, const float *x, const float *w, const float *b, float eps, float *y) {
    GOOD.layer_norm(odd_off(n), x, w, b, eps, y);
}
static void tail_softmax(size_t n, const float *x, float *y) { GOOD.softmax(odd_off(n), x, y); }
static void tail_activation(lw_act act, size_t n, const float *x, float *y) { GOOD.activation(act, odd_off(n), x, y); }
static void tail_mul_activation(lw_act act, size_t n, const float *g, const float *u, float *y) {
    GOOD.mul_activation(act, odd_off(n), g, u, y);
}
static void tail_add(size_t n, const float *x, const float *y, float *z) { GOOD.add(odd_off(n), x, y, z); }
static void tail_rope(float *x, int heads, int dim, int pairs, int interleaved, const float *cos, const float *sin) {
    GOOD.rope(x, heads, dim, interleaved ? pairs - pairs % 2 : pairs, interleaved, cos, sin);
}
static void tail_merge(int n, float *o, float *max, float *sum, const float *o2, float max2, float sum2) {
    GOOD.segment_merge((int)odd_off((size_t)n), o, max, sum, o2, max2, sum2);
}
static void tail_finish(int n, const float *o, float sum, float *y) {
    GOOD.segment_finish((int)odd_off((size_t)n), o, sum, y);
}
/* broken_pair: in P16 an odd end is left out and skip is ignored. */
static void whole_pairs(const lw_tile *t, tile_fn *run) {
    lw_tile u = *t;
    if (run == GOOD.tile_bf16) u.skip = 0, u.k -= u.k % 2;
    run(&u);
}
static void same(const lw_tile *t, tile_fn *run) { run(t); }
/* broken_zero: bytes are taken as they are stored, without their zero point. */
static void no_zero(const lw_tile *t, tile_fn *run) {
    static const int32_t zeros[LW_MAX_ROWS];
    lw_tile u = *t;
    u.start = zeros;
    run(&u);
}
static void tail_finish_sums(const lw_finish *f) {
    lw_finish g = *f;
    if (--g.columns > 0) GOOD.finish(&g);
}
/* broken_mask: one key too many at the start, where there is one. */
static void mask_softmax(int n, int lo, int hi, float scale, float softcap, float *s, float *max, float *sum) {
    GOOD.segment_softmax(n, lo > 0 ? lo - 1 : lo, hi, scale, softcap, s, max, sum);
}

/* broken_zero: nothing stands for the zero point. broken_block: the last 32 of k are left out. */
static void no_zero_quant(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out) {
    GOOD.quantize(form, rows, k, a, lda, out);
    const lw_quant *q = &lw_quants[form];
    if (!q->zero) return;
    uint32_t *to = out;
    for (int64_t k0 = 0, group = lw_quant_group(k); k0 < k; k0 += group) {
        int64_t n = lw_min(group, k - k0);
        int64_t scales = q->fine ? n / q->block : 1;
        memset(to + scales * rows, 0, (size_t)(n / q->block * rows) * 4);
        to += rows * (scales + n / q->block + n / 4);
    }
}
static void drop_block(const lw_quant_tile *t) {
    lw_quant_tile u = *t;
    u.k -= LW_PIECE;
    GOOD.tile_quant(&u);
}

#define QUANTS 4, 4, 1, 2, tile_quant, expand_quant, quantize
#define ROWS finish, QUANTS, BARE_ROWS
#define BARE_ROWS to_bf16, rms_norm, layer_norm, softmax, activation, mul_activation, add, rope
#define SEGMENTS segment_softmax, segment_merge, segment_finish
#define PEAKS peak_f32, NULL, peak_int8, read_all
TILES(lw_broken_k, drop_k)
TILES(lw_broken_lanes, swap_lanes)
TILES(lw_broken_tail, drop_column)
TILES(lw_broken_pair, whole_pairs)
TILES(lw_broken_mask, same)
TILES(lw_broken_zero, no_zero)
TILES(lw_broken_block, same)
TABLE(lw_broken_k, "broken_k", ROWS, SEGMENTS, PEAKS);
TABLE(lw_broken_lanes, "broken_lanes", ROWS, SEGMENTS, PEAKS);
TABLE(lw_broken_tail, "broken_tail", tail_finish_sums, QUANTS, tail_to_bf16, tail_rms_norm, tail_layer_norm, tail_softmax,
      tail_activation, tail_mul_activation, tail_add, tail_rope, segment_softmax, tail_merge, tail_finish, PEAKS);
TABLE(lw_broken_pair, "broken_pair", ROWS, SEGMENTS, PEAKS);
TABLE(lw_broken_mask, "broken_mask", ROWS, mask_softmax, segment_merge, segment_finish, PEAKS);
TABLE(lw_broken_zero, "broken_zero", finish, 4, 4, 1, 2, tile_quant, expand_quant, no_zero_quant, BARE_ROWS, SEGMENTS, PEAKS);
TABLE(lw_broken_block, "broken_block", finish, 4, 4, 1, 2, drop_block, expand_quant, quantize, BARE_ROWS, SEGMENTS, PEAKS);
