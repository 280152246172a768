/* context.c - a context: kernel table, pool and scratch; and the floating-point state of a call. */
#include "context.h"
#include <stdlib.h>

enum { MAX_THREADS = 1024, FAR_BYTES = 32 << 20 };

lw_status lw_ctx_create(const lw_options *options, lw_ctx **out)
{
    static const lw_options defaults = {NULL, 0};
    if (!out) return LW_E_ARGUMENT;
    *out = NULL;
    if (!options) options = &defaults;
    if (options->threads < 0 || options->threads > MAX_THREADS) return LW_E_ARGUMENT;
    const char *isa = options->isa;
    if (!isa) {
        isa = getenv("LANEWISE_ISA");
        if (isa && !*isa) isa = NULL;
    }
    lw_status status = LW_OK;
    const lw_kernels *kernels = lw_isa_find(isa, &status);
    if (status != LW_OK) return status;
    if (!kernels) return LW_E_ISA;

    lw_machine machine;
    lw_machine_query(&machine);
    lw_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx) return LW_E_MEMORY;
    ctx->kernels = kernels;
    ctx->amd = machine.amd;
    /* Sizes that nearly every machine has at least, where the system does not tell. */
    ctx->l1d = machine.l1d ? machine.l1d : 32 << 10;
    ctx->l2 = machine.l2 ? machine.l2 : 256 << 10;
    ctx->far = machine.l3 && machine.l3 < FAR_BYTES ? machine.l3 : FAR_BYTES;
    status = lw_pool_create(options->threads ? options->threads : machine.threads, &ctx->pool);
    if (status != LW_OK) {
        free(ctx);
        return status;
    }
    *out = ctx;
    return LW_OK;
}

void lw_ctx_free(lw_ctx *ctx)
{
    if (!ctx) return;
    lw_pool_free(ctx->pool);
    lw_block_free(&ctx->slots);
    lw_block_free(&ctx->scratch);
    lw_block_free(&ctx->angles);
    free(ctx);
}

const char *lw_ctx_isa(const lw_ctx *ctx) { return ctx->kernels->name; }
int lw_ctx_threads(const lw_ctx *ctx) { return lw_pool_threads(ctx->pool); }
int lw_ctx_has_dot(const lw_ctx *ctx) { return ctx->kernels->tile_dot != NULL; }

void lw_ctx_set_poll(lw_ctx *ctx, int (*poll)(void *), void *arg) { lw_pool_set_poll(ctx->pool, poll, arg); }

/* Somebody else in the process may have set flush-to-zero or another rounding: that would change bits. Leaving restores
 * the exception flags too, so that a caller who inspects them sees only its own. */
#if defined(__x86_64__)
lw_fp lw_fp_enter(void)
{
    lw_fp fp = {__builtin_ia32_stmxcsr()};
    __builtin_ia32_ldmxcsr(0x1f80);
    return fp;
}
void lw_fp_leave(lw_fp fp) { __builtin_ia32_ldmxcsr(fp.state); }
#else
lw_fp lw_fp_enter(void) { return (lw_fp){0}; }
void lw_fp_leave(lw_fp fp) { (void)fp; }
#endif
