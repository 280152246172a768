/* program.c - a program: made and checked once, played once per step. */
#include "program.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

lw_status lw_program_create(lw_ctx *ctx, const lw_op *ops, int n_ops, const int32_t *slot_width, int n_slots,
                            lw_program **out) {
    *out = NULL;
    if (n_ops < 0 || n_slots < 0 || n_ops > 1 << 20 || n_slots > 1 << 10) return LW_E_ARGUMENT;
    lw_program *p = calloc(1, sizeof *p);
    if (!p) return LW_E_MEMORY;
    p->ctx = ctx, p->n_ops = n_ops, p->n_slots = n_slots;
    p->ops = malloc(((size_t)n_ops + 1) * sizeof *p->ops);
    p->ld = malloc(((size_t)n_slots + 1) * sizeof *p->ld);
    p->width = malloc(((size_t)n_slots + 1) * sizeof *p->width);
    lw_status status = p->ops && p->ld && p->width ? LW_OK : LW_E_MEMORY;
    for (int i = 0; status == LW_OK && i < n_slots; i++) {
        if (slot_width[i] < 0) status = LW_E_ARGUMENT;
        p->width[i] = slot_width[i];
        p->ld[i] = lw_round_up(slot_width[i], LW_LANES);
        /* Rows that lie a multiple of 1 KiB apart would compete for the same few cache sets. */
        if (p->ld[i] * 4 % 1024 == 0) p->ld[i] += LW_LANES;
    }
    for (int i = 0; status == LW_OK && i < n_ops; i++) {
        p->ops[i] = ops[i];
        status = lw_op_check(p, &ops[i]);
        if (ops[i].kind == LW_OP_APPEND || ops[i].kind == LW_OP_ATTEND) p->needs_cache = 1;
    }
    if (status != LW_OK) {
        lw_program_free(p);
        return status;
    }
    *out = p;
    return LW_OK;
}

void lw_program_free(lw_program *p) {
    if (!p) return;
    free(p->ops);
    free(p->ld);
    free(p->width);
    free(p);
}

size_t lw_program_scratch(const lw_program *p, int64_t rows) {
    size_t floats = 0;
    for (int i = 0; i < p->n_slots; i++) floats += (size_t)p->ld[i] * (size_t)rows;
    return floats * sizeof(float);
}

/* Ops name layers and widths of a cache that is only known now. */
static int cache_fits(const lw_program *p, const lw_cache *cache) {
    for (int i = 0; i < p->n_ops; i++) {
        const lw_op *op = &p->ops[i];
        if (op->kind != LW_OP_APPEND && op->kind != LW_OP_ATTEND) continue;
        int heads = op->kind == LW_OP_APPEND ? op->groups : op->attention.kv_heads;
        if (op->layer >= cache->shape.layers || op->width != cache->shape.head_dim || heads != cache->shape.kv_heads)
            return 0;
    }
    return 1;
}

static lw_status check_batch(const lw_program *p, const lw_cache *cache, const lw_batch *b) {
    if (b->rows < 0 || b->n_logits < 0 || b->n_logits > b->rows || b->sequences.count < 0) return LW_E_ARGUMENT;
    if (b->sequences.row_starts[b->sequences.count] != b->rows) return LW_E_ARGUMENT;
    for (int i = 0; i < b->n_logits; i++)
        if (b->logit_rows[i] < (i ? b->logit_rows[i - 1] + 1 : 0) || b->logit_rows[i] >= b->rows) return LW_E_ARGUMENT;
    for (int i = 0; i < p->n_ops; i++) {
        const lw_op *op = &p->ops[i];
        if (op->kind == LW_OP_EMBED)
            for (int r = 0; r < b->rows; r++)
                if (b->tokens[r] < 0 || b->tokens[r] >= op->w->n) return LW_E_ARGUMENT;
        if (op->kind == LW_OP_LINEAR && op->out == LW_LOGITS && b->n_logits && b->ld_logits < op->w->n)
            return LW_E_ARGUMENT;
    }
    if (!p->needs_cache) return LW_OK;
    if (!cache || !cache_fits(p, cache)) return LW_E_ARGUMENT;
    return lw_sequences_check(cache, &b->sequences, NULL);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static lw_status play(lw_step *step) {
    const lw_program *p = step->program;
    int64_t *ns = step->batch->op_ns, before = ns ? now_ns() : 0;
    for (int i = 0; i < p->n_ops; i++) {
        if (!step->rows) return LW_OK;   /* nobody wants logits: the rest would work on no rows */
        LW_TRY(lw_op_run(step, &p->ops[i]));
        if (ns) {
            int64_t after = now_ns();
            ns[i] += after - before;
            before = after;
        }
    }
    return LW_OK;
}

lw_status lw_run(lw_program *p, lw_cache *cache, const lw_batch *b) {
    LW_TRY(check_batch(p, cache, b));
    if (!b->rows) return LW_OK;
    LW_TRY(lw_block_reserve(&p->ctx->slots, lw_program_scratch(p, b->rows)));
    float *slots[1 << 10], *at = p->ctx->slots.data;
    for (int i = 0; i < p->n_slots; i++) {
        slots[i] = at;
        at += p->ld[i] * b->rows;
    }
    lw_step step = {p, cache, b, b->rows, slots};
    lw_fp fp = lw_fp_enter();
    lw_status status = play(&step);
    lw_fp_leave(fp);
    return status;
}
