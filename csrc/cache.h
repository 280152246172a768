/* cache.h - where a key or a value lies inside a page; docs/layouts.md draws it. */
#ifndef LW_CACHE_H
#define LW_CACHE_H
#include "context.h"

enum { LW_MAX_HEAD_DIM = 1024 };

/* A page holds LW_PAGE tokens of every layer: [layer][kv head][keys | values], both as packed weights, so that attention
 * is two products with the tiles of the GEMM. Keys: panels of 16 tokens over the dimensions of the head; values: panels of
 * 16 dimensions over the tokens. */
struct lw_cache {
    lw_cache_shape shape;
    int per_line;                /* values of k in a line: 1 (float32) or 2 (bfloat16) */
    int value_panels;            /* ceil(head_dim / 16) */
    size_t key_panel, value_panel, key_bytes, head_bytes, layer_bytes, page_bytes;
    int64_t pages;
    unsigned char **page;        /* [pages] first byte of each page */
    struct { void *data; size_t bytes; } *chunks;
    int n_chunks;
};

static inline unsigned char *lw_cache_keys(const lw_cache *c, int32_t page, int layer, int head) {
    return c->page[page] + (size_t)layer * c->layer_bytes + (size_t)head * c->head_bytes;
}
static inline unsigned char *lw_cache_values(const lw_cache *c, int32_t page, int layer, int head) {
    return lw_cache_keys(c, page, layer, head) + c->key_bytes;
}
/* Every index of a batch is checked once, here: pages that exist, positions inside the table. */
lw_status lw_sequences_check(const lw_cache *cache, const lw_sequences *s, const int32_t *kv_length);
#endif
