/* ops.c - one op of a program: its checks, and the call of its driver. */
#include "program.h"
#include "rowwise.h"
#include <string.h>

typedef struct op_job {
    const lw_step *step;
    const lw_op *op;
    int64_t parts;           /* pieces of a row, for ops that cut rows */
} op_job;

static float *row_of(const lw_step *step, int slot, int64_t row) {
    return step->slot[slot] + row * step->program->ld[slot];
}

static void embed_rows(void *arg, int64_t first, int64_t last) {
    const op_job *j = arg;
    const lw_op *op = j->op;
    for (int64_t i = first; i < last; i++) {
        float *out = row_of(j->step, op->out, i);
        lw_weight_row(op->w, j->step->batch->tokens[i], out);
        if (op->scale != 1.0f)
            for (int64_t k = 0; k < op->w->k; k++) out[k] *= op->scale;
    }
}

static void angles_rows(void *arg, int64_t first, int64_t last) {
    const op_job *j = arg;
    const lw_sequences *s = &j->step->batch->sequences;
    int seq = 0;
    for (int64_t i = first; i < last; i++) {
        while (i >= s->row_starts[seq + 1]) seq++;
        float *out = row_of(j->step, j->op->out, i);
        lw_angles(s->first_position[seq] + (int32_t)(i - s->row_starts[seq]), j->op->pairs, j->op->vec, j->op->scale,
                  out, out + j->op->pairs);
    }
}

static void norm_rows(void *arg, int64_t first, int64_t last) {
    const op_job *j = arg;
    const lw_op *op = j->op;
    const lw_kernels *kernels = j->step->program->ctx->kernels;
    for (int64_t i = first; i < last; i++) {
        const float *x = row_of(j->step, op->in, i) + op->column;
        float *y = row_of(j->step, op->out, i) + op->column;
        for (int g = 0; g < op->groups; g++, x += op->width, y += op->width) {
            if (op->variant) kernels->layer_norm((size_t)op->width, x, op->vec, op->bias, op->eps, y);
            else kernels->rms_norm((size_t)op->width, x, op->vec, op->eps, y);
        }
    }
}

static void rope_rows(void *arg, int64_t first, int64_t last) {
    const op_job *j = arg;
    const lw_op *op = j->op;
    for (int64_t i = first; i < last; i++) {
        const float *angles = row_of(j->step, op->in2, i);
        j->step->program->ctx->kernels->rope(row_of(j->step, op->out, i) + op->column, op->groups, op->width,
                                             op->pairs, op->variant, angles, angles + op->pairs);
    }
}

/* Rows are cut into pieces, so that one row of a decode step is shared out too. */
static void piece_rows(void *arg, int64_t first, int64_t last) {
    const op_job *j = arg;
    const lw_op *op = j->op;
    const lw_kernels *kernels = j->step->program->ctx->kernels;
    int64_t lines = lw_ceil_div(op->width, LW_LANES);
    for (int64_t i = first; i < last; i++) {
        int64_t row = i / j->parts, part = i % j->parts;
        int64_t from = lines * part / j->parts * LW_LANES, to = lines * (part + 1) / j->parts * LW_LANES;
        to = lw_min(to, op->width);
        size_t n = (size_t)(to - from);
        float *y = row_of(j->step, op->out, row) + from;
        const float *x = row_of(j->step, op->in, row) + from;
        kernels->add(n, x, row_of(j->step, op->in2, row) + from, y);
    }
}

static void last_rows(void *arg, int64_t first, int64_t last) {
    const op_job *j = arg;
    for (int64_t i = first; i < last; i++)
        memcpy(row_of(j->step, j->op->out, i), row_of(j->step, j->op->in, j->step->batch->logit_rows[i]),
               (size_t)j->op->width * sizeof(float));
}

static lw_status linear(const lw_step *step, const lw_op *op) {
    const lw_program *p = step->program;
    int logits = op->out == LW_LOGITS, dot = p->ctx->kernels->tile_dot != NULL, from = dot && op->in_dot, to = dot && op->out_dot;
    lw_gemm_args args = {.a = step->slot[op->in] + op->column, .lda = p->ld[op->in] << from, .w = op->w, .bias = op->bias,
                         .m = step->rows, .exact = op->exact, .act = (lw_act)op->variant, .gated = op->width,
                         .a_type = from ? LW_BF16 : LW_F32, .c_type = to ? LW_BF16 : LW_F32, .c_dot = to};
    args.c = logits ? step->batch->logits : step->slot[op->out] + op->column2;
    args.ldc = logits ? step->batch->ld_logits : p->ld[op->out] << to;
    if (op->in2 >= 0) args.residual = step->slot[op->in2], args.ldr = p->ld[op->in2];
    return lw_gemm_run(p->ctx, &args);
}

static lw_status attention_op(const lw_step *step, const lw_op *op) {
    const lw_program *p = step->program;
    const lw_sequences *s = &step->batch->sequences;
    float *in = step->slot[op->in];
    int64_t ld = p->ld[op->in];
    if (op->kind == LW_OP_APPEND)
        return lw_append_run(p->ctx, step->cache, op->layer, s, in + op->column, ld, in + op->column2, ld);
    lw_attend_args args = {.q = in + op->column, .ldq = ld, .out = step->slot[op->out], .ldo = p->ld[op->out],
                           .layer = op->layer, .exact = op->exact, .shape = op->attention};
    return lw_attend_run(p->ctx, step->cache, s, &args);
}

lw_status lw_op_run(lw_step *step, const lw_op *op) {
    op_job job = {step, op, 1};
    lw_ctx *ctx = step->program->ctx;
    switch ((lw_op_kind)op->kind) {
    case LW_OP_EMBED: return lw_rows_run(ctx, step->rows, op->w->k * 4, embed_rows, &job);
    case LW_OP_ANGLES: return lw_rows_run(ctx, step->rows, op->pairs * 32, angles_rows, &job);
    case LW_OP_NORM: return lw_rows_run(ctx, step->rows, (int64_t)op->groups * op->width, norm_rows, &job);
    case LW_OP_ROPE: return lw_rows_run(ctx, step->rows, (int64_t)op->groups * op->width, rope_rows, &job);
    case LW_OP_LINEAR: return linear(step, op);
    case LW_OP_APPEND:
    case LW_OP_ATTEND: return attention_op(step, op);
    case LW_OP_ADD:
        job.parts = lw_max(1, lw_min(lw_ceil_div(op->width, 1024), lw_pool_threads(ctx->pool)));
        return lw_rows_run(ctx, step->rows * job.parts, (int64_t)op->width * 4 / job.parts, piece_rows, &job);
    case LW_OP_LAST:
        step->rows = step->batch->n_logits;
        return lw_rows_run(ctx, step->rows, op->width, last_rows, &job);
    }
    return LW_E_ARGUMENT;
}

/* ---- checks, once, when a program is made ---- */

static int holds(const lw_program *p, int slot, int64_t columns) {
    return slot >= 0 && slot < p->n_slots && columns >= 0 && columns <= p->width[slot];
}

static int attention_fits(const lw_program *p, const lw_op *op) {
    const lw_attention_shape *s = &op->attention;
    return s->heads >= 1 && s->kv_heads >= 1 && s->heads % s->kv_heads == 0 && op->layer >= 0 && op->width >= 1 &&
           holds(p, op->in, op->column + (int64_t)s->heads * op->width) &&
           holds(p, op->out, (int64_t)s->heads * op->width);
}

static int fits(const lw_program *p, const lw_op *op) {
    int64_t run = (int64_t)op->groups * op->width;
    if (op->column < 0 || op->column2 < 0 || op->width < 0 || op->groups < 0 || op->pairs < 0) return 0;
    switch ((lw_op_kind)op->kind) {
    case LW_OP_EMBED: return op->w && holds(p, op->out, op->w->k);
    case LW_OP_ANGLES: return op->vec && holds(p, op->out, 2 * (int64_t)op->pairs);
    case LW_OP_NORM: return op->width && holds(p, op->in, op->column + run) && holds(p, op->out, op->column + run);
    case LW_OP_LINEAR: {
        if (!op->w || (op->width && op->w->n != 2 * lw_round_up(op->width, LW_LANES))) return 0;
        if (op->in_dot && (op->column || op->exact || op->w->format != LW_P16)) return 0;
        if (op->out_dot && (op->column2 || op->out == LW_LOGITS || op->out == op->in2)) return 0;
        int64_t n = op->width ? op->width : op->w->n;
        return holds(p, op->in, op->column + op->w->k) && (op->in2 == LW_NONE || holds(p, op->in2, n)) &&
               (op->out == LW_LOGITS || holds(p, op->out, op->column2 + n)) && op->variant >= 0 && op->variant <= LW_ACT_EXP;
    }
    case LW_OP_ROPE:
        return 2 * (int64_t)op->pairs <= op->width && holds(p, op->out, op->column + run) &&
               holds(p, op->in2, 2 * (int64_t)op->pairs);
    case LW_OP_APPEND:
        return op->layer >= 0 && holds(p, op->in, op->column + run) && holds(p, op->in, op->column2 + run);
    case LW_OP_ATTEND: return attention_fits(p, op);
    case LW_OP_ADD: return holds(p, op->out, op->width) && holds(p, op->in, op->width) && holds(p, op->in2, op->width);
    case LW_OP_LAST: return op->in != op->out && holds(p, op->out, op->width) && holds(p, op->in, op->width);
    }
    return 0;
}

lw_status lw_op_check(const lw_program *program, const lw_op *op) { return fits(program, op) ? LW_OK : LW_E_ARGUMENT; }
