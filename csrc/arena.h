/* arena.h - memory: large aligned mappings, and blocks that grow. */
#ifndef LW_ARENA_H
#define LW_ARENA_H
#include "common.h"
#include "lanewise.h"

/* Zero-filled, 64-byte aligned; from 2 MiB on aligned to 2 MiB and advised for huge pages. Sizes are checked for overflow by the caller. */
lw_status lw_memory_alloc(size_t bytes, void **out);
void lw_memory_free(void *memory, size_t bytes);

typedef struct lw_block {
    void *data;
    size_t bytes;
} lw_block;
/* Makes the block at least `bytes` large; the old contents are lost when it grows. */
lw_status lw_block_reserve(lw_block *block, size_t bytes);
void lw_block_free(lw_block *block);
#endif
