/* rowwise.h - sharing out work that treats every row alone. */
#ifndef LW_ROWWISE_H
#define LW_ROWWISE_H
#include "context.h"

/* fn(arg, first, last) for all of [0, rows), in as many pieces as `cost` (elements per row) is worth waking threads for. */
typedef void (*lw_rows_fn)(void *arg, int64_t first, int64_t last);
lw_status lw_rows_run(lw_ctx *ctx, int64_t rows, int64_t cost, lw_rows_fn fn, void *arg);
#endif
