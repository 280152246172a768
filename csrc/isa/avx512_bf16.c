/* AVX-512 with the bfloat16 and the byte dot product (vdpbf16ps, vpdpbusd): every CPU with the first has the second. */
#define LW_HAS_VNNI
#include "../lanewise.h"
#include "../vec/avx512.h"

/* c + the two products of each pair of bfloat16 in a and b */
ALWAYS_INLINE vreg vr_dot(vreg a, vreg b, vreg c) {
#ifdef LW_EMULATE
    return lw_dpbf16(c, v_bits(a), v_bits(b));
#else
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#endif
}

/* 32 values, nearest even, as 16 pairs */
ALWAYS_INLINE i32x16 v_pack_bf16(f32x16 low, f32x16 high) {
#ifdef LW_EMULATE
    return lw_cvtne2ps_pbh(high, low);
#else
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
#endif
}

#define LW_HAS_DOT
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
