/* check.h - what the C tests share: counting checks, random numbers, guarded memory. */
#ifndef LW_TESTS_CHECK_H
#define LW_TESTS_CHECK_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int passed, failed;
#define CHECK(condition, ...)                                        \
    do {                                                             \
        if (condition) { passed++; break; }                          \
        if (failed++ < 20) {                                         \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);   \
            printf(__VA_ARGS__);                                     \
            printf("\n");                                            \
        }                                                            \
    } while (0)

static uint64_t seed = 88172645463325252u;
static inline uint32_t bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}
static inline float uniform(void) { return (float)(int32_t)bits() * 0x1p-31f; }
typedef union both { uint32_t u; float f; } both;
static inline uint32_t word(float f) { return (both){.f = f}.u; }
static inline float from_word(uint32_t u) { return (both){.u = u}.f; }

/* ---- memory that ends (and begins) at pages nobody may touch ------------------------------------------------------- */
typedef struct guarded { unsigned char *map; size_t size; void *data; } guarded;
static inline guarded guard(size_t bytes, int at_end)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page + page;
    guarded g = {mmap(NULL, body + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), body + 2 * page, 0};
    if (g.map == MAP_FAILED) exit(2);
    mprotect(g.map, page, PROT_NONE);
    mprotect(g.map + page + body, page, PROT_NONE);
    g.data = at_end ? g.map + page + body - bytes : g.map + page;
    return g;
}
static inline void unguard(guarded g) { munmap(g.map, g.size); }

static inline int report(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
#endif
