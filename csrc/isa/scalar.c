/* The table in plain C: any machine, and the reference for the others. */
#include "../lanewise.h"
#include "../vec/scalar.h"

#define TILE_ROWS 4
#define TILE_PANELS {0, 1, 1, 1, 1}
#define TILES(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1)
#define QUANT_ROWS 4
#define QUANT_DIRECT 4
#define QUANT_ROLLED
#include "../kernels/table.h"
#include "tables.h"

LW_DEFINE_TABLE(lw_kernels_scalar, "scalar");
