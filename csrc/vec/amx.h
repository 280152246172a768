/* amx.h - the words of AMX: eight registers tmm0 to tmm7 of up to 16 rows of 64 bytes, named by literal numbers.
 *
 * Inline assembly, since the compilers' own macros do not say that they read and write memory. With LW_EMULATE (tests)
 * the instructions are plain C, after the Operation sections of Intel's Software Developer's Manual, volume 2; what would be
 * a fault on the CPU is counted instead (lw_emulated_amx_faults). */
#ifndef LW_VEC_AMX_H
#define LW_VEC_AMX_H
#include <stdint.h>
#include <string.h>

typedef struct tmm_config {         /* what LDTILECFG reads */
    uint8_t palette, start, none[14];
    uint16_t bytes[16];              /* per row */
    uint8_t rows[16];
} tmm_config;

#ifndef LW_EMULATE
#define AMX_ASM(text, ...) __asm__ volatile(text : : __VA_ARGS__ : "memory")
#define tmm_configure(c) AMX_ASM("ldtilecfg %0", "m"(*(c)))
#define tmm_release() __asm__ volatile("tilerelease" : : : "memory")
#define tmm_zero(t) __asm__ volatile("tilezero %%tmm" #t : : : "memory")
#define tmm_load(t, p, stride) AMX_ASM("tileloadd (%0,%1,1), %%tmm" #t, "r"(p), "r"((ptrdiff_t)(stride)))
#define tmm_stream(t, p, stride) AMX_ASM("tileloaddt1 (%0,%1,1), %%tmm" #t, "r"(p), "r"((ptrdiff_t)(stride)))
#define tmm_store(t, p, stride) AMX_ASM("tilestored %%tmm" #t ", (%0,%1,1)", "r"(p), "r"((ptrdiff_t)(stride)))
#define tmm_ask(p) __asm__ volatile("prefetchw (%0)" : : "r"(p))   /* a line that will be written */
/* c += a . b: pairs of bfloat16, or signed bytes of a times unsigned (tmm_signed: signed) bytes of b */
#define tmm_bf16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define tmm_int8(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define tmm_signed(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#else
#define tmm_ask(p) ((void)(p))
typedef struct tmm_state {
    tmm_config config;
    uint8_t data[8][16][64];
} tmm_state;
static _Thread_local tmm_state tmm_now;
static _Thread_local int tmm_faults;
int lw_emulated_amx_configured(void), lw_emulated_amx_faults(void);
int lw_emulated_amx_configured(void) { return tmm_now.config.palette; }
int lw_emulated_amx_faults(void) { return tmm_faults; }

static int tmm_fault(int condition) {
    tmm_faults += condition;
    return condition;
}

static void tmm_configure(const tmm_config *c) {
    int bad = c->palette != 1 || c->start;
    for (int i = 0; i < 14; i++) bad |= c->none[i];
    for (int i = 0; i < 16; i++)
        bad |= i < 8 ? c->bytes[i] > 64 || c->rows[i] > 16 || !c->bytes[i] != !c->rows[i] : c->bytes[i] || c->rows[i];
    memset(&tmm_now, 0, sizeof tmm_now);
    if (!tmm_fault(bad)) tmm_now.config = *c;
}
static void tmm_release(void) { memset(&tmm_now, 0, sizeof tmm_now); }
static int tmm_rows(int t) {
    tmm_fault(tmm_now.config.rows[t] == 0);
    return tmm_now.config.rows[t];
}
static void tmm_zero(int t) {
    tmm_rows(t);
    memset(tmm_now.data[t], 0, sizeof tmm_now.data[t]);
}
static void tmm_load(int t, const void *p, ptrdiff_t stride) {
    const int rows = tmm_rows(t);
    memset(tmm_now.data[t], 0, sizeof tmm_now.data[t]);
    for (int r = 0; r < rows; r++) memcpy(tmm_now.data[t][r], (const char *)p + r * stride, tmm_now.config.bytes[t]);
}
static void tmm_stream(int t, const void *p, ptrdiff_t stride) { tmm_load(t, p, stride); }
static void tmm_store(int t, void *p, ptrdiff_t stride) {
    const int rows = tmm_rows(t);
    for (int r = 0; r < rows; r++) memcpy((char *)p + r * stride, tmm_now.data[t][r], tmm_now.config.bytes[t]);
}
static int tmm_shapes_fault(int c, int a, int b) {
    const tmm_config *t = &tmm_now.config;
    return tmm_fault(c == a || c == b || a == b || !t->rows[c] || !t->rows[a] || !t->rows[b] || t->rows[c] != t->rows[a] ||
                      t->bytes[c] != t->bytes[b] || t->bytes[a] != 4 * t->rows[b]);
}

/* TDPBF16PS: even and odd values of k are two chains of fused multiply-adds from zero, added, then added to c; to nearest even,
 * subnormals taken for zeros and made zeros. The CPU that emulates does that itself, told so by MXCSR. */
static __attribute__((noinline)) void tmm_bf16_row(float *c, const uint16_t *a, const uint8_t (*b)[64], int pairs, int n) {
    float sums[2][16] = {{0}};
    for (int k = 0; k < pairs; k++)
        for (int j = 0; j < n; j++) {
            uint32_t words[4] = {(uint32_t)a[2 * k] << 16, (uint32_t)a[2 * k + 1] << 16}, pair;
            float v[4];
            memcpy(&pair, b[k] + 4 * j, 4);
            words[2] = pair << 16, words[3] = pair & 0xffff0000u;
            memcpy(v, words, sizeof v);
            sums[0][j] = __builtin_fmaf(v[0], v[2], sums[0][j]);
            sums[1][j] = __builtin_fmaf(v[1], v[3], sums[1][j]);
        }
    for (int j = 0; j < n; j++) c[j] += sums[0][j] + sums[1][j];
}
static void tmm_bf16(int c, int a, int b) {
    const tmm_config *t = &tmm_now.config;
    if (tmm_shapes_fault(c, a, b)) return;
    const unsigned state = _mm_getcsr();
    _mm_setcsr(0x9fc0);              /* exceptions masked, to nearest even, DAZ, FTZ */
    for (int m = 0; m < t->rows[c]; m++)
        tmm_bf16_row((float *)tmm_now.data[c][m], (const uint16_t *)tmm_now.data[a][m],
                      (const uint8_t(*)[64])tmm_now.data[b], t->rows[b], t->bytes[c] / 4);
    _mm_setcsr(state);
}
/* TDPBSUD, TDPBSSD: no saturation. */
static void tmm_bytes(int c, int a, int b, int is_signed) {
    const tmm_config *t = &tmm_now.config;
    if (tmm_shapes_fault(c, a, b)) return;
    for (int m = 0; m < t->rows[c]; m++)
        for (int k = 0; k < t->rows[b]; k++)
            for (int n = 0; n < t->bytes[c] / 4; n++) {
                uint32_t sum;
                memcpy(&sum, tmm_now.data[c][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) {
                    const uint8_t w = tmm_now.data[b][k][4 * n + i];
                    sum += (uint32_t)((int8_t)tmm_now.data[a][m][4 * k + i] * (is_signed ? (int8_t)w : w));
                }
                memcpy(tmm_now.data[c][m] + 4 * n, &sum, 4);
            }
}
static void tmm_int8(int c, int a, int b) { tmm_bytes(c, a, b, 0); }
static void tmm_signed(int c, int a, int b) { tmm_bytes(c, a, b, 1); }
#endif
#endif
