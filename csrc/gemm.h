/* gemm.h - a product of dense weights as gemm.c plans it, and its tasks (gemm_tasks.c; gemm_matrix.c on tile registers). */
#ifndef LW_GEMM_H
#define LW_GEMM_H
#include "stage.h"
#include "format.h"

typedef struct lw_gemm_plan {
    const lw_gemm_args *g;
    const lw_weight *w;
    const lw_kernels *kernels;
    void (*tile)(const lw_tile *);
    lw_stage a;                  /* the rows of this pass; a.data NULL: activations where the caller has them */
    int64_t row0;
    int64_t steps, ranges;       /* steps of `step` panels; ranges of steps */
    int64_t blocks;              /* runs of row groups. Tasks: blocks x ranges */
    int step;
    int amd, far;                /* far: the weights come from memory */
    int matrix;                  /* on tile registers: other tiles, and activations stay rows */
    int ask_c;                   /* on tile registers: c is larger than L1, so tiles ask for where they go */
    int late;                    /* sums are formed aside and finished from there */
    const float *row_scale;      /* of this pass, or NULL */
    unsigned char *packed;       /* plain b: a panel step's lines, packed by the worker that needs them */
    size_t packed_bytes;         /* per worker */
    float *slabs;                /* sums of a task where k is cut: one slab per worker */
    int64_t slab_size, slab_ld;
} lw_gemm_plan;

typedef struct lw_gemm_job {
    int64_t group0, group1, panel0, panel1;
    float *slab;                 /* sums of (first row, first panel) of this task, or NULL */
    unsigned char *packed;       /* for a panel step's lines of a plain b */
    int *held;                   /* what the tile registers are configured for, and on those */
    float *aside, *before;       /* the sums of a tile; and of the one before, which are finished meanwhile: */
    lw_finish due;
} lw_gemm_job;

/* A panel step's lines of one k block, panels ldb bytes apart. offsets: where their int32 sums begin, of uint8 activations. */
typedef struct lw_gemm_lines {
    const unsigned char *at;
    ptrdiff_t ldb;
    const int32_t *offsets;
    int32_t sums[LW_MAX_STEP * LW_LANES];
} lw_gemm_lines;

/* Packs them, of a plain b. */
void lw_gemm_weights(const lw_gemm_plan *p, const lw_gemm_job *j, int64_t panel, int64_t kb, lw_gemm_lines *l);
/* How the sums of `rows` rows from `row` (of the pass) and `panels` panels from `panel` are finished. */
lw_finish lw_gemm_due(const lw_gemm_plan *p, int64_t row, int rows, int64_t panel, int64_t panels, const float *sums, int64_t ld,
                      const int32_t *offsets);
/* All row groups of a task x one panel step x one k block. next: the lines that come after these, of which each group fetches
 * its share; or NULL. */
void lw_gemm_matrix_cell(const lw_gemm_plan *p, lw_gemm_job *j, int64_t panel, int64_t kb, const unsigned char *next);
void lw_gemm_task(void *plan, int64_t task, int worker);

/* i * total / parts without overflow for any sizes that occur: the first of part i of a balanced split. */
static inline int64_t lw_split(int64_t total, int64_t parts, int64_t i) { return total / parts * i + total % parts * i / parts; }
static inline int lw_most_panels(const lw_gemm_plan *p, int64_t rows) { return p->matrix ? LW_MAX_STEP : p->kernels->panels[rows]; }
static inline int64_t lw_output_size(const lw_gemm_plan *p) { return p->g->c_type == LW_BF16 ? 2 : 4; }
static inline char *lw_output_at(const lw_gemm_plan *p, int64_t row, int64_t panel) {
    return (char *)p->g->c + ((p->row0 + row) * p->g->ldc + panel * LW_LANES / (p->g->gated ? 2 : 1)) * lw_output_size(p);
}
static inline int64_t lw_k_per_line(const lw_gemm_plan *p) { return lw_formats[p->w->format].k_per_line; }
/* Values of k that the tiles of a block multiply: their tail is zero, but not of float32. */
static inline int lw_block_k(const lw_gemm_plan *p, int64_t kb) {
    const int64_t k = lw_min(p->a.kc, p->w->k - kb * p->a.kc);
    return (int)(p->a.kind == LW_STAGE_F32 ? k : lw_round_up(k, lw_k_per_line(p)));
}
#endif
