/* attention.h - one task's rows of attention, and what is computed of them at a time: see attention.c. */
#ifndef LW_ATTENTION_H
#define LW_ATTENTION_H
#include "cache.h"

enum { SCORE_LD = LW_SEGMENT + LW_LANES,                 /* rows of scores do not share cache sets in step */
       MATRIX_LINE = 32 };                               /* values of k in one step of tile registers */

typedef struct lw_span { int64_t lo, hi; } lw_span;

typedef struct lw_attend_job {
    lw_ctx *ctx;
    const lw_cache *cache;
    const lw_sequences *s;
    const lw_attend_args *a;
    int group;                   /* query heads per kv head */
    int d, d_pad, dot;           /* dot: queries and weights are rounded to bfloat16 */
    int matrix;                  /* on tile registers */
    int tile_rows, line;         /* rows of a tile; positions that are weighed together */
    int q_width;                 /* of a query in bfloat16 */
    int block_rows;              /* rows (token, head) per task */
    int64_t tasks;               /* without the split over segments */
    int splits;                  /* segments are computed by that many tasks, 1 = no split */
    unsigned char *scratch;      /* per worker */
    size_t worker_bytes;
    float *partial;              /* split: [task][segment][row](d_pad + 2) */
    int64_t segments;            /* split: the most that a sequence has */
} lw_attend_job;

/* One task's rows: `rows` rows from virtual row `first` (token * group + head) of kv head `head` of sequence `seq`. */
typedef struct lw_attend_block {
    const lw_attend_job *j;
    int seq, head, rows;
    int ask;                     /* for the lines to come: the first row group of each segment does */
    int *held;                   /* as in lw_tile */
    int64_t first;
    float *q, *o, *o2, *score, *max, *sum;
    uint16_t *q16, *p16;
    int64_t length;
    lw_span sound[2];            /* positions whose values were found finite, at the beginning and the end of spans */
} lw_attend_block;

/* The positions that a row of the block sees. */
lw_span lw_attend_span(const lw_attend_block *b, int row);

/* attention_segment.c. n values as row `row` of a group of `rows` in bfloat16. to: the rows one after another, ld apart; for tile
 * registers [n / 32][row][32], filled up with zeros. */
void lw_attend_round(const lw_attend_job *j, int n, const float *x, int row, int rows, int ld, uint16_t *to);

/* Rows row .. row+rows-1 of the block over the segment at `origin`. Leaves o2, from its first row on, and fills
 * max2, sum2 (sum2 = 0: the row sees nothing of this segment). */
void lw_attend_segment(lw_attend_block *b, int row, int rows, int64_t origin, float *max2, float *sum2);
#endif
