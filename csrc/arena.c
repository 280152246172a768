/* arena.c - memory straight from the system: aligned, zero-filled, in huge pages where that helps. */
#include "arena.h"
#include <sys/mman.h>
#include <unistd.h>

/* Weights are read as one stream: with 4 KiB pages the walks cost more than the data of a small panel. From 16 MiB on
 * the size is rounded to whole huge pages (the waste is at most an eighth); below that only the alignment is kept. */
static size_t mapped_bytes(size_t bytes)
{
    size_t unit = bytes >= (size_t)8 * LW_HUGE ? (size_t)LW_HUGE : (size_t)sysconf(_SC_PAGESIZE);
    if (bytes == 0) bytes = 1;
    return (bytes + unit - 1) / unit * unit;
}

lw_status lw_memory_alloc(size_t bytes, void **out)
{
    *out = NULL;
    if (bytes > (size_t)PTRDIFF_MAX - 2 * (size_t)LW_HUGE) return LW_E_MEMORY;
    size_t size = mapped_bytes(bytes), slack = bytes >= (size_t)LW_HUGE ? (size_t)LW_HUGE : 0;
    unsigned char *map = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return LW_E_MEMORY;
    if (slack) {
        size_t head = (size_t)(-(uintptr_t)map & (LW_HUGE - 1));
        if (head) munmap(map, head);
        map += head;
        if (slack > head) munmap(map + size, slack - head);
#ifdef MADV_HUGEPAGE
        madvise(map, size, MADV_HUGEPAGE);   /* advice only: without huge pages everything still works */
#endif
    }
    *out = map;
    return LW_OK;
}

void lw_memory_free(void *memory, size_t bytes)
{
    if (memory) munmap(memory, mapped_bytes(bytes));
}

lw_status lw_block_reserve(lw_block *block, size_t bytes)
{
    if (bytes <= block->bytes) return LW_OK;
    void *memory;
    /* Grow by an eighth more than asked: a prompt that gets longer step by step must not map anew at every step. */
    size_t wanted = bytes + bytes / 8;
    if (wanted < bytes) return LW_E_MEMORY;
    lw_block_free(block);
    LW_TRY(lw_memory_alloc(wanted, &memory));
    block->data = memory;
    block->bytes = wanted;
    return LW_OK;
}

void lw_block_free(lw_block *block)
{
    lw_memory_free(block->data, block->bytes);
    block->data = NULL;
    block->bytes = 0;
}
