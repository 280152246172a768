/* avx2.h - the words on AVX2, FMA, F16C: a line is two ymm. Meanings: scalar.h. */
#ifndef LW_VEC_H
#define LW_VEC_H
#include <immintrin.h>
#include "../common.h"

typedef struct { __m256 lo, hi; } f32x16;
typedef struct { __m256i lo, hi; } i32x16;
typedef struct { __m256d lo, hi; } f64x8;
typedef struct { __m256 lo, hi; } m16;

#define V_F2(name, op) \
    ALWAYS_INLINE f32x16 name(f32x16 a, f32x16 b) { return (f32x16){op(a.lo, b.lo), op(a.hi, b.hi)}; }
#define V_F3(name, op)                                              \
    ALWAYS_INLINE f32x16 name(f32x16 a, f32x16 b, f32x16 c) {       \
        return (f32x16){op(a.lo, b.lo, c.lo), op(a.hi, b.hi, c.hi)}; \
    }
#define V_I2(name, op) \
    ALWAYS_INLINE i32x16 name(i32x16 a, i32x16 b) { return (i32x16){op(a.lo, b.lo), op(a.hi, b.hi)}; }
#define V_SHIFT(name, op) \
    ALWAYS_INLINE i32x16 name(i32x16 a, int n) { return (i32x16){op(a.lo, n), op(a.hi, n)}; }
#define V_D2(name, op) \
    ALWAYS_INLINE f64x8 name(f64x8 a, f64x8 b) { return (f64x8){op(a.lo, b.lo), op(a.hi, b.hi)}; }
V_F2(v_add, _mm256_add_ps)
V_F2(v_sub, _mm256_sub_ps)
V_F2(v_mul, _mm256_mul_ps)
V_F2(v_div, _mm256_div_ps)
V_F2(v_min, _mm256_min_ps)
V_F2(v_max, _mm256_max_ps)
V_F3(v_fma, _mm256_fmadd_ps)
V_F3(v_fnma, _mm256_fnmadd_ps)
V_I2(vi_add, _mm256_add_epi32)
V_I2(vi_sub, _mm256_sub_epi32)
V_I2(vi_max, _mm256_max_epi32)
V_I2(vi_and, _mm256_and_si256)
V_I2(vi_or, _mm256_or_si256)
V_I2(vi_xor, _mm256_xor_si256)
V_SHIFT(vi_sll, _mm256_slli_epi32)
V_SHIFT(vi_srl, _mm256_srli_epi32)
V_SHIFT(vi_sra, _mm256_srai_epi32)
V_D2(vd_add, _mm256_add_pd)
V_D2(vd_sub, _mm256_sub_pd)

ALWAYS_INLINE m16 vm_range(int lo, int hi) {
    const __m256i l = _mm256_set1_epi32(lo), h = _mm256_set1_epi32(hi);
    const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), j = _mm256_add_epi32(i, _mm256_set1_epi32(8));
    return (m16){_mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpgt_epi32(l, i), _mm256_cmpgt_epi32(h, i))),
                 _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpgt_epi32(l, j), _mm256_cmpgt_epi32(h, j)))};
}
ALWAYS_INLINE f32x16 v_load(const float *p) { return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ALWAYS_INLINE void v_store(float *p, f32x16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
ALWAYS_INLINE f32x16 v_loadn(const float *p, int n) {
    m16 m = vm_range(0, n);
    return (f32x16){_mm256_maskload_ps(p, _mm256_castps_si256(m.lo)), _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.hi))};
}
ALWAYS_INLINE void v_storen(float *p, f32x16 a, int n) {
    m16 m = vm_range(0, n);
    _mm256_maskstore_ps(p, _mm256_castps_si256(m.lo), a.lo);
    _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.hi), a.hi);
}
ALWAYS_INLINE f32x16 v_set1(float x) { return (f32x16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ALWAYS_INLINE float v_first(f32x16 a) { return _mm256_cvtss_f32(a.lo); }
ALWAYS_INLINE i32x16 v_bits(f32x16 a) { return (i32x16){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
ALWAYS_INLINE f32x16 v_float(i32x16 a) { return (f32x16){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

ALWAYS_INLINE m16 v_lt(f32x16 a, f32x16 b) {
    return (m16){_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
ALWAYS_INLINE m16 v_unordered(f32x16 a) {
    return (m16){_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)};
}
ALWAYS_INLINE f32x16 v_select(m16 m, f32x16 a, f32x16 b) {
    return (f32x16){_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
ALWAYS_INLINE float v_sum(f32x16 a) {
    __m256 h = _mm256_add_ps(a.lo, a.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
ALWAYS_INLINE float v_largest(f32x16 a) {
    __m256 h = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
ALWAYS_INLINE f32x16 v_swap(f32x16 a) {
    return (f32x16){_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1)};
}
ALWAYS_INLINE f32x16 v_dup8(__m256 a) {
    return (f32x16){_mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
                    _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}
ALWAYS_INLINE f32x16 v_dup_lo(f32x16 a) { return v_dup8(a.lo); }
ALWAYS_INLINE f32x16 v_dup_hi(f32x16 a) { return v_dup8(a.hi); }

ALWAYS_INLINE i32x16 vi_load(const void *p) {
    return (i32x16){_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
ALWAYS_INLINE void vi_store(void *p, i32x16 a) {
    _mm256_storeu_si256(p, a.lo);
    _mm256_storeu_si256((__m256i *)p + 1, a.hi);
}
ALWAYS_INLINE i32x16 vi_set1(uint32_t x) { return (i32x16){_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x)}; }
ALWAYS_INLINE f32x16 vi_float(i32x16 a) { return (f32x16){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
ALWAYS_INLINE void vi_store16(uint16_t *p, i32x16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8));
}

ALWAYS_INLINE f64x8 vd_eight(__m256 a) {
    return (f64x8){_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))};
}
ALWAYS_INLINE f64x8 vd_lo(f32x16 a) { return vd_eight(a.lo); }
ALWAYS_INLINE f64x8 vd_hi(f32x16 a) { return vd_eight(a.hi); }
ALWAYS_INLINE f32x16 vd_narrow(f64x8 lo, f64x8 hi) {
    return (f32x16){_mm256_set_m128(_mm256_cvtpd_ps(lo.hi), _mm256_cvtpd_ps(lo.lo)),
                    _mm256_set_m128(_mm256_cvtpd_ps(hi.hi), _mm256_cvtpd_ps(hi.lo))};
}
ALWAYS_INLINE f64x8 vd_set1(double x) { return (f64x8){_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
ALWAYS_INLINE f64x8 vd_add_square(f64x8 c, f64x8 a) {
    return (f64x8){_mm256_fmadd_pd(a.lo, a.lo, c.lo), _mm256_fmadd_pd(a.hi, a.hi, c.hi)};
}
ALWAYS_INLINE double vd_sum(f64x8 a) {
    __m256d h = _mm256_add_pd(a.lo, a.hi);
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

/* ---- one register of a tile: half a line -------------------------------------------------------------------------- */
typedef __m256 vreg;
enum { V_REGS = 2, V_REGISTERS = 16 };
ALWAYS_INLINE vreg vr_load(const void *p) { return _mm256_loadu_ps(p); }
ALWAYS_INLINE void vr_store(float *p, vreg a) { _mm256_storeu_ps(p, a); }
ALWAYS_INLINE vreg vr_zero(void) { return _mm256_setzero_ps(); }
ALWAYS_INLINE vreg vr_set1(const float *p) { return _mm256_broadcast_ss(p); }
ALWAYS_INLINE vreg vr_fma(vreg a, vreg b, vreg c) { return _mm256_fmadd_ps(a, b, c); }
/* As vr_fma, for loops in which an accumulator is used twice: GCC 12 then puts the first sum where the factor was and runs
 * out of registers. */
ALWAYS_INLINE vreg vr_fma_tied(vreg a, vreg b, vreg c) {
#if defined(__clang__)
    return _mm256_fmadd_ps(a, b, c);
#else
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
    return c;
#endif
}
/* *a in all lanes times b, + c. */
ALWAYS_INLINE vreg vr_fma_each(const float *a, vreg b, vreg c) { return _mm256_fmadd_ps(_mm256_broadcast_ss(a), b, c); }
ALWAYS_INLINE vreg vr_add(vreg a, vreg b) { return _mm256_add_ps(a, b); }
ALWAYS_INLINE vreg vr_mul(vreg a, vreg b) { return _mm256_mul_ps(a, b); }

typedef __m256i ireg;
ALWAYS_INLINE ireg ir_load(const void *p) { return _mm256_loadu_si256(p); }
ALWAYS_INLINE void ir_store(void *p, ireg a) { _mm256_storeu_si256(p, a); }
ALWAYS_INLINE ireg ir_zero(void) { return _mm256_setzero_si256(); }
ALWAYS_INLINE vreg ir_float(ireg a) { return _mm256_cvtepi32_ps(a); }
ALWAYS_INLINE ireg ir_set1(const void *p) {           /* four bytes at any address */
    int x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}
ALWAYS_INLINE ireg ir_add(ireg a, ireg b) { return _mm256_add_epi32(a, b); }
ALWAYS_INLINE ireg ir_xor(ireg a, ireg b) { return _mm256_xor_si256(a, b); }
ALWAYS_INLINE ireg ir_low(ireg a) { return _mm256_srli_epi16(_mm256_slli_epi16(a, 8), 8); }   /* no mask to hold */
ALWAYS_INLINE ireg ir_high(ireg a) { return _mm256_srli_epi16(a, 8); }
ALWAYS_INLINE ireg ir_slow(ireg a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
ALWAYS_INLINE ireg ir_shigh(ireg a) { return _mm256_srai_epi16(a, 8); }
/* As one, or GCC 12 gathers the products first and the sums are spilled. */
ALWAYS_INLINE ireg ir_dot2(ireg acc, ireg a, ireg b) {
#if defined(LW_HAS_VNNI) && !defined(LW_EMULATE)
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
#else
    ireg product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
#endif
    return acc;
}
ALWAYS_INLINE ireg ir_madd32(ireg acc, ireg a, ireg b) {    /* acc + a * b */
    __asm__("vpmulld %2, %1, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "+x"(a) : "x"(b));
    return acc;
}
ALWAYS_INLINE ireg ir_const(uint32_t x) { return _mm256_set1_epi32((int)x); }
ALWAYS_INLINE ireg ir_and(ireg a, ireg b) { return _mm256_and_si256(a, b); }
ALWAYS_INLINE ireg ir_or(ireg a, ireg b) { return _mm256_or_si256(a, b); }
ALWAYS_INLINE ireg ir_add16(ireg a, ireg b) { return _mm256_add_epi16(a, b); }
ALWAYS_INLINE ireg ir_sub(ireg a, ireg b) { return _mm256_sub_epi32(a, b); }
ALWAYS_INLINE ireg ir_sll(ireg a, int n) { return _mm256_slli_epi32(a, n); }
ALWAYS_INLINE ireg ir_srl(ireg a, int n) { return _mm256_srli_epi32(a, n); }
ALWAYS_INLINE ireg ir_sra(ireg a, int n) { return _mm256_srai_epi32(a, n); }
ALWAYS_INLINE ireg ir_mul8(ireg u, ireg s) { return _mm256_maddubs_epi16(u, s); }
ALWAYS_INLINE ireg ir_lookup(const uint8_t *table, ireg a) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), a);
}
ALWAYS_INLINE vreg vr_bits(ireg a) { return _mm256_castsi256_ps(a); }
ALWAYS_INLINE ireg vr_ints(vreg a) { return _mm256_castps_si256(a); }
ALWAYS_INLINE ireg ir_wide16(const void *p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128(p)); }
ALWAYS_INLINE vreg vr_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
ALWAYS_INLINE ireg ir_bytes(const i32x16 *a) {
    const __m256i low = _mm256_packs_epi32(a[0].lo, a[0].hi), high = _mm256_packs_epi32(a[1].lo, a[1].hi);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#ifdef LW_HAS_VNNI
ALWAYS_INLINE ireg ir_dot4(ireg acc, ireg u, ireg s) {
#ifdef LW_EMULATE      /* the bytes widened: the even ones, then the odd ones */
    return ir_dot2(ir_dot2(acc, ir_low(u), ir_slow(s)), ir_high(u), ir_shigh(s));
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(u), "x"(s));
    return acc;
#endif
}
#endif
ALWAYS_INLINE vreg vr_even(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(p), 16));
}
/* GCC would keep the mask in a register, and tiles have none to spare; Clang blends with a zero. */
ALWAYS_INLINE vreg vr_odd(const void *p) {
#if defined(__clang__)
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(p), _mm256_set1_epi32((int)0xffff0000u)));
#else
    static const ALIGN(32) uint32_t high[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                               0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
    __m256 w = _mm256_loadu_ps(p);
    __asm__("vandps %1, %0, %0" : "+x"(w) : "m"(high));
    return w;
#endif
}
#define V_UNROLL UNROLL
#define V_MATH ALWAYS_INLINE
/* The compiler may not know that p is what it was: nothing loaded through it is kept in a register instead. */
#define V_OPAQUE(p) __asm__("" : "+r"(p))
/* Nor what is in this register: chains of a measurement are neither merged nor hoisted. */
#define V_FORGET __asm__ volatile("" : : : "memory")   /* what was loaded is loaded again */
#define V_KEEP(a) __asm__ volatile("" : "+x"(a))
#endif
