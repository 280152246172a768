/* peak.h - the machine's own limits: independent chains of the widest multiply-add, and plain reads. */
#ifndef LW_KERNELS_PEAK_H
#define LW_KERNELS_PEAK_H

/* Latency 4 to 6 times 2 a cycle, and to spare where registers are; steps in one turn of the loop. */
enum { PEAK_CHAINS = V_REGISTERS == 32 ? 24 : 12, PEAK_STEPS = 8 };

static double peak_f32(long iterations) {
    float one = 1.0f, small = 0x1p-30f, out[64];
    vreg acc[PEAK_CHAINS], a = vr_set1(&one), b = vr_set1(&small);
    V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) acc[j] = vr_set1(&small);
    for (long i = 0; i < iterations; i++) {
        V_UNROLL for (int u = 0; u < PEAK_STEPS; u++) {
            V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) {
                acc[j] = vr_fma_tied(a, b, acc[j]);
                V_KEEP(acc[j]);
            }
        }
    }
    V_UNROLL for (int j = 1; j < PEAK_CHAINS; j++) acc[0] = vr_add(acc[0], acc[j]);
    vr_store(out, acc[0]);
    return 2.0 * (16.0 / V_REGS) * PEAK_CHAINS * PEAK_STEPS * (double)iterations + 0.0 * out[0];
}

/* Exact for every u8 x s8: vpdpbusd where there is one; else both widened to int16 (once per line and once per row of a
 * tile, so not counted), then products of pairs to int32 and an addition (vpmaddwd, vpaddd). vpmaddubsw saturates:
 * 2 * 255 * 127 > 32767. */
#ifdef LW_HAS_VNNI
enum { PEAK_DOT_BYTES = 4 };
#define PEAK_DOT ir_dot4
#else
enum { PEAK_DOT_BYTES = 2 };
#define PEAK_DOT ir_dot2
#endif
__attribute__((unused)) static double peak_int8(long iterations) {
    const uint32_t bytes = 0x00ff00ff, others = 0xff81007f;
    uint32_t out[16];
    ireg acc[PEAK_CHAINS], a = ir_set1(&bytes), b = ir_set1(&others);
    V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) acc[j] = ir_zero();
    for (long i = 0; i < iterations; i++) {
        V_UNROLL for (int u = 0; u < PEAK_STEPS; u++) {
            V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) {
                V_KEEP(b);                            /* or the product of constants would be formed once */
                acc[j] = PEAK_DOT(acc[j], a, b);
                V_KEEP(acc[j]);
            }
        }
    }
    uint32_t sum = 0;
    V_UNROLL for (int j = 0; j < PEAK_CHAINS; j++) {
        ir_store(out, acc[j]);
        sum += out[0];
    }
    return 2.0 * PEAK_DOT_BYTES * (16.0 / V_REGS) * PEAK_CHAINS * PEAK_STEPS * (double)iterations + 0.0 * sum;
}

static uint64_t read_all(const void *data, size_t bytes) {
    const char *p = data;
    /* Four streams. At a distance of a power of two they would meet in one bank of memory and get half of its speed. */
    const size_t page = 8192, quarter = bytes < 64 * page ? bytes / 4 : ((bytes / 4 / page - 1) | 1) * page;
    i32x16 s0 = vi_set1(0), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 4 * quarter; i < bytes; i += 64) s0 = vi_xor(s0, vi_load(p + i));
    for (size_t i = 0; i < quarter; i += 128) {
        V_UNROLL for (size_t j = i; j < i + 128; j += 64) {
            s0 = vi_xor(s0, vi_load(p + j));
            s1 = vi_xor(s1, vi_load(p + quarter + j));
            s2 = vi_xor(s2, vi_load(p + 2 * quarter + j));
            s3 = vi_xor(s3, vi_load(p + 3 * quarter + j));
        }
    }
    uint32_t out[16];
    uint64_t sum = 0;
    vi_store(out, vi_add(vi_add(s0, s1), vi_add(s2, s3)));
    for (int i = 0; i < 16; i++) sum = sum * 31 + out[i];
    return sum;
}
#endif
