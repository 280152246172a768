/* table.h - words -> kernels -> one constant table. An ISA includes its words, defines TILE_ROWS, TILE_PANELS, TILES and
 * (where the CPU has a bfloat16 dot product) LW_HAS_DOT and the word vr_dot, then this file, then LW_DEFINE_TABLE. */
#ifndef LW_KERNELS_TABLE_H
#define LW_KERNELS_TABLE_H
#include <float.h>
#include <math.h>
#include <string.h>
#include "../kernels.h"
#include "../vec/math.h"
#ifdef LW_HAS_VNNI
#define INT8_QUAD 4
#define LW_HAS_DOT4
#else
#define INT8_QUAD 8
#endif
#ifdef LW_HAS_DOT4
#define QUANT_DOT4 1
#else
#define QUANT_DOT4 0
#endif
#ifdef QUANT_FOLD
#define QUANT_FOLDS 1
#else
#define QUANT_FOLDS 0
#endif
#include "gemm_float.h"
#ifdef LW_QUANT_FROM   /* the same kernels stand in another table's object already */
void LW_QUANT_FROM(tile)(const lw_quant_tile *t);
void LW_QUANT_FROM(expand)(int form, int64_t k, const void *panel, void *out);
void LW_QUANT_FROM(quantize)(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out);
#define TABLE_QUANT(what, name) LW_QUANT_FROM(what)
#else
#define TABLE_QUANT(what, name) name
#include "gemm_quant.h"
#include "quant_expand.h"
#include "quantize.h"
QUANT_EXPANSION(expand_quant, q_expand_plain)
#endif
#include "glu.h"
#include "finish.h"
#include "gemm_int8.h"
#include "norm.h"
#include "attention.h"
#include "rope.h"
#include "peak.h"

#ifdef LW_HAS_DOT
#include "gemm_dot.h"
#define TABLE_DOT tile_dot
#define TABLE_TO_DOT to_dot
#define TABLE_PEAK_BF16 peak_bf16
#else
#define TABLE_DOT NULL
#define TABLE_TO_DOT NULL
#define TABLE_PEAK_BF16 NULL
#endif

#ifdef LW_HAS_AMX
#include "gemm_amx.h"
#include "quant_amx.h"
#include "gemm_whole_amx.h"
#undef TABLE_PEAK_BF16
#define TABLE_PEAK_BF16 amx_peak_bf16
#define TABLE_PEAK_INT8 amx_peak_int8
#define TABLE_MATRIX .matrix_rows = AMX_ROWS, .matrix_dot = amx_dot, .matrix_int8 = amx_int8, .matrix_release = amx_release, \
                     .matrix_quant = amx_quant, .matrix_expand = amx_expand, .matrix_quantize = amx_quantize
#else
#define TABLE_PEAK_INT8 peak_int8
#define TABLE_MATRIX .matrix_rows = 0
#endif

#define LW_DEFINE_TABLE(symbol, isa)                                                                             \
    const lw_kernels symbol = {                                                                                  \
        .name = isa, .rows = TILE_ROWS, .panels = TILE_PANELS,                                                   \
        .tile_f32 = tile_f32, .tile_bf16 = tile_bf16, .tile_dot = TABLE_DOT, .to_dot = TABLE_TO_DOT, .to_bf16 = to_bf16, \
        .tile_int8 = tile_int8, .quad = INT8_QUAD, .to_quads = to_quads, .finish = finish,                         \
        .quant_rows = QUANT_ROWS, .quant_direct = QUANT_DIRECT, .quant_dot4 = QUANT_DOT4,                          \
        .quant_panels = 2 / V_REGS,                                                                              \
        .tile_quant = TABLE_QUANT(tile, tile_quant), .expand_quant = TABLE_QUANT(expand, expand_quant),          \
        .quantize = TABLE_QUANT(quantize, quantize),                                                             \
        .rms_norm = rms_norm, .layer_norm = layer_norm, .softmax = softmax,                                      \
        .activation = activation, .mul_activation = mul_activation, .add = add, .rope = rope,        \
        .segment_softmax = segment_softmax, .segment_merge = segment_merge, .segment_finish = segment_finish,    \
        .peak_f32 = peak_f32, .peak_bf16 = TABLE_PEAK_BF16, .peak_int8 = TABLE_PEAK_INT8, .read = read_all,         \
        TABLE_MATRIX, .quant_fold = QUANT_FOLDS,                                                                  \
    }
#endif
