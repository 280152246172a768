/* cache.c - the paged KV cache: allocation, and writing rows of keys and values into their lines. */
#include "cache.h"
#include <stdlib.h>
#include <string.h>

lw_status lw_cache_create(const lw_cache_shape *shape, lw_cache **out) {
    *out = NULL;
    if (shape->layers < 1 || shape->kv_heads < 1 || shape->head_dim < 1 || shape->head_dim > LW_MAX_HEAD_DIM ||
        shape->layers > 4096 || shape->kv_heads > 65536 || (shape->type != LW_F32 && shape->type != LW_BF16))
        return LW_E_ARGUMENT;
    lw_cache *c = calloc(1, sizeof *c);
    if (!c) return LW_E_MEMORY;
    c->shape = *shape;
    c->per_line = shape->type == LW_F32 ? 1 : 2;
    c->value_panels = (int)lw_ceil_div(shape->head_dim, LW_LANES);
    c->key_panel = (size_t)lw_ceil_div(shape->head_dim, c->per_line) * LW_LINE;
    c->value_panel = (size_t)(LW_PAGE / c->per_line) * LW_LINE;
    c->key_bytes = c->key_panel * (LW_PAGE / LW_LANES);
    c->head_bytes = c->key_bytes + c->value_panel * (size_t)c->value_panels;
    c->layer_bytes = c->head_bytes * (size_t)shape->kv_heads;
    c->page_bytes = c->layer_bytes * (size_t)shape->layers;
    *out = c;
    return LW_OK;
}

void lw_cache_free(lw_cache *c) {
    if (!c) return;
    for (int i = 0; i < c->n_chunks; i++) lw_memory_free(c->chunks[i].data, c->chunks[i].bytes);
    free(c->chunks);
    free(c->page);
    free(c);
}

size_t lw_cache_page_bytes(const lw_cache *c) { return c->page_bytes; }
int64_t lw_cache_pages(const lw_cache *c) { return c->pages; }

lw_status lw_cache_reserve(lw_cache *c, int64_t pages) {
    if (pages <= c->pages) return LW_OK;
    int64_t more = pages - c->pages;
    if (pages > INT32_MAX || (size_t)more > SIZE_MAX / 2 / c->page_bytes) return LW_E_ARGUMENT;
    void *grown = realloc(c->page, (size_t)pages * sizeof *c->page);
    if (!grown) return LW_E_MEMORY;
    c->page = grown;
    grown = realloc(c->chunks, (size_t)(c->n_chunks + 1) * sizeof *c->chunks);
    if (!grown) return LW_E_MEMORY;
    c->chunks = grown;
    void *data;
    LW_TRY(lw_memory_alloc((size_t)more * c->page_bytes, &data));
    c->chunks[c->n_chunks].data = data;
    c->chunks[c->n_chunks++].bytes = (size_t)more * c->page_bytes;
    for (int64_t i = 0; i < more; i++) c->page[c->pages + i] = (unsigned char *)data + (size_t)i * c->page_bytes;
    c->pages = pages;
    return LW_OK;
}

lw_status lw_cache_copy_page(lw_cache *c, int32_t from, int32_t to) {
    if (from < 0 || to < 0 || from >= c->pages || to >= c->pages) return LW_E_ARGUMENT;
    if (from != to) memcpy(c->page[to], c->page[from], c->page_bytes);
    return LW_OK;
}

lw_status lw_sequences_check(const lw_cache *c, const lw_sequences *s, const int32_t *kv_length) {
    if (s->count < 0 || (s->count > 0 && s->row_starts[0] != 0)) return LW_E_ARGUMENT;
    for (int i = 0; i < s->count; i++) {
        int64_t rows = (int64_t)s->row_starts[i + 1] - s->row_starts[i];
        int64_t length = s->first_position[i] + rows;
        if (rows < 0 || s->first_position[i] < 0) return LW_E_ARGUMENT;
        if (kv_length) {
            if (kv_length[i] < 0) return LW_E_ARGUMENT;
            length = kv_length[i];
        }
        if (length > (int64_t)s->table_width * LW_PAGE) return LW_E_ARGUMENT;
        const int32_t *table = s->page_table + (int64_t)i * s->table_width;
        for (int64_t p = 0; p < lw_ceil_div(length, LW_PAGE); p++)
            if (table[p] < 0 || table[p] >= c->pages) return LW_E_ARGUMENT;
    }
    return LW_OK;
}

/* ---- append ---- */

typedef struct append_job {
    lw_ctx *ctx;
    lw_cache *cache;
    const lw_sequences *s;
    int layer;
    const float *k, *v;
    int64_t ldk, ldv;
} append_job;

static void write_f32(const lw_cache *c, int slot, const float *k, const float *v, unsigned char *keys,
                      unsigned char *values) {
    int d = c->shape.head_dim;
    float *key = (float *)(keys + (size_t)(slot / LW_LANES) * c->key_panel) + slot % LW_LANES;
    for (int i = 0; i < d; i++) key[i * LW_LANES] = k[i];
    for (int panel = 0; panel < c->value_panels; panel++) {
        float *line = (float *)(values + (size_t)panel * c->value_panel) + slot * LW_LANES;
        int n = (int)lw_min(LW_LANES, d - panel * LW_LANES);
        memcpy(line, v + panel * LW_LANES, (size_t)n * sizeof(float));
    }
}

/* k, v already rounded, padded by one zero. An even token clears its odd neighbour's half of the value line. */
static void write_bf16(const lw_cache *c, int slot, const uint16_t *k, const uint16_t *v, unsigned char *keys,
                       unsigned char *values) {
    int d = c->shape.head_dim;
    uint32_t *key = (uint32_t *)(keys + (size_t)(slot / LW_LANES) * c->key_panel) + slot % LW_LANES;
    for (int i = 0; i < d; i += 2) key[i / 2 * LW_LANES] = (uint32_t)k[i] | (uint32_t)k[i + 1] << 16;
    for (int i = 0; i < d; i++) {
        unsigned char *line = values + (size_t)(i / LW_LANES) * c->value_panel + (size_t)(slot / 2) * LW_LINE;
        uint16_t *pair = (uint16_t *)line + i % LW_LANES * 2;
        pair[slot & 1] = v[i];
        if (!(slot & 1)) pair[1] = 0;
    }
}

/* One kv head of one sequence: its rows in order, so that the two halves of a value line have one writer. */
static void append_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const append_job *j = arg;
    const lw_cache *c = j->cache;
    int heads = c->shape.kv_heads, d = c->shape.head_dim;
    int seq = (int)(task / heads), head = (int)(task % heads);
    uint16_t k16[LW_MAX_HEAD_DIM + 2], v16[LW_MAX_HEAD_DIM + 2];
    k16[d] = v16[d] = 0;
    for (int row = j->s->row_starts[seq]; row < j->s->row_starts[seq + 1]; row++) {
        int64_t position = (int64_t)j->s->first_position[seq] + row - j->s->row_starts[seq];
        int32_t page = j->s->page_table[(int64_t)seq * j->s->table_width + position / LW_PAGE];
        int slot = (int)(position % LW_PAGE);
        const float *k = j->k + row * j->ldk + (int64_t)head * d, *v = j->v + row * j->ldv + (int64_t)head * d;
        unsigned char *keys = lw_cache_keys(c, page, j->layer, head), *values = keys + c->key_bytes;
        if (c->shape.type == LW_F32) {
            write_f32(c, slot, k, v, keys, values);
        } else {
            j->ctx->kernels->to_bf16((size_t)d, k, k16);
            j->ctx->kernels->to_bf16((size_t)d, v, v16);
            write_bf16(c, slot, k16, v16, keys, values);
        }
    }
}

lw_status lw_append_run(lw_ctx *ctx, lw_cache *cache, int layer, const lw_sequences *s, const float *k, int64_t ldk,
                        const float *v, int64_t ldv) {
    append_job job = {ctx, cache, s, layer, k, v, ldk, ldv};
    int64_t tasks = (int64_t)s->count * cache->shape.kv_heads;
    if (!tasks) return LW_OK;
    int64_t values = (int64_t)s->row_starts[s->count] * cache->shape.kv_heads * cache->shape.head_dim;
    if (values < 4096) {   /* a decode step: cheaper than waking anybody */
        for (int64_t task = 0; task < tasks; task++) append_task(&job, task, 0);
        return LW_OK;
    }
    return lw_pool_run(ctx->pool, tasks, append_task, &job);
}

lw_status lw_cache_append(lw_ctx *ctx, lw_cache *cache, int layer, const lw_sequences *s, const float *k, int64_t ldk,
                          const float *v, int64_t ldv) {
    int64_t width = (int64_t)cache->shape.kv_heads * cache->shape.head_dim;
    if (layer < 0 || layer >= cache->shape.layers || ldk < width || ldv < width) return LW_E_ARGUMENT;
    LW_TRY(lw_sequences_check(cache, s, NULL));
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_append_run(ctx, cache, layer, s, k, ldk, v, ldv);
    lw_fp_leave(fp);
    return status;
}
