/* scalar.h - the words in plain C: the definition that the other headers must match bit for bit.
 *
 * v_: 16 float32 (f32x16). vi_: 16 int32. vd_: 8 float64. vm_: a mask of 16 lanes. vr_: one register of the tiles
 * (V_REGS of them hold a line). Only correctly rounded operations; v_min and v_max return the second operand when an
 * operand is NaN or both are zero, as x86 does. Sums and maxima across lanes use one fixed tree: lane i with i+8, then
 * i+4, i+2, i+1.
 */
#ifndef LW_VEC_H
#define LW_VEC_H
#include <math.h>
#include <string.h>
#include "../common.h"

typedef struct { float f[16]; } f32x16;
typedef struct { uint32_t i[16]; } i32x16;   /* unsigned, so that wrapping is defined */
typedef struct { double d[8]; } f64x8;
typedef struct { uint32_t bits; } m16;

/* Loops over lanes stay loops: peeled, the compiler takes minutes over a table that nobody runs for speed. */
#if defined(__clang__)
#define V_LOOP LW_PRAGMA(clang loop unroll(disable))
#elif defined(__GNUC__)
#define V_LOOP LW_PRAGMA(GCC unroll 1)
#else
#define V_LOOP
#endif
#define V_MATH static __attribute__((noinline, unused))   /* for the same reason */
#define V_LANES V_LOOP for (int i = 0; i < 16; i++)
#define V_HALF V_LOOP for (int i = 0; i < 8; i++)
#define V_F2(name, expr)                                    \
    ALWAYS_INLINE f32x16 name(f32x16 a, f32x16 b) {         \
        f32x16 r;                                           \
        V_LANES { float x = a.f[i], y = b.f[i]; r.f[i] = (expr); } \
        return r;                                           \
    }
#define V_I2(name, expr)                                    \
    ALWAYS_INLINE i32x16 name(i32x16 a, i32x16 b) {         \
        i32x16 r;                                           \
        V_LANES { uint32_t x = a.i[i], y = b.i[i]; r.i[i] = (expr); } \
        return r;                                           \
    }
#define V_SHIFT(name, expr)                                 \
    ALWAYS_INLINE i32x16 name(i32x16 a, int n) {            \
        i32x16 r;                                           \
        V_LANES { uint32_t x = a.i[i]; r.i[i] = (expr); }   \
        return r;                                           \
    }
V_F2(v_add, x + y)
V_F2(v_sub, x - y)
V_F2(v_mul, x * y)
V_F2(v_div, x / y)
V_F2(v_min, x < y ? x : y)
V_F2(v_max, x > y ? x : y)
V_I2(vi_add, x + y)
V_I2(vi_sub, x - y)
V_I2(vi_max, (int32_t)x > (int32_t)y ? x : y)
V_I2(vi_and, x & y)
V_I2(vi_or, x | y)
V_I2(vi_xor, x ^ y)
V_SHIFT(vi_sll, x << n)
V_SHIFT(vi_srl, x >> n)
V_SHIFT(vi_sra, (uint32_t)((int32_t)x >> n))

ALWAYS_INLINE f32x16 v_load(const float *p) { f32x16 r; memcpy(&r, p, sizeof r); return r; }
ALWAYS_INLINE void v_store(float *p, f32x16 a) { memcpy(p, &a, sizeof a); }
ALWAYS_INLINE f32x16 v_loadn(const float *p, int n) {   /* 0 <= n <= 16; zeros above; nothing beyond is touched */
    f32x16 r;
    V_LANES r.f[i] = i < n ? p[i] : 0.0f;
    return r;
}
ALWAYS_INLINE void v_storen(float *p, f32x16 a, int n) {
    for (int i = 0; i < n; i++) p[i] = a.f[i];
}
ALWAYS_INLINE f32x16 v_set1(float x) { f32x16 r; V_LANES r.f[i] = x; return r; }
ALWAYS_INLINE float v_first(f32x16 a) { return a.f[0]; }
ALWAYS_INLINE f32x16 v_fma(f32x16 a, f32x16 b, f32x16 c) {     /* a b + c */
    f32x16 r;
    V_LANES r.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
    return r;
}
ALWAYS_INLINE f32x16 v_fnma(f32x16 a, f32x16 b, f32x16 c) {    /* c - a b */
    f32x16 r;
    V_LANES r.f[i] = fmaf(-a.f[i], b.f[i], c.f[i]);
    return r;
}
ALWAYS_INLINE i32x16 v_bits(f32x16 a) { i32x16 r; memcpy(&r, &a, sizeof r); return r; }
ALWAYS_INLINE f32x16 v_float(i32x16 a) { f32x16 r; memcpy(&r, &a, sizeof r); return r; }

ALWAYS_INLINE m16 v_lt(f32x16 a, f32x16 b) {                   /* false if unordered */
    m16 r = {0};
    V_LANES r.bits |= (uint32_t)(a.f[i] < b.f[i]) << i;
    return r;
}
ALWAYS_INLINE m16 v_unordered(f32x16 a) {                      /* NaN lanes */
    m16 r = {0};
    V_LANES r.bits |= (uint32_t)(a.f[i] != a.f[i]) << i;
    return r;
}
ALWAYS_INLINE m16 vm_range(int lo, int hi) {                   /* lanes lo <= i < hi; any ints */
    m16 r = {0};
    V_LANES r.bits |= (uint32_t)(i >= lo && i < hi) << i;
    return r;
}
ALWAYS_INLINE f32x16 v_select(m16 m, f32x16 a, f32x16 b) {     /* m ? a : b */
    f32x16 r;
    V_LANES r.f[i] = m.bits >> i & 1 ? a.f[i] : b.f[i];
    return r;
}
ALWAYS_INLINE float v_sum(f32x16 a) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) a.f[i] += a.f[i + n];
    return a.f[0];
}
ALWAYS_INLINE float v_largest(f32x16 a) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) a.f[i] = a.f[i] > a.f[i + n] ? a.f[i] : a.f[i + n];
    return a.f[0];
}
ALWAYS_INLINE f32x16 v_swap(f32x16 a) {                        /* neighbours: 1 0 3 2 ... */
    f32x16 r;
    V_LANES r.f[i] = a.f[i ^ 1];
    return r;
}
ALWAYS_INLINE f32x16 v_dup_lo(f32x16 a) {                      /* 0 0 1 1 ... 7 7 */
    f32x16 r;
    V_LANES r.f[i] = a.f[i / 2];
    return r;
}
ALWAYS_INLINE f32x16 v_dup_hi(f32x16 a) {                      /* 8 8 9 9 ... 15 15 */
    f32x16 r;
    V_LANES r.f[i] = a.f[8 + i / 2];
    return r;
}

ALWAYS_INLINE i32x16 vi_load(const void *p) { i32x16 r; memcpy(&r, p, sizeof r); return r; }
ALWAYS_INLINE void vi_store(void *p, i32x16 a) { memcpy(p, &a, sizeof a); }
ALWAYS_INLINE i32x16 vi_set1(uint32_t x) { i32x16 r; V_LANES r.i[i] = x; return r; }
ALWAYS_INLINE f32x16 vi_float(i32x16 a) { f32x16 r; V_LANES r.f[i] = (float)(int32_t)a.i[i]; return r; }
ALWAYS_INLINE void vi_store16(uint16_t *p, i32x16 a) {         /* lanes below 65536 as 16 bits */
    V_LANES p[i] = (uint16_t)a.i[i];
}

ALWAYS_INLINE f64x8 vd_lo(f32x16 a) { f64x8 r; V_HALF r.d[i] = a.f[i]; return r; }
ALWAYS_INLINE f64x8 vd_hi(f32x16 a) { f64x8 r; V_HALF r.d[i] = a.f[8 + i]; return r; }
ALWAYS_INLINE f32x16 vd_narrow(f64x8 lo, f64x8 hi) {
    f32x16 r;
    V_HALF { r.f[i] = (float)lo.d[i]; r.f[8 + i] = (float)hi.d[i]; }
    return r;
}
ALWAYS_INLINE f64x8 vd_set1(double x) { f64x8 r; V_HALF r.d[i] = x; return r; }
ALWAYS_INLINE f64x8 vd_add(f64x8 a, f64x8 b) { V_HALF a.d[i] += b.d[i]; return a; }
ALWAYS_INLINE f64x8 vd_sub(f64x8 a, f64x8 b) { V_HALF a.d[i] -= b.d[i]; return a; }
/* c + a^2 where a holds a float32: the square is exact in float64, so multiply-add and fma round alike */
ALWAYS_INLINE f64x8 vd_add_square(f64x8 c, f64x8 a) { V_HALF c.d[i] += a.d[i] * a.d[i]; return c; }
ALWAYS_INLINE double vd_sum(f64x8 a) {
    for (int n = 4; n; n /= 2)
        for (int i = 0; i < n; i++) a.d[i] += a.d[i + n];
    return a.d[0];
}

/* ---- one register of a tile -------------------------------------------------------------------------------------- */
typedef f32x16 vreg;
enum { V_REGS = 1, V_REGISTERS = 1 << 20 };   /* registers to a line; registers there are (here: no limit to observe) */
ALWAYS_INLINE vreg vr_load(const void *p) { return v_load(p); }
ALWAYS_INLINE void vr_store(float *p, vreg a) { v_store(p, a); }
ALWAYS_INLINE vreg vr_zero(void) { return v_set1(0.0f); }
ALWAYS_INLINE vreg vr_set1(const float *p) { return v_set1(*p); }
ALWAYS_INLINE vreg vr_fma(vreg a, vreg b, vreg c) { return v_fma(a, b, c); }
ALWAYS_INLINE vreg vr_fma_tied(vreg a, vreg b, vreg c) { return v_fma(a, b, c); }
ALWAYS_INLINE vreg vr_fma_each(const float *a, vreg b, vreg c) { return v_fma(v_set1(*a), b, c); }
ALWAYS_INLINE vreg vr_add(vreg a, vreg b) { return v_add(a, b); }
ALWAYS_INLINE vreg vr_mul(vreg a, vreg b) { return v_mul(a, b); }

/* The same register as 32-bit integers. ir_low, ir_high: bytes 0 and 2, or 1 and 3, of each lane as 16 bits (ir_slow,
 * ir_shigh: with their sign).
 * Tables with LW_HAS_VNNI have ir_dot4: acc + four products of unsigned bytes u and signed bytes s, wrapping; the others
 * ir_dot2: acc + two products of signed 16-bit values. ir_madd32: acc + a * b of 32 bits. */
typedef i32x16 ireg;
ALWAYS_INLINE ireg ir_load(const void *p) { return vi_load(p); }
ALWAYS_INLINE void ir_store(void *p, ireg a) { vi_store(p, a); }
ALWAYS_INLINE ireg ir_zero(void) { return vi_set1(0); }
ALWAYS_INLINE vreg ir_float(ireg a) { return vi_float(a); }
ALWAYS_INLINE ireg ir_set1(const void *p) { uint32_t x; memcpy(&x, p, sizeof x); return vi_set1(x); }
ALWAYS_INLINE ireg ir_low(ireg a) { return vi_and(a, vi_set1(0x00ff00ff)); }
ALWAYS_INLINE ireg ir_high(ireg a) { return vi_and(vi_srl(a, 8), vi_set1(0x00ff00ff)); }
ALWAYS_INLINE ireg ir_add(ireg a, ireg b) { return vi_add(a, b); }
ALWAYS_INLINE ireg ir_madd32(ireg acc, ireg a, ireg b) {
    V_LANES acc.i[i] += a.i[i] * b.i[i];
    return acc;
}
ALWAYS_INLINE ireg ir_xor(ireg a, ireg b) { return vi_xor(a, b); }
ALWAYS_INLINE ireg ir_slow(ireg a) {
    V_LANES a.i[i] = (uint16_t)(int8_t)a.i[i] | (uint32_t)(uint16_t)(int8_t)(a.i[i] >> 16) << 16;
    return a;
}
ALWAYS_INLINE ireg ir_shigh(ireg a) { return ir_slow(vi_srl(a, 8)); }
ALWAYS_INLINE ireg ir_dot2(ireg acc, ireg a, ireg b) {
    V_LANES {
        int32_t lo = (int16_t)a.i[i] * (int16_t)b.i[i], hi = (int16_t)(a.i[i] >> 16) * (int16_t)(b.i[i] >> 16);
        acc.i[i] += (uint32_t)lo + (uint32_t)hi;
    }
    return acc;
}
/* Words of quantised tiles. ir_add16: sums of 16 bits; ir_mul8: unsigned bytes u times signed bytes s, sums of pairs as 16 bits
 * (the caller sees to it that they fit); ir_lookup: table[byte] for bytes below 16; vr_int: to float; vr_bits: the same bits;
 * vr_f16: float16 widened; ir_wide16: 16-bit values zero-extended. The last two read as many values as a register has lanes. */
ALWAYS_INLINE ireg ir_const(uint32_t x) { return vi_set1(x); }
ALWAYS_INLINE ireg ir_and(ireg a, ireg b) { return vi_and(a, b); }
ALWAYS_INLINE ireg ir_or(ireg a, ireg b) { return vi_or(a, b); }
ALWAYS_INLINE ireg ir_sub(ireg a, ireg b) { return vi_sub(a, b); }
ALWAYS_INLINE ireg ir_sll(ireg a, int n) { return vi_sll(a, n); }
ALWAYS_INLINE ireg ir_srl(ireg a, int n) { return vi_srl(a, n); }
ALWAYS_INLINE ireg ir_sra(ireg a, int n) { return vi_sra(a, n); }
ALWAYS_INLINE ireg ir_add16(ireg a, ireg b) {
    V_LANES a.i[i] = ((a.i[i] + b.i[i]) & 0xffff) | ((a.i[i] & 0xffff0000u) + (b.i[i] & 0xffff0000u));
    return a;
}
ALWAYS_INLINE ireg ir_mul8(ireg u, ireg s) {
    ireg r;
    V_LANES {
        int32_t pair[2] = {0, 0};
        V_LOOP for (int j = 0; j < 32; j += 8) pair[j / 16] += (int32_t)(u.i[i] >> j & 255) * (int8_t)(s.i[i] >> j & 255);
        r.i[i] = ((uint32_t)pair[0] & 0xffff) | (uint32_t)pair[1] << 16;
    }
    return r;
}
ALWAYS_INLINE ireg ir_dot4(ireg acc, ireg u, ireg s) {
    V_LANES {
        V_LOOP for (int j = 0; j < 32; j += 8)
            acc.i[i] += (uint32_t)((int32_t)(u.i[i] >> j & 255) * (int8_t)(s.i[i] >> j & 255));
    }
    return acc;
}
ALWAYS_INLINE ireg ir_lookup(const uint8_t *table, ireg a) {
    V_LANES {
        uint32_t x = a.i[i];
        a.i[i] = (uint32_t)table[x & 15] | (uint32_t)table[x >> 8 & 15] << 8 | (uint32_t)table[x >> 16 & 15] << 16 |
                 (uint32_t)table[x >> 24 & 15] << 24;
    }
    return a;
}
ALWAYS_INLINE vreg vr_bits(ireg a) { return v_float(a); }
ALWAYS_INLINE ireg vr_ints(vreg a) { return v_bits(a); }           /* the inverse of vr_bits */
ALWAYS_INLINE ireg ir_wide16(const void *p) {
    uint16_t h[16];
    ireg r;
    memcpy(h, p, sizeof h);
    V_LANES r.i[i] = h[i];
    return r;
}
ALWAYS_INLINE vreg vr_f16(const void *p) {
    ireg h = ir_wide16(p);
    vreg r;
    V_LANES {
        uint32_t m = (h.i[i] & 0x7fff) << 13, bits = m + 0x38000000 + (m >= 0x0f800000 ? 0x38000000 : 0);
        float value;
        if (m < 0x00800000) value = (float)m * 0x1p-37f;   /* subnormal: a count of 2^-24 */
        else memcpy(&value, &bits, 4);
        if (m > 0x0f800000) value = value + value;         /* a quiet NaN */
        r.f[i] = h.i[i] & 0x8000 ? -value : value;
    }
    return r;
}
/* The low bytes of all lanes of a (as many vectors as fill a register), which hold -128 .. 127, one after the other. */
ALWAYS_INLINE ireg ir_bytes(const i32x16 *a) {
    ireg r;
    V_LANES {
        const uint32_t *x = a[i / 4].i + i % 4 * 4;
        r.i[i] = (x[0] & 255) | (x[1] & 255) << 8 | (x[2] & 255) << 16 | x[3] << 24;
    }
    return r;
}
/* bfloat16 pairs, widened: the even (low) or odd (high) member of each */
ALWAYS_INLINE vreg vr_even(const void *p) { return v_float(vi_sll(vi_load(p), 16)); }
ALWAYS_INLINE vreg vr_odd(const void *p) { return v_float(vi_and(vi_load(p), vi_set1(0xffff0000u))); }
#define LW_HAS_DOT4                       /* ir_dot4 without a CPU's instruction for it */
#define V_UNROLL                          /* registers are not the limit here; the compiler's time is */
#define V_OPAQUE(p) ((void)0)
#define V_FORGET ((void)0)
#define V_KEEP(a) __asm__ volatile("" : "+m"(a))   /* chains of a measurement are not folded */
#endif
