/* kernels.h - the kernel table: one slot per kernel, its contract above it.
 *
 * Kernels are pure: no allocation, no threads, no globals. A line is 16 outputs x 4 bytes of k (64 bytes, aligned to
 * 64): P32 holds line[k][16] float32, P16 holds line[k/2][16][2] bfloat16 (k even first), P8 line[k/4][16][4] int8 + 128. A panel is 16 outputs over
 * all k. Every output element is one chain of fused multiply-adds in ascending k, in every slot of every table: that is
 * what makes results independent of rows, panels, threads and instruction set (docs/numerics.md).
 */
#ifndef LW_KERNELS_H
#define LW_KERNELS_H
#include "common.h"
#include "lanewise.h"

/* One tile of a product: c[rows][columns] = a[rows][k] . panels^T.
 * a: row-major activations (float, or bfloat16 for tile_dot), lda elements from row to row (tile_dot: lda even, rows
 *   4-byte aligned, and readable up to k rounded up to even; the odd one is multiplied by a masked zero).
 *   lda 0 = interleaved: value k of row r at a[k * rows + r]; for tile_dot pairs, k even.
 * b: the first line, 64-byte aligned; ldb bytes from a panel to the next.
 * skip (P16 only): 1 = the first line's even half is not part of the product: k counts from its odd half, a[0] belongs to it.
 *   An odd end is likewise cut: the unused half of a line is never multiplied (it may hold NaN).
 * accumulate: chains continue from c instead of from zero. After the last k: + bias[column], then + residual[row][column]
 *   (in this order, each rounded once); residual may equal c only when accumulate is 0 - or pass residual on the last block.
 * ahead: bytes from the line in use to the one to fetch from memory, 0 = none (a hint; it may point anywhere). Not looked at by
 *   tile_f32, tile_bf16 and tile_dot if interleaved.
 * next, pace: interleaved only: `pace` bytes for every line used of a panel are fetched into L2, from `next` on and so for each panel,
 *   ldb apart (hints; tiles that take two lines a turn ask once for both). pace 0: nothing.
 * again: on tile registers only: the next tile multiplies other rows by the same panels, so some lines of these stay in L1.
 * due: on tile registers only, or NULL: sums of an earlier tile. Meanwhile they are finished, row by row: the first moves on, `rows` are
 *   left.
 * held: on tile registers only: the rows that they are configured for, 0 at first; the caller releases them. NULL: each call does.
 * out: on tile registers only: where the results go in the end, rows ldo bytes apart, out_line bytes of each panel: asked for meanwhile
 *   (hints). NULL: nothing is.
 * columns: 1 .. 16*panels; only these are read from bias/residual and written to c. */
typedef struct lw_finish lw_finish;
typedef struct lw_tile {
    const void *a;
    ptrdiff_t lda;
    const void *b;
    ptrdiff_t ldb;
    float *c;
    ptrdiff_t ldc;
    const float *bias;
    const float *residual;
    ptrdiff_t ldr;
    const void *next;
    ptrdiff_t pace;
    const int32_t *start, *offsets;
    const float *row_scale, *column_scale;
    int rows, panels, columns, k;
    int accumulate, skip, again;
    ptrdiff_t ahead;
    int *held;
    lw_finish *due;
    const void *out;
    ptrdiff_t ldo, out_line;
} lw_tile;

/* What happens to the sums of a product behind the last k, in this order: integers + start[row] + offsets[column]; times
 * column_scale, times row_scale, + bias; act; times the gate's partner; + residual; rounded to `type`. Vectors may be NULL; sums are
 * whole lines.
 * gated: sums alternate 16 gate, 16 up (bias and column_scale too): act(gate) * up, half as many columns.
 * type LW_I32: the integers before they are scaled. dot: bfloat16 is made for tile_dot, subnormals may become zeros. */
struct lw_finish {
    const float *sums;           /* or int32 */
    ptrdiff_t ld;
    const int32_t *start, *offsets;
    int integers, rows, columns; /* columns of c */
    const float *row_scale, *column_scale, *bias, *residual;
    ptrdiff_t ldr;
    lw_act act;
    int gated;
    void *c;
    ptrdiff_t ldc;
    lw_type type;
    int dot;
};

/* One tile of a product of quantised weights: c[rows][columns] = a . panels^T, activations as `quantize` made them.
 * form: the row of lw_quants (quant.h) that b is: a format, or what expand_quant made of one. b: the first panel, ldb bytes to
 * the next; one or two panels. k: a multiple of 32. bias, residual, columns: as in lw_tile.
 * ahead: bytes from the line in use to the one to fetch into L2, 0 = none (hints). Of the `shares` tiles that read the same
 * weights each fetches its share of the lines. near: to the one to fetch on into L1. ask: tiles of more than LW_QUANT_LOW_ROWS rows
 * ask for two lines there and in each row ld_ask bytes on, to write (hints), or NULL. */
typedef struct lw_quant_tile {
    const void *a;
    const void *b;
    ptrdiff_t ldb;
    float *c;
    ptrdiff_t ldc;
    const float *bias;
    const float *residual;
    ptrdiff_t ldr;
    int64_t k;
    int form, rows, panels, columns, ahead, share, shares, near;
    const char *ask;
    ptrdiff_t ld_ask;
} lw_quant_tile;

/* Tiles of a product of quantised weights on tile registers: 1 .. LW_MATRIX_QUANT_ROWS rows, one or two panels that matrix_expand
 * made, k values from `a` and `b` on, which begin a group. form: the expanded form.
 * sums: [panel][unit][16][16] floats, aligned to 64: what came of the k before these (unless first), and what is handed on to the k
 * behind them (unless last: then c is written, with bias, residual and columns as in lw_tile). group: values of k in a group.
 * finite: what matrix_expand returned, for all panels.
 * next, ldn, coming: meanwhile `coming` bytes of each panel from `next` on, ldn bytes apart, are fetched into L2 (hints). */
typedef struct lw_quant_matrix {
    const void *a;
    const void *b;
    ptrdiff_t ldb;
    float *sums;
    float *c;
    ptrdiff_t ldc;
    const float *bias;
    const float *residual;
    ptrdiff_t ldr;
    int form, rows, panels, columns, k, group, first, last, finite;
    const unsigned char *next;
    ptrdiff_t ldn, coming;
    int *held;                   /* as in lw_tile */
} lw_quant_matrix;

enum { LW_MAX_ROWS = 32, LW_MAX_STEP = 4 };   /* rows of a tile; panels that are worked on together */

typedef struct lw_kernels {
    const char *name;
    int rows;                               /* tiles take 1 .. rows rows */
    uint8_t panels[LW_MAX_ROWS + 1];        /* and 1 .. panels[rows] panels */

    void (*tile_f32)(const lw_tile *t);     /* a float, b P32 */
    void (*tile_bf16)(const lw_tile *t);    /* a float, b P16 widened exactly: the same bits as tile_f32 on widened weights */
    void (*tile_dot)(const lw_tile *t);     /* a bfloat16, b P16, the CPU's bf16 dot product; NULL if there is none */

    void (*to_dot)(size_t n, const float *x, uint16_t *y);   /* x for tile_dot: as to_bf16, but subnormals may become zeros */
    /* a int8 as to_quads makes it, interleaved (units of 4 bytes), b P8; k a multiple of 4. c: int32 sums that begin at
     * start[row] + offsets[column] (NULL: zeros); or, with column_scale, float32 as lw_finish makes them of column_scale, row_scale and bias. Not read: lda,
     * residual, accumulate, skip. */
    void (*tile_int8)(const lw_tile *t);
    int quad;                               /* bytes of four values of an activation: 4, or 8 where there is no VNNI */
    /* n bytes (int8; uint8 - 128 if flip) as the tile reads them; the last quad is filled with zeros. Returns their sum.
     * quad 4: the bytes; 8: values 0 and 2, then 1 and 3, as int16. */
    int32_t (*to_quads)(size_t n, const void *a, int flip, uint32_t *out);
    void (*finish)(const lw_finish *f);
    int quant_rows, quant_direct;           /* tiles of quantised weights take 1 .. quant_rows rows; of a format not expanded,
                                             * 1 .. quant_direct */
    int quant_dot4;                         /* they multiply bytes four at a time */
    int quant_panels;                       /* they read so many panels side by side */
    void (*tile_quant)(const lw_quant_tile *t);
    /* A panel of a format as 8-bit codes and float32 scales: the form lw_quant_expanded(form, quant_dot4). */
    void (*expand_quant)(int form, int64_t k, const void *panel, void *out);
    /* rows of k float32 (a multiple of 32) to int8 for that form, one stream (quant.h). */
    void (*quantize)(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out);

    /* y[i] = bfloat16(x[i]), nearest even, NaN stays a (quiet) NaN. */
    void (*to_bf16)(size_t n, const float *x, uint16_t *y);

    /* y = x / sqrt(mean(x^2) + eps) * w; w NULL = ones; y may equal x. The squares are summed in float64. */
    void (*rms_norm)(size_t n, const float *x, const float *w, float eps, float *y);
    /* y = (x - mean) / sqrt(var + eps) * w + b, var of the centred values; w, b NULL = ones, zeros; y may equal x. */
    void (*layer_norm)(size_t n, const float *x, const float *w, const float *b, float eps, float *y);
    /* y = exp(x - max) / sum; -inf gives 0; a NaN makes the row NaN; all -inf gives NaN; y may equal x. */
    void (*softmax)(size_t n, const float *x, float *y);
    /* y = act(x); and y = act(gate) * up. Any n; y may equal an input. */
    void (*activation)(lw_act act, size_t n, const float *x, float *y);
    void (*mul_activation)(lw_act act, size_t n, const float *gate, const float *up, float *y);
    void (*add)(size_t n, const float *x, const float *y, float *z);
    /* Rotates `heads` heads of head_dim in place; cos, sin [pairs]. half: (x[i], x[i+pairs]); interleaved: (x[2i], x[2i+1]).
     * x0' = fma(x0, cos, -(x1 * sin)), x1' = fma(x1, cos, x0 * sin). */
    void (*rope)(float *x, int heads, int head_dim, int pairs, int interleaved, const float *cos, const float *sin);

    /* Attention, one row over one segment: s[n] raw scores (n a multiple of 16) become probabilities exp(t - max) in
     * place, t = score*scale (softcap 0) or softcap*tanh(score*scale/softcap); lanes outside [lo, hi) become exactly 0
     * whatever they hold, and so do those below exp(-86.5). *max is the largest t in [lo, hi), *sum the sum of the
     * probabilities: lane-wise over the lines in order, then a fixed tree. Nothing but -inf: zeros, *sum = 0. lo < hi. */
    void (*segment_softmax)(int n, int lo, int hi, float scale, float softcap, float *s, float *max, float *sum);
    /* Merges a later segment (o2, max2, sum2) into the running (o, max, sum): both rescaled by exp(max - new max) likewise. n: any. */
    void (*segment_merge)(int n, float *o, float *max, float *sum, const float *o2, float max2, float sum2);
    /* y = o / sum. */
    void (*segment_finish)(int n, const float *o, float sum, float *y);

    /* Independent streams of the widest multiply-add of each kind; returns the operations done (2 per multiply-add).
     * NULL where the table has no such instruction (avx2 bf16). int8: the fastest exact u8 x s8 sequence of the table. */
    double (*peak_f32)(long iterations);
    double (*peak_bf16)(long iterations);
    double (*peak_int8)(long iterations);
    /* Reads bytes (a multiple of 4096, 64-byte aligned) and returns a checksum so that nothing is optimised away. */
    uint64_t (*read)(const void *data, size_t bytes);

    /* Products on tile registers (AMX); matrix_rows 0: there are none. Used for P16 instead of tile_dot in every product, since
     * the roundings differ, and for P8 where there are rows enough. 1 .. matrix_rows rows, 1 .. LW_MAX_STEP panels; k from a
     * multiple of 16 lines on. a: [64 bytes of k][row][64 bytes], bfloat16 or int8, zeros behind k; the unused rest of a last
     * line is zero. Not read: lda, skip, and what tile_int8 does not read. */
    int matrix_rows;
    void (*matrix_dot)(const lw_tile *t);
    void (*matrix_int8)(const lw_tile *t);
    void (*matrix_release)(void);           /* what calls with lw_tile.held or lw_quant_matrix.held have configured */
    /* Quantised weights, for forms that lw_matrix_fits; NULL: there are none. The bits are those of tile_quant. */
    void (*matrix_quant)(const lw_quant_matrix *t);
    int (*matrix_expand)(int form, int64_t k, const void *panel, void *out);   /* 0: with `fine`, some scale is not finite */
    /* rows of one unit (1 .. LW_MATRIX_UNIT), as unit `unit` of a block of `units`, which begins at out. */
    void (*matrix_quantize)(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, int unit, int units, void *out);
    int quant_fold;                         /* tile_quant reads the forms lw_quant.fold */
} lw_kernels;

/* list.c: tables best first, each with what it needs. */
typedef struct lw_isa {
    const lw_kernels *kernels;
    const char *(*missing)(void);           /* NULL if this machine can run it, else the first missing feature */
} lw_isa;
extern const lw_isa lw_isa_list[];
extern const int lw_isa_list_count;
const lw_kernels *lw_isa_find(const char *name, lw_status *status);   /* NULL name: the best usable */
#endif
