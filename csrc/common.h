/* common.h - what every C file needs: unrolling, alignment, error propagation, assertions. */
#ifndef LW_COMMON_H
#define LW_COMMON_H
#include <stddef.h>
#include <stdint.h>

#if defined(__clang__)
#define LW_PRAGMA(x) _Pragma(#x)
#define UNROLL LW_PRAGMA(clang loop unroll(full))
#elif defined(__GNUC__)
#define LW_PRAGMA(x) _Pragma(#x)
#define UNROLL LW_PRAGMA(GCC unroll 64)
#else
#define UNROLL
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define ALIGN(n) __attribute__((aligned(n)))
#define LW_LIKELY(x) __builtin_expect(!!(x), 1)

/* Bugs, not bad data: on in test builds only. */
#ifdef LW_ASSERT_ON
#include <assert.h>
#define LW_ASSERT(x) assert(x)
#else
#define LW_ASSERT(x) ((void)0)
#endif

#define LW_TRY(expr)                        \
    do {                                    \
        lw_status lw_try_ = (expr);         \
        if (lw_try_ != LW_OK) return lw_try_; \
    } while (0)

enum { LW_LINE = 64, LW_LANES = 16, LW_HUGE = 2 << 20 };

static inline int64_t lw_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t lw_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t lw_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t lw_round_up(int64_t a, int64_t b) { return lw_ceil_div(a, b) * b; }

/* Asks for `bytes` of so many rows, `stride` bytes apart, which no hardware follows: what will be written there, or read. `near`: into
 * L1; else into L2, since rows a power of two apart push each other out of L1 before they are used. */
ALWAYS_INLINE void lw_fetch_rows(const void *first, ptrdiff_t stride, int64_t rows, int64_t bytes, int near) {
    const char *row = (const char *)first;
    for (int64_t i = 0; i < rows; i++, row += stride)
        for (const char *line = row - (uintptr_t)row % LW_LINE; line < row + bytes; line += LW_LINE) {
            if (near) __builtin_prefetch(line, 1, 3);
            else __builtin_prefetch(line, 0, 2);
        }
}
#endif
