/* gemm_quant_tiles.h - the tiles of gemm_quant.h that a table has, by form and rows. */
#ifndef LW_KERNELS_GEMM_QUANT_TILES_H
#define LW_KERNELS_GEMM_QUANT_TILES_H

/* A table defines QUANT_ROWS, QUANT_DIRECT (the most rows of tiles that read packed planes), and for rows 1 .. those
 * QUANT_TILES(X, f) = X(f, rows, registers) ... and QUANT_DIRECT_TILES(X, f); or, where speed is no matter, QUANT_ROLLED: one body
 * for all. QUANT_FOLD: there are tiles of the forms lw_quant.fold (its words: ir_spread, ir_pick, ir_add8). With ir_dot4 the expanded forms
 * differ in their scales only. */
#ifdef QUANT_ROLLED
static void tile_quant(const lw_quant_tile *t) { q_tile(t, t->form, t->rows, 1); }
#else
typedef void quant_fn(const lw_quant_tile *t);
#define QUANT_DEFINE(f, r, q) static void quant##f##_##r##x##q(const lw_quant_tile *t) { q_tile(t, f, r, q); }
#define QUANT_ENTRY(f, r, q) [f][r] = quant##f##_##r##x##q,
#define QUANT_PACKED(X)                                                                                               \
    QUANT_DIRECT_TILES(X, 0) QUANT_DIRECT_TILES(X, 1) QUANT_DIRECT_TILES(X, 2) QUANT_DIRECT_TILES(X, 3)               \
    QUANT_DIRECT_TILES(X, 4) QUANT_DIRECT_TILES(X, 5) QUANT_DIRECT_TILES(X, 6) QUANT_DIRECT_TILES(X, 7)               \
    QUANT_DIRECT_TILES(X, 8) QUANT_DIRECT_TILES(X, 9) QUANT_DIRECT_TILES(X, 10) QUANT_DIRECT_TILES(X, 11)             \
    QUANT_DIRECT_TILES(X, 12) QUANT_DIRECT_TILES(X, 13) QUANT_DIRECT_TILES(X, 14) QUANT_DIRECT_TILES(X, 15)
#ifdef LW_HAS_DOT4
#define QUANT_EXPANDED(X)                                                                                 \
    QUANT_TILES(X, 18) QUANT_TILES(X, 19) QUANT_TILES(X, 20) QUANT_TILES(X, 21) QUANT_TILES(X, 22)        \
    QUANT_TILES(X, 23) QUANT_TILES(X, 25) QUANT_TILES(X, 26) QUANT_TILES(X, 27) QUANT_TILES(X, 28) QUANT_FOLD_TILES(X)
static const uint8_t quant_form[LW_QUANTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, LW_X32_0, LW_X32_0, LW_X32_0,
                                              LW_X32F_2, LW_X32I_8, LW_X32I_2, LW_X32W_0, LW_X256I_2, LW_X16W_2, LW_X32_FINE,
                                              LW_X256_0, LW_X16W_2, LW_X32F_FINE, LW_X32_FINE, LW_Q2_K_FOLD};
#else
#define QUANT_EXPANDED(X)                                                                                 \
    QUANT_TILES(X, 16) QUANT_TILES(X, 17) QUANT_TILES(X, 18) QUANT_TILES(X, 19) QUANT_TILES(X, 20)        \
    QUANT_TILES(X, 21) QUANT_TILES(X, 22) QUANT_TILES(X, 23) QUANT_TILES(X, 24) QUANT_TILES(X, 25)        \
    QUANT_TILES(X, 27) QUANT_TILES(X, 28) QUANT_TILES(X, 29)
static const uint8_t quant_form[LW_QUANTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
                                              23, 24, 25, 26, 27, 28, 29};
#endif
#ifdef QUANT_FOLD
#define QUANT_FOLD_TILES(X) X(30, 4, 2) X(30, 5, 2) X(30, 6, 2)
#else
#define QUANT_FOLD_TILES(X)
#endif
QUANT_PACKED(QUANT_DEFINE)
QUANT_EXPANDED(QUANT_DEFINE)
static quant_fn *const quant_tiles[LW_QUANTS][QUANT_ROWS + 1] = {QUANT_PACKED(QUANT_ENTRY) QUANT_EXPANDED(QUANT_ENTRY)};

static void tile_quant(const lw_quant_tile *t) {
    quant_fn *run = quant_tiles[quant_form[t->form]][t->rows];
    LW_ASSERT(run && t->columns >= 1 && t->columns <= 16 * t->panels);
    run(t);
}
#endif
#endif
