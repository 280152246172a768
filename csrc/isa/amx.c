/* The tile registers of AMX for products of bf16, int8 and quantised weights, all else as in avx512_bf16.c: every CPU with AMX has
 * that too. */
#define LW_HAS_VNNI
#define LW_HAS_DOT
#define LW_HAS_AMX
#include "../lanewise.h"
#include "../vec/avx512.h"
#include "../vec/amx.h"

#ifndef LW_EMULATE
#define LW_QUANT_FROM(what) lw_##what##_quant_avx512_vnni
#endif
#include "avx512_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

#ifdef LW_EMULATE
LW_DEFINE_TABLE(lw_emulated_amx, "emulated_amx");
#else
LW_DEFINE_TABLE(lw_kernels_amx, "amx");
#endif
