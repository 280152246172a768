/* AVX2, FMA, F16C. */
#include "../lanewise.h"
#include "../vec/avx2.h"

#include "avx2_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

LW_DEFINE_TABLE(lw_kernels_avx2, "avx2");
