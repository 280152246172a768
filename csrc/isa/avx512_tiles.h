/* avx512_tiles.h - the tiles of the tables with 32 registers: 24 accumulators or a few less. One row takes four panels:
 * four streams of weights is what the hardware follows best (eight: 5 to 30 % less), and four chains keep up with memory. */
#define TILE_ROWS 12
#define TILE_PANELS {0, 4, 4, 4, 4, 4, 4, 3, 3, 2, 2, 2, 2}
#define TILES(X)                                                                                              \
    X(1, 1) X(1, 2) X(1, 3) X(1, 4)                                                                       \
    X(2, 1) X(2, 2) X(2, 3) X(2, 4) X(3, 1) X(3, 2) X(3, 3) X(3, 4) X(4, 1) X(4, 2) X(4, 3) X(4, 4)           \
    X(5, 1) X(5, 2) X(5, 3) X(5, 4) X(6, 1) X(6, 2) X(6, 3) X(6, 4) X(7, 1) X(7, 2) X(7, 3)                   \
    X(8, 1) X(8, 2) X(8, 3) X(9, 1) X(9, 2) X(10, 1) X(10, 2) X(11, 1) X(11, 2) X(12, 1) X(12, 2)
/* Tiles of quantised weights: up to 6 rows the sums of a block and of a group are registers, of more those of a block. The latter where
 * multiplying shares its two ports with all else (Intel); on Zen 4 they are slower. Without vpdpbusd there are sums of 16 bits. */
#ifdef LW_HAS_VNNI
#if defined(LW_HAS_DOT) && !defined(LW_HAS_AMX)
#define QUANT_ROWS 6
#else
#define QUANT_ROWS 12
#endif
#define QUANT_DIRECT QUANT_ROWS
#ifdef LW_EMULATE
#define QUANT_ROLLED
#endif
#define QUANT_TILES(X, f) X(f, 1, 2) X(f, 2, 2) X(f, 3, 2) X(f, 4, 2) X(f, 5, 2) X(f, 6, 2) \
    X(f, 7, 2) X(f, 8, 2) X(f, 9, 2) X(f, 10, 2) X(f, 11, 2) X(f, 12, 2)
#define QUANT_DIRECT_TILES QUANT_TILES
#define QUANT_FOLD
#else
#define QUANT_ROWS 6
#define QUANT_DIRECT 2
#define QUANT_TILES(X, f) X(f, 1, 2) X(f, 2, 2) X(f, 3, 2) X(f, 4, 2) X(f, 5, 1) X(f, 6, 1)
#define QUANT_DIRECT_TILES(X, f) X(f, 1, 2) X(f, 2, 2)
#endif
