/* weight.c - any source -> packed lines, and back. */
#include "context.h"
#include "format.h"
#include "quant.h"
#include <stdlib.h>
#include <string.h>

/* ---- conversions: plain integer arithmetic, so that no bit depends on the CPU -------------------------------------- */
typedef uint16_t u16x4 __attribute__((vector_size(8)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));

/* Four at a time in the compiler's own vectors: no loop that it would vectorise may reinterpret bits. */
static inline u32x4 f16_to_f32(u16x4 h)
{
    u32x4 wide = __builtin_convertvector(h, u32x4), sign = (wide & 0x8000) << 16, m = (wide & 0x7fff) << 13;
    /* Subnormal: 2^-14 (1 + fraction) - 2^-14 is exact and, unlike a search for the leading one, has no branch. */
    u32x4 small = (u32x4)((f32x4)(m | 0x38800000) - 0x1p-14f);
    /* Infinity and NaN keep their payload: the exponent goes up twice. */
    u32x4 special = (u32x4)((i32x4)m >= 0x0f800000) & 0x38000000, normal = (u32x4)((i32x4)m >= 0x00800000);
    return sign | ((m + 0x38000000 + special) & normal) | (small & ~normal);
}

/* To float32, n rounded up to 4: the caller has the room. */
static void widen_f16(int n, const uint16_t *h, uint32_t *out)
{
    for (int i = 0; i < n; i += 4) {
        u16x4 four = {0};
        if (i + 4 <= n) memcpy(&four, h + i, 8);
        else for (int j = 0; i + j < n; j++) four[j] = h[i + j];
        u32x4 wide = f16_to_f32(four);
        memcpy(out + i, &wide, 16);
    }
}

static inline uint16_t f32_to_bf16(uint32_t u)
{
    uint32_t nan = (u >> 16) | 0x40, rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

/* n elements of a contiguous source become n packed elements (uint32_t for P32, uint16_t for P16, uint8_t for P8). */
static void convert(lw_format format, lw_type type, int n, const void *source, void *out)
{
    const uint16_t *h = source;
    const uint32_t *f = source;
    if (format == LW_P8) {
        const uint8_t *q = source;
        for (int i = 0; i < n; i++) ((uint8_t *)out)[i] = q[i] ^ 0x80;   /* int8 + 128 */
        return;
    }
    uint16_t *out16 = out;
    uint32_t *out32 = out;
    if (format == LW_P32) {
        if (type == LW_F32) memcpy(out32, f, (size_t)n * 4);
        else if (type == LW_BF16) for (int i = 0; i < n; i++) out32[i] = (uint32_t)h[i] << 16;
        else widen_f16(n, h, out32);
    } else {
        if (type == LW_BF16) memcpy(out16, h, (size_t)n * 2);
        else if (type == LW_F32) for (int i = 0; i < n; i++) out16[i] = f32_to_bf16(f[i]);
        else for (int i = 0; i < n; i += 64) {
            uint32_t wide[64];
            int some = n - i < 64 ? n - i : 64;
            widen_f16(some, h + i, wide);
            for (int j = 0; j < some; j++) out16[i + j] = f32_to_bf16(wide[j]);
        }
    }
}

/* ---- the handle ---------------------------------------------------------------------------------------------------- */
int64_t lw_weight_size(lw_format format, int64_t n, int64_t k)
{
    /* A tile counts k and columns in int. */
    if ((unsigned)format >= LW_FORMATS || !lw_formats[format].name) return -1;
    if (n < 0 || k < 0 || n > INT32_MAX - 64 || k > INT32_MAX - 64) return -1;
    int64_t panels = lw_ceil_div(n, LW_LANES), panel_bytes;   /* < 2^37 */
    if (format >= LW_Q4_0) {
        if (k % lw_quant_of(format)->source_block) return -1;
        panel_bytes = lw_quant_panel_bytes(lw_quant_of(format), k);
    } else {
        panel_bytes = lw_ceil_div(k, lw_formats[format].k_per_line) * LW_LINE;
    }
    if (panel_bytes && panels > (int64_t)(PTRDIFF_MAX / 2) / panel_bytes) return -1;
    return panels * panel_bytes;
}

/* Everything but the lines. */
static lw_status new_weight(lw_format format, int64_t n, int64_t k, lw_weight **out)
{
    if (!out) return LW_E_ARGUMENT;
    *out = NULL;
    int64_t size = lw_weight_size(format, n, k);
    if (size < 0) return LW_E_ARGUMENT;
    int64_t panels = lw_ceil_div(n, LW_LANES), panel_bytes = panels ? size / panels : 0;
    lw_weight *w = calloc(1, sizeof *w);
    if (!w) return LW_E_MEMORY;
    *w = (lw_weight){.format = format, .n = n, .k = k, .panels = panels, .panel_bytes = (size_t)panel_bytes,
                     .bytes = (size_t)(panels * panel_bytes)};
    *out = w;
    return LW_OK;
}

lw_status lw_weight_create(lw_format format, int64_t n, int64_t k, lw_weight **out)
{
    lw_weight *w;
    if (out) *out = NULL;
    LW_TRY(new_weight(format, n, k, out ? &w : NULL));
    void *lines;
    lw_status status = lw_memory_alloc(w->bytes, &lines);
    if (status != LW_OK) {
        free(w);
        return status;
    }
    w->lines = lines;
    if (format == LW_P8 && !(w->sums = calloc((size_t)w->panels * LW_LANES + 1, sizeof *w->sums))) {
        lw_weight_free(w);
        return LW_E_MEMORY;
    }
    *out = w;
    return LW_OK;
}

lw_status lw_weight_place(lw_format format, int64_t n, int64_t k, void *lines, lw_weight **out)
{
    if (out) *out = NULL;
    if (!lines || (uintptr_t)lines % LW_LINE || format == LW_P8) return LW_E_ARGUMENT;
    LW_TRY(new_weight(format, n, k, out));
    (*out)->lines = lines;
    (*out)->borrowed = 1;
    return LW_OK;
}

lw_status lw_weight_borrow(lw_format format, int64_t n, int64_t k, const void *lines, lw_weight **out)
{
    LW_TRY(lw_weight_place(format, n, k, (void *)(uintptr_t)lines, out));
    (*out)->fixed = 1;                                   /* lw_weight_pack refuses it, nothing else writes */
    return LW_OK;
}

void lw_weight_free(lw_weight *w)
{
    if (!w) return;
    if (!w->borrowed) lw_memory_free(w->lines, w->bytes);
    free(w->sums);
    free(w->order);
    free(w);
}

lw_status lw_weight_set_order(lw_weight *w, const int32_t *order)
{
    if (!w || !order || w->order || w->format < LW_Q4_0) return LW_E_ARGUMENT;
    unsigned char *seen = calloc((size_t)w->k + 1, 1);
    int32_t *copy = malloc(((size_t)w->k + 1) * sizeof *copy);
    lw_status status = seen && copy ? LW_OK : LW_E_MEMORY;
    for (int64_t i = 0; i < w->k && status == LW_OK; i++) {
        copy[i] = order[i];                        /* read once: what is checked is what is kept */
        if (copy[i] < 0 || copy[i] >= w->k || seen[copy[i]]++) status = LW_E_ARGUMENT;
    }
    free(seen);
    if (status == LW_OK) w->order = copy;
    else free(copy);
    return status;
}

const void *lw_weight_lines(const lw_weight *w) { return w->lines; }
int64_t lw_weight_n(const lw_weight *w) { return w->n; }
int64_t lw_weight_k(const lw_weight *w) { return w->k; }
lw_format lw_weight_format(const lw_weight *w) { return w->format; }
size_t lw_weight_bytes(const lw_weight *w) { return w->bytes + (w->order ? (size_t)w->k * sizeof *w->order : 0); }

/* ---- packing ------------------------------------------------------------------------------------------------------- */
enum { BLOCK_LINES = 128, STAGE = BLOCK_LINES + 16 };   /* words per row of the stage: rows must not fall into one cache set */

typedef struct pack_job {
    lw_weight *w;
    int64_t row0, step, panel0;
    lw_source source;
} pack_job;

/* The source row that becomes output `o`, or -1. */
static int64_t source_row(const pack_job *job, int64_t o)
{
    int64_t d = o - job->row0, period = (int64_t)LW_LANES * job->step;
    if (d < 0 || d % period >= LW_LANES) return -1;
    int64_t row = d / period * LW_LANES + d % period;
    return row < job->source.rows ? row : -1;
}

/* Copies elements k0 .. k0+n of the rows (NULL: absent) into raw, one row after the other: at most 512 bytes of each. */
static void gather(const lw_source *source, const unsigned char *const rows[LW_LANES], int64_t k0, int n,
                   unsigned char raw[LW_LANES][8 * BLOCK_LINES])
{
    ptrdiff_t step = source->col_stride;
    size_t size = lw_type_size(source->type);
    /* A transposed source: neighbouring rows share cache lines, so take them together. */
    for (int i = 0; i < n; i++) {
        for (int lane = 0; lane < LW_LANES; lane++) {
            if (!rows[lane]) continue;
            const unsigned char *from = rows[lane] + (k0 + i) * step;
            if (size == 4) memcpy(&raw[lane][4 * i], from, 4);
            else if (size == 2) memcpy(&raw[lane][2 * i], from, 2);
            else raw[lane][i] = *from;
        }
    }
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (u32x4){i, j, k, l})
#endif

/* line[j][lane] = stage[lane][j]: 4 x 4 blocks, whole lines in order. */
static void transpose(const uint32_t stage[LW_LANES][STAGE], int lines, unsigned char *out)
{
    for (int j = 0; j < lines; j += 4) {
        u32x4 block[4][LW_LANES / 4];
        UNROLL
        for (int q = 0; q < LW_LANES / 4; q++) {
            u32x4 r[4];
            for (int i = 0; i < 4; i++) memcpy(&r[i], &stage[4 * q + i][j], 16);
            u32x4 a = SHUFFLE(r[0], r[1], 0, 4, 1, 5), b = SHUFFLE(r[0], r[1], 2, 6, 3, 7);
            u32x4 c = SHUFFLE(r[2], r[3], 0, 4, 1, 5), d = SHUFFLE(r[2], r[3], 2, 6, 3, 7);
            block[0][q] = SHUFFLE(a, c, 0, 1, 4, 5);
            block[1][q] = SHUFFLE(a, c, 2, 3, 6, 7);
            block[2][q] = SHUFFLE(b, d, 0, 1, 4, 5);
            block[3][q] = SHUFFLE(b, d, 2, 3, 6, 7);
        }
        for (int i = 0; i < 4 && j + i < lines; i++) memcpy(out + (size_t)(j + i) * LW_LINE, block[i], LW_LINE);
    }
}

/* Elements k0 .. k0+n of 16 rows (NULL: absent) -> lines. keep: the lanes of absent rows belong to others. */
static void pack_lines(lw_format format, const lw_source *source, const unsigned char *const rows[LW_LANES], int64_t k0,
                       int64_t k, int keep, unsigned char *out)
{
    ALIGN(64) uint32_t stage[LW_LANES][STAGE];
    ALIGN(64) unsigned char raw[LW_LANES][8 * BLOCK_LINES];
    int per_line = lw_formats[format].k_per_line, size = (int)lw_type_size(source->type);
    int contiguous = source->col_stride == size, block = BLOCK_LINES * per_line;
    if (format == LW_P32 && source->type == LW_F32 && source->row_stride == 4 && rows[0] && rows[LW_LANES - 1]) {
        for (int64_t i = 0; i < k; i++) memcpy(out + i * LW_LINE, rows[0] + (k0 + i) * source->col_stride, LW_LINE);
        return;                                    /* [k, n] in memory: lines as they are */
    }
    memset(stage, 0, sizeof stage);
    for (int64_t at = 0; at < k; at += block) {
        int n = (int)lw_min(block, k - at), lines = (int)lw_ceil_div(n, per_line);
        if (!contiguous) gather(source, rows, k0 + at, n, raw);
        for (int lane = 0; lane < LW_LANES; lane++) {
            if (!rows[lane]) continue;
            const unsigned char *from = contiguous ? rows[lane] + (k0 + at) * size : raw[lane];
            if ((uintptr_t)from % (unsigned)size) from = memcpy(raw[lane], from, (size_t)(n * size));
            stage[lane][lines - 1] = 0;            /* an odd k leaves half a word */
            convert(format, source->type, n, from, stage[lane]);
        }
        if (!keep) {
            transpose(stage, lines, out + at / per_line * LW_LINE);
            continue;
        }
        for (int lane = 0; lane < LW_LANES; lane++)
            for (int j = 0; j < lines && rows[lane]; j++)
                memcpy(out + (size_t)(at / per_line + j) * LW_LINE + 4 * lane, &stage[lane][j], 4);
    }
}

/* What a line leaves unused is 0, which stands for -128, so k values count 128 too much. */
void lw_byte_sums(const unsigned char *lines, int64_t k, int32_t *sums)
{
    u32x4 total[LW_LANES / 4] = {0};
    for (int64_t i = 0; i < lw_ceil_div(k, 4); i++)
        for (int q = 0; q < LW_LANES / 4; q++) {
            u32x4 w;
            memcpy(&w, lines + i * LW_LINE + 16 * q, 16);
            w = (w & 0x00ff00ff) + (w >> 8 & 0x00ff00ff);
            total[q] += (w & 0xffff) + (w >> 16);
        }
    for (int lane = 0; lane < LW_LANES; lane++)
        sums[lane] = (int32_t)(128 * (total[lane / 4][lane % 4] - 128 * (uint32_t)k));
}

static void pack_panel(void *arg, int64_t task, int worker)
{
    (void)worker;
    const pack_job *job = arg;
    const lw_weight *w = job->w;
    int64_t panel = job->panel0 + task;
    int present = 0;
    const unsigned char *rows[LW_LANES];
    for (int lane = 0; lane < LW_LANES; lane++) {
        int64_t row = source_row(job, panel * LW_LANES + lane);
        rows[lane] = row < 0 ? NULL : (const unsigned char *)job->source.data + row * job->source.row_stride;
        present += row >= 0;
    }
    if (present == 0) return;
    if (w->format >= LW_Q4_0) {
        lw_quant_pack_panel(w->format, w->k, rows, w->lines + (size_t)panel * w->panel_bytes);
        return;
    }
    unsigned char *lines = w->lines + (size_t)panel * w->panel_bytes;
    pack_lines(w->format, &job->source, rows, 0, w->k, present < LW_LANES, lines);
    if (w->sums) lw_byte_sums(lines, w->k, w->sums + panel * LW_LANES);
}

void lw_pack_panel(lw_format format, const lw_source *source, int64_t panel, int64_t k0, int64_t k, unsigned char *out)
{
    const unsigned char *rows[LW_LANES];
    for (int64_t lane = 0, row = panel * LW_LANES; lane < LW_LANES; lane++, row++)
        rows[lane] = row < source->rows ? (const unsigned char *)source->data + row * source->row_stride : NULL;
    pack_lines(format, source, rows, k0, k, 0, out);
}

lw_status lw_weight_pack(lw_ctx *ctx, lw_weight *w, int64_t row0, int step, const lw_source *source)
{
    if (!ctx || !w || w->fixed || !source || row0 < 0 || step < 1 || step > 1 << 20 || source->rows < 0) return LW_E_ARGUMENT;
    if ((source->type == LW_BLOCKS) != (w->format >= LW_Q4_0)) return LW_E_ARGUMENT;
    if (!lw_type_size(source->type) || source->rows > w->n || row0 > w->n) return LW_E_ARGUMENT;
    if ((w->format == LW_P8) != (source->type == LW_I8) || source->type == LW_U8 || source->type == LW_I32)
        return LW_E_ARGUMENT;
    if (source->rows == 0 || w->k == 0) return LW_OK;
    if (!source->data) return LW_E_ARGUMENT;
    int64_t last_row = source->rows - 1;
    int64_t last = row0 + last_row / LW_LANES * LW_LANES * step + last_row % LW_LANES;
    if (last >= w->n) return LW_E_ARGUMENT;
    pack_job job = {w, row0, step, row0 / LW_LANES, *source};
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_pool_run(ctx->pool, last / LW_LANES - job.panel0 + 1, pack_panel, &job);
    lw_fp_leave(fp);
    return status;
}

/* ---- checksum ------------------------------------------------------------------------------------------------------ */
enum { CHUNK = 1 << 20, CHAINS = LW_LINE / 8 };

/* One to one in either argument: a single word that differs always shows. The rotation brings high bits, which a product
 * only moves up, back to where they spread. */
static inline uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * UINT64_C(0x9e3779b97f4a7c15);
    return h << 32 | h >> 32;
}

typedef struct sum_job {
    const lw_weight *w;
    uint64_t *sums;              /* of each chunk */
} sum_job;

/* Eight chains hide the latency of the products: as fast as memory. */
static void sum_chunk(void *arg, int64_t chunk, int worker)
{
    (void)worker;
    const sum_job *job = arg;
    const unsigned char *p = job->w->lines + (size_t)chunk * CHUNK;
    size_t bytes = (size_t)lw_min(CHUNK, (int64_t)job->w->bytes - chunk * CHUNK);
    uint64_t h[CHAINS], x[CHAINS], sum = bytes;
    for (int i = 0; i < CHAINS; i++) h[i] = (uint64_t)i + 1;
    for (const unsigned char *end = p + bytes; p < end; p += LW_LINE) {
        memcpy(x, p, LW_LINE);
        UNROLL
        for (int i = 0; i < CHAINS; i++) h[i] = mix(h[i], x[i]);
    }
    for (int i = 0; i < CHAINS; i++) sum = mix(sum, h[i]);
    job->sums[chunk] = sum;
}

lw_status lw_weight_checksum(lw_ctx *ctx, const lw_weight *w, uint64_t *out)
{
    if (!ctx || !w || !out) return LW_E_ARGUMENT;
    int64_t chunks = lw_ceil_div((int64_t)w->bytes, CHUNK);
    uint64_t *sums = malloc((size_t)(chunks + 1) * sizeof *sums), total = w->bytes;
    if (!sums) return LW_E_MEMORY;
    sum_job job = {w, sums};
    lw_status status = lw_pool_run(ctx->pool, chunks, sum_chunk, &job);
    for (int64_t i = 0; i < chunks && status == LW_OK; i++) total = mix(total, sums[i]);
    free(sums);
    *out = total;
    return status;
}

/* ---- unpacking ----------------------------------------------------------------------------------------------------- */
void lw_weight_row(const lw_weight *w, int64_t row, float *out)
{
    if (w->format >= LW_Q4_0) {
        lw_quant_unpack_row(w, row, out);
        return;
    }
    const unsigned char *lane = w->lines + (size_t)(row / LW_LANES) * w->panel_bytes + 4 * (size_t)(row % LW_LANES);
    for (int64_t k = 0; k < w->k; k++) {
        uint32_t word;
        if (w->format == LW_P32) {
            memcpy(&word, lane + k * LW_LINE, 4);
        } else if (w->format == LW_P8) {
            out[k] = (float)(lane[k / 4 * LW_LINE + k % 4] - 128);
            continue;
        } else {
            memcpy(&word, lane + k / 2 * LW_LINE, 4);
            word = k & 1 ? word & 0xffff0000 : word << 16;
        }
        memcpy(out + k, &word, 4);
    }
}

lw_status lw_weight_unpack(const lw_weight *w, int64_t row0, int64_t rows, float *out)
{
    if (!w || row0 < 0 || rows < 0 || row0 > w->n || rows > w->n - row0) return LW_E_ARGUMENT;
    if (rows && w->k && !out) return LW_E_ARGUMENT;
    for (int64_t i = 0; i < rows; i++) lw_weight_row(w, row0 + i, out + i * w->k);
    return LW_OK;
}
