/* AVX-512 with the bfloat16 and the byte dot product (vdpbf16ps, vpdpbusd): every CPU with the first has the second. */
#define LW_HAS_VNNI
#define LW_HAS_DOT
#include "../lanewise.h"
#include "../vec/avx512.h"

#ifndef LW_EMULATE
#define LW_QUANT_FROM(what) lw_##what##_quant_avx512_vnni
#endif
#include "avx512_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

#ifdef LW_EMULATE
LW_DEFINE_TABLE(lw_emulated_avx512_bf16, "emulated_avx512_bf16");
#else
LW_DEFINE_TABLE(lw_kernels_avx512_bf16, "avx512_bf16");
#endif
