/* cpu.h - which instruction sets this machine can run: the CPU's bits and the operating system's. */
#ifndef LW_CPU_H
#define LW_CPU_H

enum {
    LW_CPU_AVX2 = 1 << 0,           /* AVX2, FMA, F16C, and ymm registers saved by the system */
    LW_CPU_AVX512 = 1 << 1,         /* F, BW, VL, DQ, and zmm registers saved by the system */
    LW_CPU_AVX512_VNNI = 1 << 2,
    LW_CPU_AVX512_BF16 = 1 << 3,
    LW_CPU_AVX_VNNI = 1 << 4,       /* vpdpbusd on ymm registers without AVX-512 */
    LW_CPU_AMX = 1 << 5             /* TILE, INT8, BF16, and the system's permission for this process to use the tiles */
};
/* NULL if everything in `needed` is there, else the first missing feature in words. */
const char *lw_cpu_missing(int needed);
/* 1 where vdpbf16ps takes twice as long as the float32 multiply-adds that it replaces: Intel from Sapphire Rapids on. */
int lw_cpu_slow_bf16(void);
#endif
