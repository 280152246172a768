/* emulate.h - AVX-512 by SIMDe (and by hand where SIMDe 0.7.4 has no such intrinsic), for tests on machines without it.
 * Compile with -mavx2 -mfma: SIMDe fuses multiply-adds only where the compiler may. */
#ifndef LW_VEC_EMULATE_H
#define LW_VEC_EMULATE_H
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wpsabi"
#include <immintrin.h>
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop
#include <stdint.h>
#include <string.h>

#define EMULATE static inline __attribute__((always_inline))
#define EMULATE_SHIFT(name, expr)                                                    \
    EMULATE simde__m512i name(simde__m512i a, unsigned n) {                          \
        uint32_t v[16];                                                              \
        memcpy(v, &a, 64);                                                           \
        for (int i = 0; i < 16; i++) { uint32_t x = v[i]; v[i] = (uint32_t)(expr); } \
        memcpy(&a, v, 64);                                                           \
        return a;                                                                    \
    }
EMULATE_SHIFT(lw_slli_epi32, x << n)
EMULATE_SHIFT(lw_srli_epi32, x >> n)
EMULATE_SHIFT(lw_srai_epi32, (int32_t)x >> n)

EMULATE simde__m512 lw_maskz_loadu_ps(unsigned m, const float *p) {
    float v[16];
    simde__m512 r;
    for (int i = 0; i < 16; i++) v[i] = m >> i & 1 ? p[i] : 0.0f;
    memcpy(&r, v, 64);
    return r;
}
EMULATE void lw_mask_storeu_ps(float *p, unsigned m, simde__m512 a) {
    float v[16];
    memcpy(v, &a, 64);
    for (int i = 0; i < 16; i++)
        if (m >> i & 1) p[i] = v[i];
}
EMULATE simde__m512 lw_permute_ps(simde__m512 a, int control) {
    float v[16], w[16];
    memcpy(v, &a, 64);
    for (int i = 0; i < 16; i++) w[i] = v[(i & ~3) + (control >> 2 * (i & 3) & 3)];
    memcpy(&a, w, 64);
    return a;
}
EMULATE __m256i lw_cvtepi32_epi16(simde__m512i a) {
    uint32_t v[16];
    uint16_t w[16];
    __m256i r;
    memcpy(v, &a, 64);
    for (int i = 0; i < 16; i++) w[i] = (uint16_t)v[i];
    memcpy(&r, w, 32);
    return r;
}
EMULATE simde__m512d lw_cvtps_pd(__m256 a) {
    float v[8];
    double w[8];
    simde__m512d r;
    memcpy(v, &a, 32);
    for (int i = 0; i < 8; i++) w[i] = v[i];
    memcpy(&r, w, 64);
    return r;
}
EMULATE __m256 lw_cvtpd_ps(simde__m512d a) {
    double v[8];
    float w[8];
    __m256 r;
    memcpy(v, &a, 64);
    for (int i = 0; i < 8; i++) w[i] = (float)v[i];
    memcpy(&r, w, 32);
    return r;
}
EMULATE simde__m512i lw_madd_epi16(simde__m512i a, simde__m512i b) {
    int16_t v[32], w[32];
    uint32_t r[16];
    memcpy(v, &a, 64);
    memcpy(w, &b, 64);
    for (int i = 0; i < 16; i++) r[i] = (uint32_t)(v[2 * i] * w[2 * i]) + (uint32_t)(v[2 * i + 1] * w[2 * i + 1]);
    memcpy(&a, r, 64);
    return a;
}
EMULATE simde__m512i lw_srli_epi16(simde__m512i a, unsigned n) {
    uint16_t v[32];
    memcpy(v, &a, 64);
    for (int i = 0; i < 32; i++) v[i] = (uint16_t)(v[i] >> n);
    memcpy(&a, v, 64);
    return a;
}
EMULATE simde__m512i lw_cvtepu16_epi32(__m256i a) {
    uint16_t h[16];
    uint32_t r[16];
    simde__m512i out;
    memcpy(h, &a, 32);
    for (int i = 0; i < 16; i++) r[i] = h[i];
    memcpy(&out, r, 64);
    return out;
}
EMULATE simde__m512 lw_cvtph_ps(__m256i a) {
    __m256 half[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
    simde__m512 r;
    memcpy(&r, half, 64);
    return r;
}
EMULATE simde__m512 lw_cvtepi32_ps(simde__m512i a) {
    __m256i half[2];
    __m256 f[2];
    simde__m512 r;
    memcpy(half, &a, 64);
    for (int i = 0; i < 2; i++) f[i] = _mm256_cvtepi32_ps(half[i]);
    memcpy(&r, f, 64);
    return r;
}
EMULATE __m128i lw_cvtepi32_epi8(simde__m512i a) {
    uint32_t v[16];
    uint8_t w[16];
    __m128i r;
    memcpy(v, &a, 64);
    for (int i = 0; i < 16; i++) w[i] = (uint8_t)v[i];
    memcpy(&r, w, 16);
    return r;
}
EMULATE simde__m512i lw_dpbusd(simde__m512i acc, simde__m512i u, simde__m512i s) {
    uint8_t v[64];
    int8_t w[64];
    uint32_t r[16];
    memcpy(v, &u, 64);
    memcpy(w, &s, 64);
    memcpy(r, &acc, 64);
    for (int i = 0; i < 64; i++) r[i / 4] += (uint32_t)(v[i] * w[i]);
    memcpy(&acc, r, 64);
    return acc;
}
/* acc + pairs of bfloat16 products: exact on small integers, otherwise not the CPU's rounding */
EMULATE simde__m512 lw_dpbf16(simde__m512 acc, simde__m512i a, simde__m512i b) {
    uint32_t v[16], w[16];
    float c[16];
    memcpy(v, &a, 64);
    memcpy(w, &b, 64);
    memcpy(c, &acc, 64);
    for (int i = 0; i < 16; i++) {
        uint32_t bits[4] = {v[i] << 16, w[i] << 16, v[i] & 0xffff0000u, w[i] & 0xffff0000u};
        float f[4];
        memcpy(f, bits, 16);
        c[i] = c[i] + (f[0] * f[1] + f[2] * f[3]);
    }
    memcpy(&acc, c, 64);
    return acc;
}
EMULATE simde__m512i lw_cvtne2ps_pbh(simde__m512 high, simde__m512 low) {
    uint32_t v[32];
    uint16_t w[32];
    simde__m512i r;
    memcpy(v, &low, 64);
    memcpy(v + 16, &high, 64);
    for (int i = 0; i < 32; i++) {
        uint32_t size = v[i] & 0x7fffffff, rounded = v[i] + 0x7fff + (v[i] >> 16 & 1);
        w[i] = (uint16_t)(size > 0x7f800000 ? v[i] >> 16 | 0x40 : size < 0x00800000 ? v[i] >> 16 & 0x8000 : rounded >> 16);
    }
    memcpy(&r, w, 64);
    return r;
}
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#undef _mm512_srai_epi32
#define _mm512_slli_epi32 lw_slli_epi32
#define _mm512_srli_epi32 lw_srli_epi32
#define _mm512_srai_epi32 lw_srai_epi32
#define _mm512_maskz_loadu_ps lw_maskz_loadu_ps
#define _mm512_mask_storeu_ps lw_mask_storeu_ps
#define _mm512_permute_ps lw_permute_ps
#define _mm512_cvtepi32_epi16 lw_cvtepi32_epi16
#define _mm512_cvtps_pd lw_cvtps_pd
#define _mm512_cvtpd_ps lw_cvtpd_ps
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepu16_epi32 lw_cvtepu16_epi32
#define _mm512_cvtph_ps lw_cvtph_ps
#define _mm512_cvtepi32_ps lw_cvtepi32_ps
#define _mm512_cvtepi32_epi8 lw_cvtepi32_epi8
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 lw_srli_epi16
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 lw_madd_epi16
#endif
