/* gemm_float.h - tiles of a product with float accumulators: written once, instantiated for each rows x panels.
 *
 * All accumulators of a tile stay in registers: rows and panels are constants of an inlined body and every loop over them
 * is unrolled. Operands are addressed as in hand-written code: one pointer for three rows (or panels) and the stride as
 * an index, so that the general registers last as well; V_OPAQUE keeps the compiler from inventing others.
 * Products of many rows bring their activations interleaved (kinds `..lace`): one stream instead of one per row, and the
 * lines that come after this tile's are asked for at the pace at which its own are used.
 * A tile whose last columns are missing runs on copies (tile_edge), so that the body knows whole lines only.
 *
 * An ISA defines before this file: TILE_ROWS, TILE_PANELS (the table's rows and panels) and TILES(X) = X(1, 1) ...
 */
#ifndef LW_KERNELS_GEMM_FLOAT_H
#define LW_KERNELS_GEMM_FLOAT_H

enum { TILE_MAX_PANELS = 4, TILE_MAX_LINES = 28,        /* panels, and rows * panels, of the largest tile */
       TILE_NEAR = 1024, TILE_SOON = 512 };             /* bytes ahead of the line in use */
/* Cores with bfloat16 dots start six instructions a cycle. Those before them start four: there multiply-adds that load as well gain
 * nothing, and lines from L2 want to be asked for. */
#ifdef LW_HAS_DOT
enum { TILE_WIDE_CORE = 1 };
#else
enum { TILE_WIDE_CORE = 0 };
#endif
enum { TILE_TWICE = V_REGISTERS == 32 };                /* two lines a turn of an interleaved tile's loop */
/* What a weight line holds: P32; P16 of which one half is widened; P16 for the CPU's own dot product (gemm_dot.h). */
typedef enum tile_half { TILE_F32, TILE_EVEN, TILE_ODD, TILE_DOT } tile_half;
typedef void tile_fn(const lw_tile *t);

/* Operands at the current k: pointers to rows 0, 3, 6, 9 and to panels 0, 3. Fields, not arrays: Clang keeps arrays
 * of pointers that an asm touches in memory. */
typedef struct tile_at {
    const float *a0, *a3, *a6, *a9;
    const char *b0, *b3;
    const char *next;
    ptrdiff_t lda, ldb, ahead, pace;
    int lace, stream;                                   /* constants of the body: a[k][row], only a0 is used; ahead is looked at */
    int twice;                                          /* a turn of the loop takes two lines */
    int past, line;                                     /* activations, and bytes of a panel, since the pointers advanced */
} tile_at;

ALWAYS_INLINE const float *tile_a(const tile_at *at, int r) {
    if (at->lace) return at->a0 + at->past + r;
    const float *base = r < 3 ? at->a0 : r < 6 ? at->a3 : r < 9 ? at->a6 : at->a9;
    return base + (r % 3) * at->lda;
}
ALWAYS_INLINE const char *tile_line(const tile_at *at, int q) {
    const int p = q / V_REGS;
    const char *base = p < 3 ? at->b0 : at->b3;
    return base + (p % 3) * at->ldb + 64 / V_REGS * (q % V_REGS) + at->line;
}
ALWAYS_INLINE void tile_past(tile_at *at, int R, int lines) { at->past = lines * R, at->line = 64 * lines; }
ALWAYS_INLINE vreg tile_w(const tile_at *at, int q, tile_half half) {
    const char *line = tile_line(at, q);
    return half == TILE_EVEN ? vr_even(line) : half == TILE_ODD ? vr_odd(line) : vr_load(line);
}

ALWAYS_INLINE vreg tile_fma(tile_half half, int twice, vreg a, vreg b, vreg c) {
#ifdef LW_HAS_DOT
    if (half == TILE_DOT) return vr_dot(a, b, c);
#endif
    return half == TILE_F32 && !twice ? vr_fma(a, b, c) : vr_fma_tied(a, b, c);
}

/* acc[row][register] += a * w for one k and the registers first .. first + W - 1: the weights are held, */
ALWAYS_INLINE void tile_hold_weights(const int R, const int Q, const int first, const int W, tile_half half,
                                     const tile_at *at, vreg *acc) {
    vreg w[4];
    V_UNROLL for (int q = 0; q < W; q++) w[q] = tile_w(at, first + q, half);
    /* Of two panels two broadcasts in three are part of the multiply-adds: fewer instructions, where loads still keep pace. */
    const int fold = TILE_WIDE_CORE && V_REGISTERS == 32 && half == TILE_F32 && W == 2;
    V_UNROLL for (int r = 0; r < R; r++) {
        if (fold && r % 3) {
            V_UNROLL for (int q = 0; q < W; q++)
                acc[r * Q + first + q] = vr_fma_each(tile_a(at, r), w[q], acc[r * Q + first + q]);
            continue;
        }
        vreg x = vr_set1(tile_a(at, r));
        V_UNROLL for (int q = 0; q < W; q++)
            acc[r * Q + first + q] = tile_fma(half, at->twice, x, w[q], acc[r * Q + first + q]);
    }
}
/* or the activations. */
ALWAYS_INLINE void tile_hold_rows(const int R, const int Q, tile_half half, const tile_at *at, vreg *acc) {
    vreg x[3];
    V_UNROLL for (int r = 0; r < R; r++) x[r] = vr_set1(tile_a(at, r));
    V_UNROLL for (int q = 0; q < Q; q++) {
        vreg w = tile_w(at, q, half);
        V_UNROLL for (int r = 0; r < R; r++) acc[r * Q + q] = tile_fma(half, at->twice, x[r], w, acc[r * Q + q]);
    }
}
/* Up to three rows are held, else the weights. Three rows of two panels with weights to widen leave no register for
 * either on AVX2: they go panel by panel and load the activations again. */
ALWAYS_INLINE void tile_step(const int R, const int Q, tile_half half, tile_at *at, vreg *acc) {
    if (R == 3 && Q == 2 * V_REGS && half != TILE_F32 && V_REGISTERS < 32) {
        tile_hold_weights(R, Q, 0, V_REGS, half, at, acc);
        V_OPAQUE(at->a0);
        tile_hold_weights(R, Q, V_REGS, V_REGS, half, at, acc);
    } else if (R <= 3) {
        tile_hold_rows(R, Q, half, at, acc);
    } else {
        tile_hold_weights(R, Q, 0, Q, half, at, acc);
    }
}

/* Where weights are used once they come from memory: each panel's line is asked for well ahead into L2 and, by tiles that take
 * longer for a line, again into L1. For one row the hardware guesses half of the panels as well, and requests cost more. */
ALWAYS_INLINE void tile_fetch(const int R, const int P, const tile_at *at, int lines) {
    V_UNROLL for (int p = 0; p < (R == 1 ? (P + 1) / 2 : P); p++) {
        const char *line = (p < 3 ? at->b0 : at->b3) + p % 3 * at->ldb;
        V_UNROLL for (int i = 0; i < lines; i++) {
            __builtin_prefetch(line + at->ahead + 64 * i, 0, 2);
            if (R > 4) __builtin_prefetch(line + TILE_NEAR + 64 * i, 0, 3);
        }
    }
}
/* Lines that lie in L2 or the last cache: where they are used is too late to ask for them. */
ALWAYS_INLINE void tile_ask(const int R, const int P, const tile_at *at, int lines) {
    if (TILE_WIDE_CORE || V_REGISTERS < 32 || R == 1) return;
    V_UNROLL for (int p = 0; p < P; p++) {
        const char *line = (p < 3 ? at->b0 : at->b3) + p % 3 * at->ldb;
        V_UNROLL for (int i = 0; i < lines; i++) __builtin_prefetch(line + TILE_SOON + 64 * i, 0, 3);
    }
}

/* The next lines and `values` further along the rows. The compiler does not see that pointers advance evenly, or it would
 * keep one for each row. */
ALWAYS_INLINE void tile_advance(const int R, const int P, tile_at *at, int values, int lines) {
    if (at->lace && lines) {
        V_UNROLL for (int i = 0; i < (values * R * 4 + 63) / 64; i++)
            __builtin_prefetch(at->a0 + 128 + 16 * i, 0, 3);   /* from L2, where a row block lies */
        tile_ask(R, P, at, lines);
        if (at->pace) {
            V_UNROLL for (int p = 0; p < (P < 3 ? P : 3); p++) __builtin_prefetch(at->next + p * at->ldb, 0, 2);
            at->next += at->pace;
            V_OPAQUE(at->next);
        }
    }
    if (lines && at->stream && at->ahead) tile_fetch(R, P, at, lines);
    at->a0 += at->lace ? values * R : values, at->b0 += 64 * lines;
    V_OPAQUE(at->a0);
    V_OPAQUE(at->b0);
    if (at->lace && V_REGISTERS == 32) V_OPAQUE(at->ldb);  /* or its sums with every distance wait in registers */
    if (R > 3 && !at->lace) { at->a3 += values; V_OPAQUE(at->a3); }
    if (R > 6 && !at->lace) { at->a6 += values; V_OPAQUE(at->a6); }
    if (R > 9 && !at->lace) { at->a9 += values; V_OPAQUE(at->a9); }
    if (P > 3) { at->b3 += 64 * lines; V_OPAQUE(at->b3); }
}

ALWAYS_INLINE void tile_point(const lw_tile *t, tile_at *at) {
    at->lda = t->lda, at->ldb = t->ldb, at->ahead = t->ahead;
    at->a0 = t->a, at->b0 = t->b, at->next = t->next, at->pace = at->twice ? 2 * t->pace : t->pace;
    at->a3 = at->a0 + 3 * t->lda, at->a6 = at->a0 + 6 * t->lda, at->a9 = at->a0 + 9 * t->lda;
    at->b3 = at->b0 + 3 * t->ldb;
}

ALWAYS_INLINE void tile_begin(const lw_tile *t, const int R, const int P, tile_at *at, vreg *acc) {
    const int Q = P * V_REGS;
    tile_point(t, at);
    if (t->accumulate) {
        V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = vr_load(t->c + i / Q * t->ldc + 16 / V_REGS * (i % Q));
    } else {
        V_UNROLL for (int i = 0; i < R * Q; i++) {
            acc[i] = vr_zero();
            V_KEEP(acc[i]);                           /* Clang 14 would make a memset of this, and leave acc in memory */
        }
    }
}

ALWAYS_INLINE void tile_end(const lw_tile *t, const int R, const int P, vreg *acc) {
    const int Q = P * V_REGS, n = 16 / V_REGS;
    if (t->bias) {
        V_UNROLL for (int i = 0; i < R * Q; i++) acc[i] = vr_add(acc[i], vr_load(t->bias + n * (i % Q)));
    }
    if (t->residual) {
        V_UNROLL for (int i = 0; i < R * Q; i++)
            acc[i] = vr_add(acc[i], vr_load(t->residual + i / Q * t->ldr + n * (i % Q)));
    }
    V_UNROLL for (int i = 0; i < R * Q; i++) vr_store(t->c + i / Q * t->ldc + n * (i % Q), acc[i]);
}

ALWAYS_INLINE void tile_float_body(const lw_tile *t, const int R, const int P, const int lace) {
    vreg acc[TILE_MAX_LINES * V_REGS];
    tile_at at = {.lace = lace, .stream = !lace, .twice = lace && TILE_TWICE};
    tile_begin(t, R, P, &at, acc);
    int n = t->k;
    for (; at.twice && n > 1; n -= 2) {
        tile_step(R, P * V_REGS, TILE_F32, &at, acc);
        tile_past(&at, R, 1);
        tile_step(R, P * V_REGS, TILE_F32, &at, acc);
        tile_past(&at, R, 0);
        tile_advance(R, P, &at, 2, 2);
    }
    for (; n > 0; n--) {
        tile_step(R, P * V_REGS, TILE_F32, &at, acc);
        tile_advance(R, P, &at, 1, 1);
    }
    tile_end(t, R, P, acc);
}

/* Whole pairs of k only: tile_edge takes the others apart. */
ALWAYS_INLINE void tile_pairs_body(const lw_tile *t, const int R, const int P, const int lace) {
    vreg acc[TILE_MAX_LINES * V_REGS];
    tile_at at = {.lace = lace, .stream = !lace};
    tile_begin(t, R, P, &at, acc);
    for (int n = t->k / 2; n > 0; n--) {
        tile_step(R, P * V_REGS, TILE_EVEN, &at, acc);
        tile_advance(R, P, &at, 1, 0);                /* the lines are read again: registers are scarcer than loads */
        tile_step(R, P * V_REGS, TILE_ODD, &at, acc);
        tile_advance(R, P, &at, 1, 1);
    }
    tile_end(t, R, P, acc);
}

ALWAYS_INLINE void tile_f32_body(const lw_tile *t, const int R, const int P) { tile_float_body(t, R, P, 0); }
ALWAYS_INLINE void tile_lace_body(const lw_tile *t, const int R, const int P) { tile_float_body(t, R, P, 1); }
ALWAYS_INLINE void tile_bf16_body(const lw_tile *t, const int R, const int P) { tile_pairs_body(t, R, P, 0); }
ALWAYS_INLINE void tile_bf16lace_body(const lw_tile *t, const int R, const int P) { tile_pairs_body(t, R, P, 1); }

#define TILE_DEFINE(kind, r, p) \
    static void kind##_##r##x##p(const lw_tile *t) { tile_##kind##_body(t, r, p); }
#define TILE_F32_DEFINE(r, p) TILE_DEFINE(f32, r, p)
#define TILE_LACE_DEFINE(r, p) TILE_DEFINE(lace, r, p)
#define TILE_BF16_DEFINE(r, p) TILE_DEFINE(bf16, r, p)
#define TILE_BF16LACE_DEFINE(r, p) TILE_DEFINE(bf16lace, r, p)
#define TILE_F32_ENTRY(r, p) [r][p] = f32_##r##x##p,
#define TILE_LACE_ENTRY(r, p) [r][p] = lace_##r##x##p,
#define TILE_BF16_ENTRY(r, p) [r][p] = bf16_##r##x##p,
#define TILE_BF16LACE_ENTRY(r, p) [r][p] = bf16lace_##r##x##p,
TILES(TILE_F32_DEFINE)
TILES(TILE_LACE_DEFINE)
TILES(TILE_BF16_DEFINE)
TILES(TILE_BF16LACE_DEFINE)
/* [interleaved][rows][panels] */
static tile_fn *const tiles_f32[2][TILE_ROWS + 1][TILE_MAX_PANELS + 1] = {{TILES(TILE_F32_ENTRY)}, {TILES(TILE_LACE_ENTRY)}};
static tile_fn *const tiles_bf16[2][TILE_ROWS + 1][TILE_MAX_PANELS + 1] = {{TILES(TILE_BF16_ENTRY)},
                                                                           {TILES(TILE_BF16LACE_ENTRY)}};

/* One value of k that shares its line of P16 with a half that is not part of the product: the line is widened to P32. */
static void tile_single(const lw_tile *t, tile_half half) {
    ALIGN(64) float lines[TILE_MAX_PANELS * 16];
    lw_tile one = *t;
    for (int q = 0; q < t->panels * V_REGS; q++) {
        const char *p = (const char *)t->b + q / V_REGS * t->ldb + 64 / V_REGS * (q % V_REGS);
        vr_store(lines + 16 / V_REGS * q, half == TILE_ODD ? vr_odd(p) : vr_even(p));
    }
    one.b = lines;
    one.ldb = 64;
    one.k = 1;
    tiles_f32[!t->lda][t->rows][t->panels](&one);
}

/* Takes a tile of P16 apart where k begins or ends within a pair. `size`: bytes of an activation. */
typedef void tile_single_fn(const lw_tile *t, tile_half half);
static void tile_pairs(const lw_tile *t, tile_fn *run, tile_single_fn *single, int size) {
    lw_tile part = *t;
    if (!t->lda) size *= t->rows;
    if (part.skip && part.k > 0) {
        single(&part, TILE_ODD);
        part.a = (const char *)part.a + size;
        part.b = (const char *)part.b + 64;
        part.k--;
        part.accumulate = 1;
    }
    run(&part);
    if (part.k % 2) {
        part.a = (const char *)part.a + (part.k - 1) * size;
        part.b = (const char *)part.b + part.k / 2 * 64;
        part.accumulate = 1;
        single(&part, TILE_EVEN);
    }
}

/* Sums of whole lines -> the columns that exist, with bias and residual. */
static void tile_finish(const lw_tile *t, const float *sums, int ld) {
    for (int r = 0; r < t->rows; r++) {
        for (int i = 0; i < t->columns; i += 16) {
            const int n = (int)lw_min(16, t->columns - i);
            f32x16 v = v_load(sums + r * ld + i);
            if (t->bias) v = v_add(v, v_loadn(t->bias + i, n));
            if (t->residual) v = v_add(v, v_loadn(t->residual + r * t->ldr + i, n));
            v_storen(t->c + r * t->ldc + i, v, n);
        }
    }
}

/* Runs a tile of which only some columns exist, or whose k begins or ends within a pair, on whole lines: the sums are
 * formed in a copy of c, in one or more parts (storing a float32 loses nothing, so the chains are the same). */
static void tile_edge(const lw_tile *t, tile_fn *run, tile_single_fn *single, int size) {
    ALIGN(64) float c[TILE_MAX_LINES * 16];
    const int width = 16 * t->panels;
    const size_t bytes = (size_t)t->columns * sizeof(float);
    lw_tile whole = *t;
    whole.c = c;
    whole.ldc = width;
    whole.columns = width;
    whole.bias = whole.residual = NULL;
    for (int r = 0; t->accumulate && r < t->rows; r++) {
        if (t->columns < width) memset(c + r * width, 0, sizeof(float) * (size_t)width);
        memcpy(c + r * width, t->c + r * t->ldc, bytes);
    }
    if (single) tile_pairs(&whole, run, single, size);
    else run(&whole);
    tile_finish(t, c, width);
}

static void tile_f32(const lw_tile *t) {
    tile_fn *run = tiles_f32[!t->lda][t->rows][t->panels];
    LW_ASSERT(run && t->columns >= 1 && t->columns <= 16 * t->panels);
    if (LW_LIKELY(t->columns == 16 * t->panels)) run(t);
    else tile_edge(t, run, NULL, 0);
}
static void tile_bf16(const lw_tile *t) {
    tile_fn *run = tiles_bf16[!t->lda][t->rows][t->panels];
    LW_ASSERT(run && t->columns >= 1 && t->columns <= 16 * t->panels);
    if (LW_LIKELY(t->columns == 16 * t->panels && !t->skip && t->k % 2 == 0)) run(t);
    else tile_edge(t, run, tile_single, sizeof(float));
}
#endif
