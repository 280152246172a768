/* AVX2 with the byte dot product on ymm registers (AVX-VNNI). With LW_EMULATE the same table for tests anywhere. */
#define LW_HAS_VNNI
#include "../lanewise.h"
#include "../vec/avx2.h"

#include "avx2_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

#ifdef LW_EMULATE
LW_DEFINE_TABLE(lw_emulated_avx_vnni, "emulated_avx_vnni");
#else
LW_DEFINE_TABLE(lw_kernels_avx_vnni, "avx_vnni");
#endif
