/* AVX-512 with the byte dot product (vpdpbusd). */
#define LW_HAS_VNNI
#include "../lanewise.h"
#include "../vec/avx512.h"

#include "avx512_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

#ifdef LW_EMULATE
LW_DEFINE_TABLE(lw_emulated_avx512_vnni, "emulated_avx512_vnni");
#else
LW_DEFINE_TABLE(lw_kernels_avx512_vnni, "avx512_vnni");
#endif
