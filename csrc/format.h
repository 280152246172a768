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
};
enum { LW_FORMATS = 3 };
#endif
