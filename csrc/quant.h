/* quant.h - quantised weight formats as data: what a packed block is made of (docs/layouts.md).
 *
 * A panel is 16 outputs over all k, cut into superblocks of 256 k: a header (scales), then one piece of code planes per 32 k.
 * Headers and pieces are whole lines. Where k ends within a superblock, the missing pieces are left out.
 * Codes are unsigned; a weight is scale * (code - zero), or scale * code - minimum.
 */
#ifndef LW_QUANT_H
#define LW_QUANT_H
#include "common.h"
#include "lanewise.h"

/* Planes of 32 k, as 8 groups g of 4 k, a group being 4 bytes per output, bits from the lowest on:
 * NIBBLE  4 lines: line i = group 2i | group 2i+1 << 4          _BIT  + 1 line: bit 4 of group j at bit j
 *                                                               _TWO  + 2 lines: bits 4, 5 of group 4i+j at bits 2j of line i
 * TWO     2 lines: line i = group 4i+j at bits 2j               _BIT  + 1 line: bit 2 of group j at bit j
 * LINE    8 lines: one group each.   IQ4, FP4, IQ2, IQ3_XXS, IQ3_S: NIBBLE, indices of a table. */
typedef enum lw_code { LW_CODE_NIBBLE, LW_CODE_NIBBLE_BIT, LW_CODE_NIBBLE_TWO, LW_CODE_TWO, LW_CODE_TWO_BIT, LW_CODE_LINE,
                       LW_CODE_IQ4, LW_CODE_FP4, LW_CODE_IQ2, LW_CODE_IQ3_XXS, LW_CODE_IQ3_S } lw_code;

/* Headers. d, dmin: 16 float16. A byte line holds 4 bytes per output, one for each of 4 neighbouring blocks.
 * F16   8 times d                       F16M  8 times d, then 8 times the minima (float16, added)
 * K6    d dmin; low nibbles of scales 0..3 | 4..7 << 4; of minima the same; their bits 4, 5: scales 0..3 | 4..7 << 2 | minima
 *       0..3 << 4 | 4..7 << 6
 * K8    4 byte lines of scales (signed); d                  K2  4 byte lines: scale | minimum << 4; d dmin
 * K3    2 byte lines: low nibbles of scales 8i+0..3 | 8i+4..7 << 4; 1 line: bits 4, 5 of 4j+0..3 at 2j; d
 * XS    1 byte line: low nibbles 0..3 | 4..7 << 4; d; 16-bit words: bits 4, 5 of scale j at 2j
 * E8    2 byte lines of exponents       K8F  4 byte lines of scales (signed); a float32 line of d
 * F32, F32M, F32I: what an expanded panel has: a float32 line per block, with `whole` an int32 line of its sub-scale (none if that is
 *       in the codes), then one of d; then nothing; a float32 line of minima per block; or a float32 line of dmin and int16 pairs of
 *       minima, 4i and 4i+2, then 4i+1 and 4i+3. */
typedef enum lw_scales { LW_SCALES_F16, LW_SCALES_F16M, LW_SCALES_K6, LW_SCALES_K8, LW_SCALES_K3, LW_SCALES_K2, LW_SCALES_XS,
                         LW_SCALES_E8, LW_SCALES_K8F, LW_SCALES_F32, LW_SCALES_F32M, LW_SCALES_F32I } lw_scales;
typedef enum lw_minima { LW_MIN_NONE, LW_MIN_FLOAT, LW_MIN_INT } lw_minima;

/* sums: how many sums of two products of a code and an activation fit 16 bits together (0: not even one). */
typedef struct lw_quant {
    uint8_t code, scales, minima;
    uint16_t block;
    uint8_t zero, sums;
    uint16_t header, piece;      /* bytes */
    uint16_t source_block, source_bytes;   /* of the file's blocks: values, bytes */
    uint8_t expanded;            /* the index of the expanded form */
    uint8_t fine;                /* activations have a scale per block, not per group: where their rounding would be too much of
                                    the error (docs/decisions.md) */
    uint8_t whole;               /* sub-scales are integers: the sum over a superblock of sub-scale * code * activation is one as
                                    well, and d comes once, at the end. Where they are small the expanded form has them
                                    multiplied into its codes, a block being all 256 */
    uint8_t spread;              /* the expanded form where bytes are not multiplied four at a time, if it is another */
    uint8_t exact;               /* with `whole`: pieces whose integers add up below 2^24, so in float32 as well */
    uint8_t fold;                /* the index of the same panels as a form whose sub-scales are multiplied into the codes as they are
                                    read; activations are the same */
} lw_quant;

/* Rows of lw_quants: the formats (format - LW_Q4_0), then the expanded forms. */
enum { LW_QUANT_FORMATS = LW_IQ3_S_W - LW_Q4_0 + 1,
       LW_X32_8 = LW_QUANT_FORMATS, LW_X32_2, LW_X32_0, LW_X32F_2, LW_X32I_8, LW_X32I_2, LW_X32W_0, LW_X256I_2, LW_X16W_1,
       LW_X32_FINE, LW_X256_0, LW_X16W_2, LW_X32F_FINE, LW_X32_FINE_2,
       LW_Q2_K_FOLD, LW_QUANTS };
enum { LW_SUPER = 256, LW_PIECE = 32,
       LW_QUANT_LOW_ROWS = 6,     /* tiles of more rows ask for the rows of c themselves */
       LW_QUANT_FOLD_ROWS = 4 };  /* from so many to LW_QUANT_LOW_ROWS: tiles of the forms lw_quant.fold, on tables with quant_fold */

static const lw_quant lw_quants[LW_QUANTS] = {
    [LW_Q4_0 - LW_Q4_0] = {LW_CODE_NIBBLE, LW_SCALES_F16, LW_MIN_NONE, 32, 8, 8, 256, 256, 32, 18, LW_X32_8},
    [LW_Q4_1 - LW_Q4_0] = {LW_CODE_NIBBLE, LW_SCALES_F16M, LW_MIN_FLOAT, 32, 0, 8, 512, 256, 32, 20, LW_X32F_2},
    [LW_Q5_0 - LW_Q4_0] = {LW_CODE_NIBBLE_BIT, LW_SCALES_F16, LW_MIN_NONE, 32, 16, 4, 256, 320, 32, 22, LW_X32_FINE, 1, 0,
                           LW_X32_FINE_2},
    [LW_Q5_1 - LW_Q4_0] = {LW_CODE_NIBBLE_BIT, LW_SCALES_F16M, LW_MIN_FLOAT, 32, 0, 4, 512, 320, 32, 24, LW_X32F_FINE, 1},
    [LW_Q8_0 - LW_Q4_0] = {LW_CODE_LINE, LW_SCALES_F16, LW_MIN_NONE, 32, 128, 0, 256, 512, 32, 34, LW_X32_FINE, 1},
    [LW_Q2_K - LW_Q4_0] = {LW_CODE_TWO, LW_SCALES_K2, LW_MIN_INT, 16, 0, 8, 320, 128, 256, 84, LW_X256I_2, 0, 1, 0, 8, LW_Q2_K_FOLD},
    [LW_Q3_K - LW_Q4_0] = {LW_CODE_TWO_BIT, LW_SCALES_K3, LW_MIN_NONE, 16, 4, 8, 256, 192, 256, 110, LW_X256_0, 0, 1,
                           LW_X16W_2, 8},
    [LW_Q4_K - LW_Q4_0] = {LW_CODE_NIBBLE, LW_SCALES_K6, LW_MIN_INT, 32, 0, 8, 256, 256, 256, 144, LW_X32I_8, 0, 1, 0, 4},
    [LW_Q5_K - LW_Q4_0] = {LW_CODE_NIBBLE_BIT, LW_SCALES_K6, LW_MIN_INT, 32, 0, 4, 256, 320, 256, 176, LW_X32I_2, 0, 1},
    [LW_Q6_K - LW_Q4_0] = {LW_CODE_NIBBLE_TWO, LW_SCALES_K8, LW_MIN_NONE, 16, 32, 2, 320, 384, 256, 210, LW_X16W_2, 0, 1},
    [LW_IQ4_NL - LW_Q4_0] = {LW_CODE_IQ4, LW_SCALES_F16, LW_MIN_NONE, 32, 128, 0, 256, 256, 32, 18, LW_X32_0},
    [LW_IQ4_XS - LW_Q4_0] = {LW_CODE_IQ4, LW_SCALES_XS, LW_MIN_NONE, 32, 128, 0, 128, 256, 256, 136, LW_X32W_0, 0, 1},
    [LW_MXFP4 - LW_Q4_0] = {LW_CODE_FP4, LW_SCALES_E8, LW_MIN_NONE, 32, 12, 4, 128, 256, 32, 17, LW_X32_2},
    [LW_IQ2_W - LW_Q4_0] = {LW_CODE_IQ2, LW_SCALES_K8F, LW_MIN_NONE, 16, 43, 1, 320, 256, 256, 148, LW_X16W_1, 0, 1},
    [LW_IQ3_XXS_W - LW_Q4_0] = {LW_CODE_IQ3_XXS, LW_SCALES_K8F, LW_MIN_NONE, 16, 62, 1, 320, 256, 256, 148, LW_X16W_1, 0, 1},
    [LW_IQ3_S_W - LW_Q4_0] = {LW_CODE_IQ3_S, LW_SCALES_K8F, LW_MIN_NONE, 16, 15, 4, 320, 256, 256, 148, LW_X16W_2, 0, 1},
    [LW_X32_8] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 32, 1, 8, 512, 512, 0, 0, 0},
    [LW_X32_2] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 32, 1, 2, 512, 512, 0, 0, 0},
    [LW_X32_0] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 32, 1, 0, 512, 512, 0, 0, 0},
    [LW_X32F_2] = {LW_CODE_LINE, LW_SCALES_F32M, LW_MIN_FLOAT, 32, 0, 2, 1024, 512, 0, 0, 0},
    [LW_X32I_8] = {LW_CODE_LINE, LW_SCALES_F32I, LW_MIN_INT, 32, 0, 8, 896, 512, 0, 0, 0, 0, 1, 0, 4},
    [LW_X32I_2] = {LW_CODE_LINE, LW_SCALES_F32I, LW_MIN_INT, 32, 0, 2, 896, 512, 0, 0, 0, 0, 1},
    [LW_X32W_0] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 32, 1, 0, 576, 512, 0, 0, 0, 0, 1},
    [LW_X256I_2] = {LW_CODE_LINE, LW_SCALES_F32I, LW_MIN_INT, LW_SUPER, 0, 2, 640, 512, 0, 0, 0, 0, 1},
    [LW_X16W_1] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 16, 1, 1, 1088, 512, 0, 0, 0, 0, 1},
    [LW_X32_FINE] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 32, 1, 0, 512, 512, 0, 0, 0, 1},
    [LW_X256_0] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, LW_SUPER, 124, 0, 64, 512, 0, 0, 0, 0, 1},
    [LW_X16W_2] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 16, 1, 2, 1088, 512, 0, 0, 0, 0, 1},
    [LW_X32F_FINE] = {LW_CODE_LINE, LW_SCALES_F32M, LW_MIN_FLOAT, 32, 0, 2, 1024, 512, 0, 0, 0, 1},
    [LW_X32_FINE_2] = {LW_CODE_LINE, LW_SCALES_F32, LW_MIN_NONE, 32, 1, 2, 512, 512, 0, 0, 0, 1},
    [LW_Q2_K_FOLD] = {LW_CODE_TWO, LW_SCALES_K2, LW_MIN_INT, LW_SUPER, 0, 0, 320, 128, 0, 0, 0, 0, 1},
};
static inline const lw_quant *lw_quant_of(lw_format format) { return &lw_quants[format - LW_Q4_0]; }

/* The tables of IQ4 (stored + 128), FP4 (doubled E2M1, stored + 12), and of the levels of the types with code books, of both
 * signs: IQ2 (8 25 43, of IQ2 types, and 1 7 9, of IQ1 types in eighths; + 43), IQ3_XXS (+ 62), IQ3_S (odd; + 15). */
static const uint8_t lw_table_iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t lw_table_fp4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
static const uint8_t lw_table_iq2[16] = {0, 18, 34, 35, 36, 42, 43, 44, 50, 51, 52, 68, 86, 43, 43, 43};
static const uint8_t lw_table_iq3_xxs[16] = {0, 10, 18, 26, 34, 42, 50, 58, 66, 74, 82, 90, 98, 106, 114, 124};
static const uint8_t lw_table_iq3_s[16] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
static inline const uint8_t *lw_quant_table(int code) {      /* NULL: codes are numbers themselves */
    return code == LW_CODE_IQ4 ? lw_table_iq4 : code == LW_CODE_FP4 ? lw_table_fp4 : code == LW_CODE_IQ2 ? lw_table_iq2
         : code == LW_CODE_IQ3_XXS ? lw_table_iq3_xxs : code == LW_CODE_IQ3_S ? lw_table_iq3_s : NULL;
}

/* Of an expanded superblock, before d and minima. */
static inline int lw_quant_scale_lines(const lw_quant *q) { return q->block == LW_SUPER ? 0 : LW_SUPER / q->block; }

static inline int64_t lw_quant_panel_bytes(const lw_quant *q, int64_t k) {
    return lw_ceil_div(k, LW_SUPER) * q->header + lw_ceil_div(k, LW_PIECE) * q->piece;
}

/* Activations of a row group (R rows), group after group of lw_quant_group(k) values of k, in 4-byte words:
 * R scales (float32), or with `fine` [block][R] of them; the terms of the blocks, [block][R]: with a zero point -zero * sum
 * of the block's codes (int32), with float minima that sum (float32), with integer minima pairs of sums (int16) paired as
 * the minima are; the codes (int8), [4 k][R][4]. */
static inline int lw_quant_group(int64_t k) { return k % LW_SUPER ? LW_SUPER / 2 : LW_SUPER; }
/* Words of terms of a row for n values, whole pieces. Integer minima are of 16 or 32 values; 16 where a block is a superblock. */
static inline int64_t lw_quant_terms(const lw_quant *q, int64_t n) {
    return q->minima == LW_MIN_INT ? n / (q->block == 32 ? 64 : 32) : n / q->block;
}
static inline int64_t lw_quant_row_words(const lw_quant *q, int64_t k) {
    int64_t n = lw_round_up(k, LW_PIECE);
    return (q->fine ? n / q->block : lw_ceil_div(k, lw_quant_group(k))) + lw_quant_terms(q, n) + n / 4;
}
/* What a format expands to; dot4: on a table that multiplies bytes four at a time. */
static inline int lw_quant_expanded(int form, int dot4) {
    return !dot4 && lw_quants[form].spread ? lw_quants[form].spread : lw_quants[form].expanded;
}

/* For tile registers codes stay rows. Blocks of up to LW_MATRIX_QUANT_ROWS rows, in units of LW_MATRIX_UNIT (rows that there are
 * not: zeros); of a block [group][unit]: 16 scales, or with `fine` [block][16]; with minima the terms, [terms][16]; the codes (int8),
 * [block][16][k], with `whole` for each 64 k. Panels are those of the expanded form, but for codes: less the zero point, signed. With
 * `whole` these are multiplied by the sub-scale: a line of d, with minima those of dmin and pairs, then for each 64 k a tile of the high
 * bytes (signed) and one of the low bytes (unsigned) of the products. */
enum { LW_MATRIX_UNIT = 16, LW_MATRIX_QUANT_ROWS = 64, LW_MATRIX_K = 64 };

/* Words of a unit's group of n values before its codes, and bytes of all of it. */
static inline int lw_matrix_words(const lw_quant *q, int64_t n) {
    return LW_MATRIX_UNIT * (int)((q->fine ? n / q->block : 1) + (q->minima ? lw_quant_terms(q, n) : 0));
}
static inline int64_t lw_matrix_group_bytes(const lw_quant *q, int64_t n) {
    return 4 * lw_matrix_words(q, n) + LW_MATRIX_UNIT * n;
}
/* Bytes of a unit's first k values, of `all` that it has: k is a multiple of their groups, or all. */
static inline int64_t lw_matrix_bytes(const lw_quant *q, int64_t k, int64_t all) {
    int64_t group = lw_quant_group(all);
    return k / group * lw_matrix_group_bytes(q, group) + (k % group ? lw_matrix_group_bytes(q, k % group) : 0);
}
/* Of a panel's superblock, with `whole`. */
static inline int lw_matrix_header(const lw_quant *q) {
    return LW_LINE * (q->minima ? 2 + (int)lw_quant_terms(q, LW_SUPER) : 1);
}
static inline int64_t lw_matrix_panel_bytes(int form, int64_t k) {
    const lw_quant *q = &lw_quants[form];
    if (!q->whole) return lw_quant_panel_bytes(&lw_quants[q->expanded], k);
    return k / LW_SUPER * (lw_matrix_header(q) + 2 * LW_SUPER * LW_LANES);
}
/* Forms that are multiplied on tile registers: all but those with scales and minima of blocks on both sides (q5_1), which take the
 * vectors longer than their own dot products do. */
static inline int lw_matrix_fits(int form) { return !(lw_quants[form].fine && lw_quants[form].minima); }
#endif
