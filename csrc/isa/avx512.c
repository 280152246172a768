/* AVX-512 F, BW, VL, DQ: 32 registers, so 28 accumulators at most. With LW_EMULATE the same table for tests anywhere. */
#include "../lanewise.h"
#include "../vec/avx512.h"

#include "avx512_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

#ifdef LW_EMULATE
LW_DEFINE_TABLE(lw_emulated_avx512, "emulated_avx512");
#else
LW_DEFINE_TABLE(lw_kernels_avx512, "avx512");
#endif
