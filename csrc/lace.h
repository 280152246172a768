/* lace.h - rows of 4-byte units interleaved, as tiles read activations. */
#ifndef LW_LACE_H
#define LW_LACE_H
#include "common.h"
#include <string.h>

typedef uint32_t lw_u32x4 __attribute__((vector_size(16)));
#if defined(__clang__) || __GNUC__ >= 12
#define LW_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define LW_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (lw_u32x4){i, j, k, l})
#endif

static inline void lw_lace_block(const uint32_t *const row[4], int64_t u, uint32_t *to, int64_t rows) {
    lw_u32x4 r[4];
    for (int i = 0; i < 4; i++) memcpy(&r[i], row[i] + u, 16);
    lw_u32x4 a = LW_SHUFFLE(r[0], r[1], 0, 4, 1, 5), b = LW_SHUFFLE(r[0], r[1], 2, 6, 3, 7);
    lw_u32x4 c = LW_SHUFFLE(r[2], r[3], 0, 4, 1, 5), d = LW_SHUFFLE(r[2], r[3], 2, 6, 3, 7);
    lw_u32x4 k0 = LW_SHUFFLE(a, c, 0, 1, 4, 5), k1 = LW_SHUFFLE(a, c, 2, 3, 6, 7);
    lw_u32x4 k2 = LW_SHUFFLE(b, d, 0, 1, 4, 5), k3 = LW_SHUFFLE(b, d, 2, 3, 6, 7);
    memcpy(to, &k0, 16);
    memcpy(to + rows, &k1, 16);
    memcpy(to + 2 * rows, &k2, 16);
    memcpy(to + 3 * rows, &k3, 16);
}

/* to[u][row] = row[u] for n units: four rows by four units at a time, a cache line of each row after the other. */
static inline void lw_lace(const uint32_t *const *row, int64_t rows, int64_t n, uint32_t *to) {
    int64_t whole = rows < 4 ? 0 : n & ~(int64_t)3;
    for (int64_t u0 = 0; u0 < whole; u0 += 16)
        for (int64_t r = 0; r < rows; r += 4) {
            int64_t first = lw_min(r, rows - 4);   /* the last four again rather than fewer */
            for (int64_t u = u0; u < lw_min(u0 + 16, whole); u += 4) lw_lace_block(row + first, u, to + u * rows + first, rows);
        }
    for (int64_t u = whole; u < n; u++)
        for (int64_t r = 0; r < rows; r++) to[u * rows + r] = row[r][u];
}
#endif
