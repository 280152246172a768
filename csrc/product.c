/* product.c - the entry of products: what fits together; gemm.c and gemm_quant.c do it. */
#include "context.h"

/* The combinations that there are: see lanewise.h. */
static int types_fit(const lw_gemm_args *g, int integers, int64_t n) {
    int whole = g->c_type == LW_I32, floats = !integers && (g->plain || g->w->format < LW_Q4_0);
    int bytes = integers && (g->a_type == LW_I8 || g->a_type == LW_U8);
    if (g->a_type != LW_F32 && !bytes && !(floats && g->a_type == LW_BF16)) return 0;
    if (g->c_type != LW_F32 && g->c_type != LW_BF16 && !whole) return 0;
    if (whole && (!integers || g->a_type == LW_F32 || g->bias || g->residual || g->act || g->gated || g->row_scale ||
                  g->column_scale))
        return 0;
    if (!integers && (g->row_scale || g->column_scale)) return 0;
    return !(g->a_type == LW_F32 && g->row_scale) && (unsigned)g->act <= LW_ACT_EXP && g->gated >= 0 &&
           (!g->gated || n == 2 * lw_round_up(g->gated, LW_LANES));
}

lw_status lw_gemm(lw_ctx *ctx, const lw_gemm_args *args) {
    if (!ctx || !args || !args->w == !args->plain || args->m < 0) return LW_E_ARGUMENT;
    const lw_source *b = args->plain;
    int64_t n = b ? b->rows : args->w->n, k = b ? args->k : args->w->k, columns = args->gated ? args->gated : n;
    if (b && ((unsigned)b->type > LW_I8 || n < 0 || k < 0 || n > INT32_MAX - 64 || k > INT32_MAX - 64)) return LW_E_ARGUMENT;
    if (!types_fit(args, b ? b->type == LW_I8 : args->w->format == LW_P8, n)) return LW_E_ARGUMENT;
    if (args->lda < k || args->ldc < columns || (args->residual && args->ldr < columns)) return LW_E_ARGUMENT;
    if (args->m && n && (!args->c || (k && (!args->a || (b && !b->data))))) return LW_E_ARGUMENT;
    if (args->residual && args->residual == args->c && (args->ldr != args->ldc || args->c_type != LW_F32))
        return LW_E_ARGUMENT;
    lw_fp fp = lw_fp_enter();
    lw_status status = lw_gemm_run(ctx, args);
    lw_fp_leave(fp);
    return status;
}
