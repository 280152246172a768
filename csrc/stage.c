/* stage.c - activations converted and interleaved: what costs one pass here would cost every tile a stream per row. */
#include "stage.h"
#include "lace.h"
#include <math.h>
#include <string.h>

enum { CHUNK = 256,              /* units of one row converted at a time: a group's stay in L1 */
       AHEAD = 8,                /* pieces of rows under way */
       ALIAS = 4096 };           /* rows at multiples of this fall into one set of the L1 cache */

static int64_t units_of(const lw_stage *s, int64_t k) {
    if (s->kind == LW_STAGE_F32) return k;
    if (s->kind == LW_STAGE_BF16) return lw_ceil_div(k, 2);
    return lw_ceil_div(k, 4) * s->kernels->quad / 4;
}

/* ---- converting --------------------------------------------------------------------------------------------------- */
/* float32 -> int8 of the row's own scale, nearest even; a row with NaN or infinity has scale NaN and zeros. */
static float row_scale(const float *x, int64_t n) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float largest;
    memcpy(&largest, &most, 4);
    return most >= 0x7f800000 ? NAN : largest / 127.0f;
}

static void to_int8(const float *x, int64_t n, float scale, int8_t *out) {
    /* Adding 1.5 * 2^23 rounds to a whole number, nearest even, in the last bits. */
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f, magic = 12582912.0f;
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] * inverse;
        y = y > 127.0f ? 127.0f : y < -127.0f ? -127.0f : y;   /* 1 / scale of a subnormal scale is infinite */
        y += magic;
        int32_t bits;
        memcpy(&bits, &y, 4);
        out[i] = (int8_t)(bits & 0xff);
    }
}

/* Values k0 .. k0+n of a row as units. Tails are zero. */
static void convert(const lw_stage *s, int64_t row, int64_t k0, int64_t n, uint32_t *out) {
    if (s->kind != LW_STAGE_INT8) {
        const char *from = (const char *)s->a + (row * s->lda + k0) * (int64_t)lw_type_size(s->type);
        const int narrow = s->type == LW_BF16;
        if (s->kind == LW_STAGE_BF16) {
            if (narrow) memcpy(out, from, (size_t)n * 2);
            else s->kernels->to_dot((size_t)n, (const float *)from, (uint16_t *)out);
            if (n & 1) ((uint16_t *)out)[n] = 0;
        } else if (narrow) {
            for (int64_t i = 0; i < n; i++) out[i] = (uint32_t)((const uint16_t *)from)[i] << 16;
        } else {
            memcpy(out, from, (size_t)n * 4);
        }
        return;
    }
    int8_t quantised[4 * CHUNK];
    const void *from = (const int8_t *)s->a + row * s->lda + k0;
    if (s->type == LW_F32) {
        to_int8((const float *)s->a + row * s->lda + k0, n, s->scale[row], quantised);
        from = quantised;
    }
    s->start[row] -= 128 * s->kernels->to_quads((size_t)n, from, s->type == LW_U8, out);
}

/* ---- row groups --------------------------------------------------------------------------------------------------- */
/* The rows lie apart, and converting one piece takes less time than fetching it from memory: ask for pieces further on.
 * Piece i of a group: rows inside, `step` values of k outside. */
ALWAYS_INLINE void fetch_piece(const lw_stage *s, int64_t first, int64_t rows, int64_t step, int64_t piece) {
    int64_t size = (int64_t)lw_type_size(s->type), k0 = piece / rows * step;
    const char *from = (const char *)s->a + ((first + piece % rows) * s->lda + k0) * size;
    for (int64_t i = 0; i < lw_min(step, s->k - k0) * size; i += LW_LINE) __builtin_prefetch(from + i, 0, 2);
}

static void to_tiles(uint32_t (*buffer)[CHUNK + LW_LANES], int64_t rows, int64_t n, unsigned char *out) {
    for (int64_t r = 0; r < rows; r++) memset(buffer[r] + n, 0, LW_LINE);
    for (int64_t u = 0; u < n; u += LW_LANES)
        for (int64_t r = 0; r < rows; r++, out += LW_LINE) memcpy(out, buffer[r] + u, LW_LINE);
}

/* A task: a row group's part of a block of k. */
static void stage_part(void *arg, int64_t task, int worker) {
    (void)worker;
    const lw_stage *s = arg;
    const int64_t group = task / s->k_blocks, kb = task % s->k_blocks;
    int64_t first = lw_group_row(s, group), rows = lw_group_row(s, group + 1) - first;
    int64_t per_unit = s->kind == LW_STAGE_F32 ? 1 : s->kind == LW_STAGE_BF16 ? 2 : 4;
    int64_t step = s->kind == LW_STAGE_INT8 ? CHUNK * 4 / (s->kernels->quad / 4) : CHUNK * per_unit;
    ALIGN(64) uint32_t buffer[LW_MAX_ROWS][CHUNK + LW_LANES];
    const int aside = s->lace || s->tiles, straight = s->lace && s->kind == LW_STAGE_F32 && s->type == LW_F32;
    const uint32_t *row[LW_MAX_ROWS];
    for (int64_t r = 0; s->kind == LW_STAGE_INT8 && r < rows; r++) {
        s->start[first + r] = 0;
        if (s->type == LW_F32) s->scale[first + r] = row_scale((const float *)s->a + (first + r) * s->lda, s->k);
    }
    const int64_t begin = kb * s->kc, end = lw_min(begin + s->kc, s->k);
    for (int64_t k0 = begin; k0 < end; k0 += step) {
        int64_t n = lw_min(step, end - k0), at = units_of(s, k0 - begin);
        for (int64_t r = 0; r < rows; r++) {
            fetch_piece(s, first, rows, step, k0 / step * rows + r + AHEAD);
            uint32_t *to = aside ? buffer[r] : (uint32_t *)lw_staged(s, kb, first + r) + at;
            row[r] = to;
            if (straight) row[r] = (const uint32_t *)s->a + (first + r) * s->lda + k0;
            else convert(s, first + r, k0, n, to);
        }
        if (s->tiles) to_tiles(buffer, rows, units_of(s, n), lw_staged(s, kb, first) + at * rows * 4);
        if (s->lace) lw_lace(row, rows, units_of(s, n), (uint32_t *)lw_staged(s, kb, first) + at * rows);
    }
    for (int64_t r = 0, used = units_of(s, end - begin); !aside && used % 16 && r < rows; r++)
        memset(lw_staged(s, kb, first + r) + used * 4, 0, (size_t)(16 - used % 16) * 4);
}

/* ---- the face ----------------------------------------------------------------------------------------------------- */
size_t lw_stage_plan(lw_stage *s) {
    s->ld = lw_round_up(units_of(s, s->kc), 16);
    if (s->ld * 4 % ALIAS == 0 && !s->tiles) s->ld += 16;
    int64_t bytes = s->k_blocks * s->rows * s->ld * 4;
    if (s->kind == LW_STAGE_INT8) bytes += s->rows * 8;
    return (size_t)lw_round_up(bytes, LW_LINE);
}

void lw_stage_place(lw_stage *s, void *memory) {
    s->data = memory;
    if (s->kind != LW_STAGE_INT8) return;
    s->start = (int32_t *)(s->data + s->k_blocks * s->rows * s->ld * 4);
    if (s->type == LW_F32) s->scale = (float *)(s->start + s->rows);
}

lw_status lw_stage_run(lw_ctx *ctx, lw_stage *s) { return lw_pool_run(ctx->pool, s->groups * s->k_blocks, stage_part, s); }
