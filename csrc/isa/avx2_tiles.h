/* avx2_tiles.h - the tiles of the tables with 16 registers: 12 accumulators at most. */
#define TILE_ROWS 6
#define TILE_PANELS {0, 4, 3, 2, 1, 1, 1}
#define TILES(X) X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(2, 1) X(2, 2) X(2, 3) X(3, 1) X(3, 2) X(4, 1) X(5, 1) X(6, 1)
#define QUANT_DIRECT 2
#define QUANT_DIRECT_TILES(X, f) X(f, 1, 2) X(f, 2, 2)
#ifdef LW_EMULATE
#define QUANT_ROWS 6
#define QUANT_ROLLED
#elif defined(LW_HAS_VNNI)
#define QUANT_ROWS 6
#define QUANT_TILES(X, f) X(f, 1, 2) X(f, 2, 2) X(f, 3, 1) X(f, 4, 1) X(f, 5, 1) X(f, 6, 1)
#else
#define QUANT_ROWS 4
#define QUANT_TILES(X, f) X(f, 1, 2) X(f, 2, 2) X(f, 3, 1) X(f, 4, 1)
#endif
