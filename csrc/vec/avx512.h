/* avx512.h - the words on AVX-512 F, BW, VL, DQ: a line is one zmm. Meanings: scalar.h.
 *
 * LW_EMULATE (tests only): the same source over SIMDe, so that this table can be run and compared on any x86 machine. */
#ifndef LW_VEC_H
#define LW_VEC_H
#ifdef LW_EMULATE
#include "emulate.h"
#else
#include <immintrin.h>
#endif
#include "../common.h"

typedef __m512 f32x16;
typedef __m512i i32x16;
typedef __m512d f64x8;
typedef __mmask16 m16;

#define V_F2(name, op) ALWAYS_INLINE f32x16 name(f32x16 a, f32x16 b) { return op(a, b); }
#define V_F3(name, op) ALWAYS_INLINE f32x16 name(f32x16 a, f32x16 b, f32x16 c) { return op(a, b, c); }
#define V_I2(name, op) ALWAYS_INLINE i32x16 name(i32x16 a, i32x16 b) { return op(a, b); }
#define V_SHIFT(name, op) ALWAYS_INLINE i32x16 name(i32x16 a, int n) { return op(a, (unsigned)n); }
#define V_D2(name, op) ALWAYS_INLINE f64x8 name(f64x8 a, f64x8 b) { return op(a, b); }
V_F2(v_add, _mm512_add_ps)
V_F2(v_sub, _mm512_sub_ps)
V_F2(v_mul, _mm512_mul_ps)
V_F2(v_div, _mm512_div_ps)
V_F2(v_min, _mm512_min_ps)
V_F2(v_max, _mm512_max_ps)
V_F3(v_fma, _mm512_fmadd_ps)
V_F3(v_fnma, _mm512_fnmadd_ps)
V_I2(vi_add, _mm512_add_epi32)
V_I2(vi_sub, _mm512_sub_epi32)
V_I2(vi_max, _mm512_max_epi32)
V_I2(vi_and, _mm512_and_si512)
V_I2(vi_or, _mm512_or_si512)
V_I2(vi_xor, _mm512_xor_si512)
V_SHIFT(vi_sll, _mm512_slli_epi32)
V_SHIFT(vi_srl, _mm512_srli_epi32)
V_SHIFT(vi_sra, _mm512_srai_epi32)
V_D2(vd_add, _mm512_add_pd)
V_D2(vd_sub, _mm512_sub_pd)

ALWAYS_INLINE m16 vm_first(int n) { return (m16)(n <= 0 ? 0 : n >= 16 ? 0xffff : (1u << n) - 1); }
ALWAYS_INLINE m16 vm_range(int lo, int hi) { return (m16)(vm_first(hi) & ~vm_first(lo)); }
ALWAYS_INLINE f32x16 v_load(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void v_store(float *p, f32x16 a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE f32x16 v_loadn(const float *p, int n) { return _mm512_maskz_loadu_ps(vm_first(n), p); }
ALWAYS_INLINE void v_storen(float *p, f32x16 a, int n) { _mm512_mask_storeu_ps(p, vm_first(n), a); }
ALWAYS_INLINE f32x16 v_set1(float x) { return _mm512_set1_ps(x); }
ALWAYS_INLINE float v_first(f32x16 a) { return _mm_cvtss_f32(_mm512_castps512_ps128(a)); }
ALWAYS_INLINE i32x16 v_bits(f32x16 a) { return _mm512_castps_si512(a); }
ALWAYS_INLINE f32x16 v_float(i32x16 a) { return _mm512_castsi512_ps(a); }

ALWAYS_INLINE m16 v_lt(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
ALWAYS_INLINE m16 v_unordered(f32x16 a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
ALWAYS_INLINE f32x16 v_select(m16 m, f32x16 a, f32x16 b) { return _mm512_mask_blend_ps(m, b, a); }

ALWAYS_INLINE __m256 v_upper(f32x16 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
ALWAYS_INLINE float v_sum(f32x16 a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), v_upper(a));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
ALWAYS_INLINE float v_largest(f32x16 a) {
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), v_upper(a));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
ALWAYS_INLINE f32x16 v_swap(f32x16 a) { return _mm512_permute_ps(a, 0xb1); }
ALWAYS_INLINE f32x16 v_dup_lo(f32x16 a) {
    return _mm512_permutexvar_ps(_mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0), a);
}
ALWAYS_INLINE f32x16 v_dup_hi(f32x16 a) {
    return _mm512_permutexvar_ps(_mm512_set_epi32(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8), a);
}

ALWAYS_INLINE i32x16 vi_load(const void *p) { return _mm512_loadu_si512(p); }
ALWAYS_INLINE void vi_store(void *p, i32x16 a) { _mm512_storeu_si512(p, a); }
ALWAYS_INLINE i32x16 vi_set1(uint32_t x) { return _mm512_set1_epi32((int)x); }
ALWAYS_INLINE f32x16 vi_float(i32x16 a) { return _mm512_cvtepi32_ps(a); }
ALWAYS_INLINE void vi_store16(uint16_t *p, i32x16 a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a)); }

ALWAYS_INLINE f64x8 vd_lo(f32x16 a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
ALWAYS_INLINE f64x8 vd_hi(f32x16 a) { return _mm512_cvtps_pd(v_upper(a)); }
ALWAYS_INLINE f32x16 vd_narrow(f64x8 lo, f64x8 hi) {
    __m512d low = _mm512_castps_pd(_mm512_castps256_ps512(_mm512_cvtpd_ps(lo)));
    return _mm512_castpd_ps(_mm512_insertf64x4(low, _mm256_castps_pd(_mm512_cvtpd_ps(hi)), 1));
}
ALWAYS_INLINE f64x8 vd_set1(double x) { return _mm512_set1_pd(x); }
ALWAYS_INLINE f64x8 vd_add_square(f64x8 c, f64x8 a) { return _mm512_fmadd_pd(a, a, c); }
ALWAYS_INLINE double vd_sum(f64x8 a) {
    __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

/* ---- one register of a tile: a line ------------------------------------------------------------------------------- */
typedef __m512 vreg;
enum { V_REGS = 1, V_REGISTERS = 32 };
ALWAYS_INLINE vreg vr_load(const void *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void vr_store(float *p, vreg a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE vreg vr_zero(void) { return _mm512_setzero_ps(); }
ALWAYS_INLINE vreg vr_set1(const void *p) {           /* a float or, for vr_dot, two bfloat16 at any address */
    float x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_ps(x);
}
ALWAYS_INLINE vreg vr_fma(vreg a, vreg b, vreg c) { return _mm512_fmadd_ps(a, b, c); }
/* Tied: see avx2.h. */
ALWAYS_INLINE vreg vr_fma_tied(vreg a, vreg b, vreg c) {
#if defined(__clang__) || defined(LW_EMULATE)
    return _mm512_fmadd_ps(a, b, c);
#else
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#endif
}
/* *a in all lanes times b, + c: one instruction, also where the compiler would keep *a for another. */
ALWAYS_INLINE vreg vr_fma_each(const float *a, vreg b, vreg c) {
#if defined(__clang__) || defined(LW_EMULATE)
    return _mm512_fmadd_ps(_mm512_set1_ps(*a), b, c);
#else
    __asm__("vfmadd231ps %1%{1to16%}, %2, %0" : "+v"(c) : "m"(*a), "v"(b));
    return c;
#endif
}
ALWAYS_INLINE vreg vr_add(vreg a, vreg b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE vreg vr_mul(vreg a, vreg b) { return _mm512_mul_ps(a, b); }

typedef __m512i ireg;
ALWAYS_INLINE ireg ir_load(const void *p) { return _mm512_loadu_si512(p); }
ALWAYS_INLINE void ir_store(void *p, ireg a) { _mm512_storeu_si512(p, a); }
ALWAYS_INLINE ireg ir_zero(void) { return _mm512_setzero_si512(); }
ALWAYS_INLINE vreg ir_float(ireg a) { return _mm512_cvtepi32_ps(a); }
ALWAYS_INLINE ireg ir_set1(const void *p) {           /* four bytes at any address */
    int x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}
ALWAYS_INLINE ireg ir_add(ireg a, ireg b) { return _mm512_add_epi32(a, b); }
ALWAYS_INLINE ireg ir_xor(ireg a, ireg b) { return _mm512_xor_si512(a, b); }
ALWAYS_INLINE ireg ir_low(ireg a) { return _mm512_and_si512(a, _mm512_set1_epi32(0x00ff00ff)); }
ALWAYS_INLINE ireg ir_high(ireg a) { return _mm512_srli_epi16(a, 8); }
ALWAYS_INLINE ireg ir_const(uint32_t x) { return _mm512_set1_epi32((int)x); }
ALWAYS_INLINE ireg ir_and(ireg a, ireg b) { return _mm512_and_si512(a, b); }
ALWAYS_INLINE ireg ir_or(ireg a, ireg b) { return _mm512_or_si512(a, b); }
ALWAYS_INLINE ireg ir_add16(ireg a, ireg b) { return _mm512_add_epi16(a, b); }
ALWAYS_INLINE ireg ir_sub(ireg a, ireg b) { return _mm512_sub_epi32(a, b); }
ALWAYS_INLINE ireg ir_sub16(ireg a, ireg b) { return _mm512_sub_epi16(a, b); }
ALWAYS_INLINE ireg ir_mul16(ireg a, ireg b) { return _mm512_mullo_epi16(a, b); }
ALWAYS_INLINE ireg ir_sll(ireg a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
ALWAYS_INLINE ireg ir_srl(ireg a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
ALWAYS_INLINE ireg ir_sra(ireg a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
ALWAYS_INLINE ireg ir_mul8(ireg u, ireg s) { return _mm512_maddubs_epi16(u, s); }
ALWAYS_INLINE ireg ir_lookup(const uint8_t *table, ireg a) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), a);
}
/* Bytes. ir_spread: byte i of each lane in all four; ir_pick: those of each lane of a that codes below 4 name. */
ALWAYS_INLINE ireg ir_add8(ireg a, ireg b) { return _mm512_add_epi8(a, b); }
ALWAYS_INLINE ireg ir_spread(ireg a, int i) {
    const __m128i first = _mm_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(_mm_add_epi8(first, _mm_set1_epi8((char)i))));
}
ALWAYS_INLINE ireg ir_pick(ireg a, ireg codes) {
    return _mm512_shuffle_epi8(a, _mm512_or_si512(codes, _mm512_broadcast_i32x4(_mm_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0))));
}
ALWAYS_INLINE vreg vr_bits(ireg a) { return _mm512_castsi512_ps(a); }
ALWAYS_INLINE ireg vr_ints(vreg a) { return _mm512_castps_si512(a); }
ALWAYS_INLINE ireg ir_wide16(const void *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
ALWAYS_INLINE vreg vr_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
ALWAYS_INLINE ireg ir_bytes(const i32x16 *a) {
    const __m512i low = _mm512_packs_epi32(a[0], a[1]), high = _mm512_packs_epi32(a[2], a[3]);
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                    _mm512_packs_epi16(low, high));
}
ALWAYS_INLINE ireg ir_slow(ireg a) { return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8); }
ALWAYS_INLINE ireg ir_shigh(ireg a) { return _mm512_srai_epi16(a, 8); }
/* As one, or GCC 12 gathers the products first and the sums are spilled. */
ALWAYS_INLINE ireg ir_dot2(ireg acc, ireg a, ireg b) {
#ifdef LW_EMULATE
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
#elif defined(LW_HAS_VNNI)
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
#else
    ireg product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(acc), "=&v"(product) : "v"(a), "v"(b));
    return acc;
#endif
}
/* acc + a * b; as one too. */
ALWAYS_INLINE ireg ir_madd32(ireg acc, ireg a, ireg b) {
#ifdef LW_EMULATE
    return _mm512_add_epi32(acc, _mm512_mullo_epi32(a, b));
#else
    __asm__("vpmulld %2, %1, %1\n\tvpaddd %1, %0, %0" : "+v"(acc), "+v"(a) : "v"(b));
    return acc;
#endif
}
#ifdef LW_HAS_VNNI
/* GCC 12 copies the accumulators around _mm512_dpbusd_epi32 once there are more than 16 of them: half the speed. */
ALWAYS_INLINE ireg ir_dot4(ireg acc, ireg u, ireg s) {
#ifdef LW_EMULATE
    return lw_dpbusd(acc, u, s);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
    return acc;
#endif
}
#endif
#ifdef LW_HAS_DOT
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
/* 16 values, likewise */
ALWAYS_INLINE void v_store_bf16(uint16_t *p, f32x16 a) { _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(v_pack_bf16(a, a))); }
#endif
ALWAYS_INLINE vreg vr_even(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
ALWAYS_INLINE vreg vr_odd(const void *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000u)));
}
#ifdef LW_EMULATE
#define V_UNROLL
#define V_MATH static __attribute__((noinline, unused))
#define V_OPAQUE(p) ((void)0)
#define V_FORGET ((void)0)
#define V_KEEP(a) ((void)0)
#else
#define V_UNROLL UNROLL
#define V_MATH ALWAYS_INLINE
#define V_OPAQUE(p) __asm__("" : "+r"(p))
#define V_FORGET __asm__ volatile("" : : : "memory")   /* what was loaded is loaded again */
#define V_KEEP(a) __asm__ volatile("" : "+v"(a))
#endif
#endif
