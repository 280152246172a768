/* format.h - weight formats as data: one row each. */
#ifndef LW_FORMAT_H
#define LW_FORMAT_H
#include "lanewise.h"

typedef struct lw_format_info {
    const char *name;
    int bits;        /* per weight */
    int k_per_line;  /* values of k in a line of 16 outputs x 4 bytes */
} lw_format_info;

static const lw_format_info lw_formats[] = {
    [LW_P32] = {"float32", 32, 1},
    [LW_P16] = {"bfloat16", 16, 2},
    [LW_P8] = {"int8", 8, 4},
    /* Quantised: superblocks instead of lines alone, see quant.h. */
    [LW_Q4_0] = {"q4_0", 4, 8}, [LW_Q4_1] = {"q4_1", 4, 8}, [LW_Q5_0] = {"q5_0", 5, 8}, [LW_Q5_1] = {"q5_1", 5, 8},
    [LW_Q8_0] = {"q8_0", 8, 4}, [LW_Q2_K] = {"q2_k", 2, 16}, [LW_Q3_K] = {"q3_k", 3, 16}, [LW_Q4_K] = {"q4_k", 4, 8},
    [LW_Q5_K] = {"q5_k", 5, 8}, [LW_Q6_K] = {"q6_k", 6, 8}, [LW_IQ4_NL] = {"iq4_nl", 4, 8}, [LW_IQ4_XS] = {"iq4_xs", 4, 8},
    [LW_MXFP4] = {"mxfp4", 4, 8}, [LW_IQ2_W] = {"iq2_w", 4, 8}, [LW_IQ3_XXS_W] = {"iq3_xxs_w", 4, 8},
    [LW_IQ3_S_W] = {"iq3_s_w", 4, 8},
};
enum { LW_FORMATS = sizeof lw_formats / sizeof lw_formats[0] };
#endif
