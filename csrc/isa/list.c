/* list.c - the tables of this build, best first, and what each needs. Test builds add, after scalar, so that they are only found
 * by name: tables emulated where the machine lacks their instructions (vec/emulate.h), and the deliberately broken ones. */
#include <string.h>
#include "../cpu.h"
#include "tables.h"

#define MISSING(isa, needed) \
    static const char *missing_##isa(void) { return lw_cpu_missing(needed); }
MISSING(scalar, 0)
#if defined(__x86_64__)
#define AVX512 (LW_CPU_AVX2 | LW_CPU_AVX512)
MISSING(avx2, LW_CPU_AVX2)
#ifndef LW_NO_AVX_VNNI
MISSING(avx_vnni, LW_CPU_AVX2 | LW_CPU_AVX_VNNI)
#endif
#ifndef LW_NO_AVX512
MISSING(avx512, AVX512)
#endif
#ifndef LW_NO_AVX512_VNNI
MISSING(avx512_vnni, AVX512 | LW_CPU_AVX512_VNNI)
#endif
#ifndef LW_NO_AVX512_BF16
MISSING(avx512_bf16, AVX512 | LW_CPU_AVX512_VNNI | LW_CPU_AVX512_BF16)
#endif
#ifndef LW_NO_AMX
MISSING(amx, AVX512 | LW_CPU_AVX512_VNNI | LW_CPU_AVX512_BF16 | LW_CPU_AMX)
#endif
#endif

const lw_isa lw_isa_list[] = {
#if defined(__x86_64__)
#ifndef LW_NO_AMX
    {&lw_kernels_amx, missing_amx},
#endif
#ifndef LW_NO_AVX512_BF16
    {&lw_kernels_avx512_bf16, missing_avx512_bf16},
#endif
#ifndef LW_NO_AVX512_VNNI
    {&lw_kernels_avx512_vnni, missing_avx512_vnni},
#endif
#ifndef LW_NO_AVX512
    {&lw_kernels_avx512, missing_avx512},
#endif
#ifndef LW_NO_AVX_VNNI
    {&lw_kernels_avx_vnni, missing_avx_vnni},
#endif
    {&lw_kernels_avx2, missing_avx2},
#endif
    {&lw_kernels_scalar, missing_scalar},
#ifdef LW_TEST_EMULATED
    {&lw_emulated_amx, missing_avx2},
    {&lw_emulated_avx512_bf16, missing_avx2},
    {&lw_emulated_avx512_vnni, missing_avx2},
    {&lw_emulated_avx512, missing_avx2},
    {&lw_emulated_avx_vnni, missing_avx2},
#endif
#ifdef LW_TEST_TABLES
    {&lw_broken_k, missing_scalar},
    {&lw_broken_lanes, missing_scalar},
    {&lw_broken_tail, missing_scalar},
    {&lw_broken_pair, missing_scalar},
    {&lw_broken_mask, missing_scalar},
    {&lw_broken_zero, missing_scalar},
    {&lw_broken_block, missing_scalar},
#endif
};
const int lw_isa_list_count = (int)(sizeof lw_isa_list / sizeof lw_isa_list[0]);

const lw_kernels *lw_isa_find(const char *name, lw_status *status) {
    *status = LW_OK;
    for (int i = 0; i < lw_isa_list_count; i++) {
        const lw_isa *isa = &lw_isa_list[i];
        if (name && strcmp(name, isa->kernels->name) != 0) continue;
        if (!name && isa->kernels->tile_dot && !isa->kernels->matrix_rows && lw_cpu_slow_bf16()) continue;
        if (!isa->missing()) return isa->kernels;
        if (name) break;
    }
    *status = LW_E_ISA;
    return NULL;
}

int lw_isa_count(void) { return lw_isa_list_count; }
const char *lw_isa_name(int index) {
    return index >= 0 && index < lw_isa_list_count ? lw_isa_list[index].kernels->name : NULL;
}
const char *lw_isa_missing(int index) {
    return index >= 0 && index < lw_isa_list_count ? lw_isa_list[index].missing() : "no such table";
}
