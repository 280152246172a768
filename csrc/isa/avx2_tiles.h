/* avx2_tiles.h - the tiles of the tables with 16 registers: 12 accumulators at most. */
#define TILE_ROWS 6
#define TILE_PANELS {0, 4, 3, 2, 1, 1, 1}
#define TILES(X) X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(2, 1) X(2, 2) X(2, 3) X(3, 1) X(3, 2) X(4, 1) X(5, 1) X(6, 1)
