/* context.h - what a context and a weight are made of, for the drivers. */
#ifndef LW_CONTEXT_H
#define LW_CONTEXT_H
#include "arena.h"
#include "kernels.h"
#include "pool.h"

struct lw_ctx {
    const lw_kernels *kernels;
    lw_pool *pool;
    size_t l1d, l2;
    size_t far;         /* weights of so many bytes are no longer in the last cache when they are needed again */
    int amd;            /* lw_machine.amd: what is to be fetched ahead differs */
    lw_block slots;     /* activations of a program (program.c) */
    lw_block scratch;   /* one driver's temporaries; the next driver may overwrite them */
    lw_block angles;    /* cos | sin of lw_rope */
};

struct lw_weight {
    lw_format format;
    int64_t n, k;
    int64_t panels;          /* ceil(n / 16) */
    size_t panel_bytes;      /* lines per panel * 64 */
    unsigned char *lines;    /* panel after panel */
    int32_t *sums;           /* P8: [panels * 16] 128 times the sum of each output's weights, for uint8 activations */
    int32_t *order;          /* NULL, or [k] of a quantised format: the input that each packed one is */
    size_t bytes;            /* of the lines */
    int borrowed;            /* the lines are somebody else's */
    int fixed;               /* and read only */
};

/* Up to so many rows do not keep the core busy between two lines: of what the last cache holds the hardware alone fetches most for them. */
enum { LW_CACHED_ROWS = 2 };
/* Whether a weight comes from memory: a large one, and those of a model, between whose uses there are all others. */
static inline int lw_from_memory(const lw_ctx *ctx, const lw_weight *w) { return w->borrowed || w->bytes >= ctx->far; }

/* Whether each thread has rows of its own, which it stages, multiplies and writes: the lines that another core has written would cost it
 * more than to read all weights, as each thread does then. With more threads each needs more rows to read them for. Row groups and blocks
 * are multiples of the threads, so that shares are equal: who takes over a task has nothing of it in its caches. */
static inline int lw_own_rows(int64_t rows, int64_t threads) { return threads > 1 && rows >= lw_max(32, 8 * threads) * threads; }

/* Every public entry point computes in the default floating-point state and leaves the caller's as it found it. */
typedef struct lw_fp { unsigned state; } lw_fp;
lw_fp lw_fp_enter(void);
void lw_fp_leave(lw_fp fp);

/* out[k] = weights of output `row`, widened (weight.c). */
void lw_weight_row(const lw_weight *w, int64_t row, float *out);
/* Elements k0 .. k0+k of the rows of one panel as lines at `out`; rows beyond the source's are zero (weight.c). */
void lw_pack_panel(lw_format format, const lw_source *source, int64_t panel, int64_t k0, int64_t k, unsigned char *out);
/* sums[16] of a panel's lines over k values. */
void lw_byte_sums(const unsigned char *lines, int64_t k, int32_t *sums);
/* Quantised formats (weight_quant.c): rows (NULL: absent) into their lanes of a panel; lw_weight_row. */
void lw_quant_pack_panel(lw_format format, int64_t k, const unsigned char *const rows[LW_LANES], unsigned char *panel);
void lw_quant_unpack_row(const lw_weight *w, int64_t row, float *out);
/* Drivers without the public checks: the caller has entered the floating-point state. */
lw_status lw_gemm_run(lw_ctx *ctx, const lw_gemm_args *args);
/* Whole lines of sums of `rows` rows from `row` of c and `panels` panels of n outputs: finished, into c. */
typedef struct lw_sums {
    const float *sums;           /* or int32 */
    int64_t ld, row, panel, panels;
    int rows, integers;
    const float *row_scale;      /* of the first row */
    const int32_t *start, *offsets; /* of the first row, of the first panel */
} lw_sums;
void lw_gemm_finish(const lw_kernels *kernels, const lw_gemm_args *g, const lw_sums *sums, int64_t n);
lw_status lw_gemm_quant_run(lw_ctx *ctx, const lw_gemm_args *args);   /* quantised weights (gemm_quant.c) */
lw_status lw_attend_run(lw_ctx *ctx, lw_cache *cache, const lw_sequences *s, const lw_attend_args *args);
lw_status lw_append_run(lw_ctx *ctx, lw_cache *cache, int layer, const lw_sequences *s, const float *k, int64_t ldk,
                        const float *v, int64_t ldv);
/* cos and sin of position * inv_freq in float64, rounded once to float32, times factor: out[pairs] each. */
void lw_angles(int32_t position, int pairs, const float *inv_freq, float factor, float *cos, float *sin);
#endif
