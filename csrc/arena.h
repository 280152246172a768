/* arena.h - blocks of memory that grow. */
#ifndef LW_ARENA_H
#define LW_ARENA_H
#include "common.h"
#include "lanewise.h"

typedef struct lw_block {
    void *data;
    size_t bytes;
} lw_block;
/* Makes the block at least `bytes` large; the old contents are lost when it grows. */
lw_status lw_block_reserve(lw_block *block, size_t bytes);
void lw_block_free(lw_block *block);
#endif
