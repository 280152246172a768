/* stage.h - activations copied into the order in which tiles read them, once per product. */
#ifndef LW_STAGE_H
#define LW_STAGE_H
#include "context.h"

/* What a tile reads, in units of 4 bytes: one float, a pair of bfloat16, or bytes as kernels.h has them for tile_int8. */
typedef enum lw_stage_kind { LW_STAGE_F32 = 0, LW_STAGE_BF16, LW_STAGE_INT8 } lw_stage_kind;

typedef struct lw_stage {
    const lw_kernels *kernels;
    lw_stage_kind kind;
    const void *a;               /* the first row: float32 or bfloat16; for LW_STAGE_INT8 float32, int8 or uint8 */
    lw_type type;
    int64_t lda;                 /* elements from row to row */
    int64_t rows, k;
    int64_t groups, low, higher; /* row groups: low rows each, one more in the first `higher` */
    int64_t kc, k_blocks;        /* k per block: all, or a multiple of 32 */
    int lace;                    /* interleaved, [k block][group][unit][row]; else [k block][row][unit], zeros up to 64 bytes, */
    int tiles;                   /* or for tile registers [k block][group][16 units][row][16 units], likewise */
    int64_t ld;                  /* units per row and k block */
    unsigned char *data;
    int32_t *start;              /* LW_STAGE_INT8: [rows] -128 times the sum of the row: where its int32 sums begin */
    float *scale;                /* LW_STAGE_INT8 of float32 rows: [rows] largest magnitude / 127 */
} lw_stage;

/* The first row of a group. Without a division: this stands in inner loops. */
static inline int64_t lw_group_row(const lw_stage *s, int64_t group) { return group * s->low + lw_min(group, s->higher); }
static inline unsigned char *lw_staged(const lw_stage *s, int64_t k_block, int64_t row) {
    return s->data + (k_block * s->rows + row) * s->ld * 4;
}
/* Sets ld; returns the bytes that data, start and scale need together (in this order). */
size_t lw_stage_plan(lw_stage *s);
void lw_stage_place(lw_stage *s, void *memory);
lw_status lw_stage_run(lw_ctx *ctx, lw_stage *s);
#endif
