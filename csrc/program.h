/* program.h - a program and one step of it, for ops.c and program.c. */
#ifndef LW_PROGRAM_H
#define LW_PROGRAM_H
#include "cache.h"

struct lw_program {
    lw_ctx *ctx;
    lw_op *ops;
    int n_ops;
    int64_t *ld;             /* [n_slots] floats from row to row */
    int32_t *width;
    int n_slots;
    int needs_cache;
};

/* One call of lw_run. */
typedef struct lw_step {
    const lw_program *program;
    lw_cache *cache;
    const lw_batch *batch;
    int64_t rows;            /* of the next op: all, or n_logits after LW_OP_LAST */
    float **slot;            /* [n_slots] */
} lw_step;

lw_status lw_op_check(const lw_program *program, const lw_op *op);
lw_status lw_op_run(lw_step *step, const lw_op *op);
#endif
