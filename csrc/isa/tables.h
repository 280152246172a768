/* tables.h - the tables of this build, by name. */
#ifndef LW_ISA_TABLES_H
#define LW_ISA_TABLES_H
#include "../kernels.h"

extern const lw_kernels lw_kernels_scalar;
#if defined(__x86_64__)
extern const lw_kernels lw_kernels_avx2, lw_kernels_avx_vnni;
extern const lw_kernels lw_kernels_avx512, lw_kernels_avx512_vnni, lw_kernels_avx512_bf16, lw_kernels_amx;
#endif
/* Defined where LW_EMULATE built them. */
extern const lw_kernels lw_emulated_avx_vnni, lw_emulated_avx512, lw_emulated_avx512_vnni, lw_emulated_avx512_bf16;
extern const lw_kernels lw_emulated_amx;
int lw_emulated_amx_configured(void), lw_emulated_amx_faults(void);   /* of the calling thread, see vec/amx.h */
#ifdef LW_TEST_TABLES     /* deliberately wrong, see broken.c */
extern const lw_kernels lw_broken_k, lw_broken_lanes, lw_broken_tail, lw_broken_pair, lw_broken_mask;
extern const lw_kernels lw_broken_zero, lw_broken_block;
#endif
#endif
