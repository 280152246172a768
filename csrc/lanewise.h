/* lanewise.h - the whole public C API. START HERE.
 *
 * A context (lw_ctx) holds a kernel table, a thread pool and a scratch arena. Weights are packed into lines once
 * (lw_weight), keys and values live in pages (lw_cache), and a program (lw_program) is a flat list of operations that
 * lw_run plays for a batch of sequences at any mix of positions. Nothing here prints, exits or aborts; what can fail
 * returns lw_status. Handles own their memory; arrays are borrowed for one call. One context serves one call at a time.
 */
#ifndef LANEWISE_H
#define LANEWISE_H
#include <stddef.h>
#include <stdint.h>

typedef enum lw_status {
    LW_OK = 0,
    LW_E_MEMORY,      /* an allocation failed */
    LW_E_ARGUMENT,    /* a size, index or pointer is out of range */
    LW_E_ISA,         /* unknown instruction set, or this machine cannot run it */
    LW_E_CANCELLED,   /* the poll function asked to stop */
    LW_E_SYSTEM       /* the system refused a thread or a mapping */
} lw_status;
const char *lw_status_text(lw_status status);

/* Element types of plain arrays; LW_BLOCKS (packing only): rows of GGUF blocks of the weight's own format. */
typedef enum lw_type { LW_F32 = 0, LW_F16, LW_BF16, LW_I8, LW_U8, LW_I32, LW_BLOCKS } lw_type;
/* Packed formats, see format.h; from LW_Q4_0 on those of GGUF, lossless, and the wider ones that hold more of its types (quant.h). */
typedef enum lw_format { LW_P32 = 0, LW_P16, LW_P8, LW_Q4_0 = 8, LW_Q4_1, LW_Q5_0, LW_Q5_1, LW_Q8_0, LW_Q2_K, LW_Q3_K, LW_Q4_K,
                         LW_Q5_K, LW_Q6_K, LW_IQ4_NL, LW_IQ4_XS, LW_MXFP4, LW_IQ2_W, LW_IQ3_XXS_W, LW_IQ3_S_W } lw_format;
size_t lw_type_size(lw_type type);

/* ---- the machine ---------------------------------------------------------------------------------------------- */
typedef struct lw_machine {
    char brand[64];
    int amd;                     /* 1: AMD makes it */
    int logical, physical;       /* CPUs that are online */
    int affinity;                /* CPUs that this process may run on */
    double quota;                /* cgroup CPU quota in CPUs, 0 = none */
    int threads;                 /* the least of the above, at least 1: the default */
    size_t l1d, l2, l3;          /* bytes, 0 = unknown */
    int huge_pages;              /* transparent huge pages: 0 never, 1 madvise, 2 always */
} lw_machine;
void lw_machine_query(lw_machine *out);

int lw_isa_count(void);                      /* tables in this build, best first */
const char *lw_isa_name(int index);          /* "avx512_bf16", "avx512_vnni", ..., "scalar" */
const char *lw_isa_missing(int index);       /* NULL if usable here, else the missing feature in words */

/* ---- context -------------------------------------------------------------------------------------------------- */
typedef struct lw_ctx lw_ctx;
typedef struct lw_options {
    const char *isa;             /* NULL: the best usable table (avx512_bf16 only where it is faster) */
    int threads;                 /* 0: lw_machine.threads */
} lw_options;
lw_status lw_ctx_create(const lw_options *options, lw_ctx **out);
void lw_ctx_free(lw_ctx *ctx);
const char *lw_ctx_isa(const lw_ctx *ctx);
int lw_ctx_threads(const lw_ctx *ctx);
int lw_ctx_has_dot(const lw_ctx *ctx);       /* 1 if the table has a bf16 dot product (numerics "fast") */
/* poll(arg) is called now and then (about every 50 ms) by the thread that called into the library; nonzero stops the
 * call with LW_E_CANCELLED. */
void lw_ctx_set_poll(lw_ctx *ctx, int (*poll)(void *), void *arg);

/* ---- packed weights: n outputs x k inputs (row i of the source = weights of output i) ---------------------------- */
typedef struct lw_weight lw_weight;
lw_status lw_weight_create(lw_format format, int64_t n, int64_t k, lw_weight **out);   /* zero-filled lines */
int64_t lw_weight_size(lw_format format, int64_t n, int64_t k);   /* the bytes that would take, or -1 */
void lw_weight_free(lw_weight *w);
int64_t lw_weight_n(const lw_weight *w);
int64_t lw_weight_k(const lw_weight *w);
lw_format lw_weight_format(const lw_weight *w);
size_t lw_weight_bytes(const lw_weight *w);  /* of the lines and the order */
int64_t lw_weight_row_bytes(const lw_weight *w);   /* of a source row of LW_BLOCKS; 0 if the format takes none */
/* Packs `rows` source rows (k elements each, row_stride and col_stride in bytes). Source row i becomes output
 * row0 + i when step = 1. With step > 1 whole panels of 16 alternate: source row i becomes output
 * row0 + (i / 16) * 16 * step + i % 16 (gate and up interleaved: step 2, row0 0 and 16; rows must be padded to 16 by
 * zero rows of the weight itself). Conversion: to P32 exact; to P16 round to nearest even; to P8 from int8 only, exact.
 * Quantised formats take LW_BLOCKS only (col_stride is ignored); their k is a whole number of blocks. */
typedef struct lw_source {
    const void *data;
    lw_type type;
    int64_t rows, row_stride, col_stride;
} lw_source;
lw_status lw_weight_pack(lw_ctx *ctx, lw_weight *w, int64_t row0, int step, const lw_source *source);
lw_status lw_weight_unpack(const lw_weight *w, int64_t row0, int64_t rows, float *out);  /* out[rows][k] */
/* Quantised formats: what is packed as input i is input order[i], a permutation of 0 .. k-1, copied. Products gather their
 * activations so before they quantise them; unpacked rows are in the order of the inputs. Before w is used, and once. */
lw_status lw_weight_set_order(lw_weight *w, const int32_t *order);
/* A weight over lines that lie elsewhere: lw_weight_size bytes at a multiple of 64, borrowed for w's life. Not for P8, which keeps
 * sums beside them. lw_weight_borrow: what lw_weight_lines gave, written to a file and mapped; never written, any bytes are
 * safe. lw_weight_place: zeros, to be packed into. */
lw_status lw_weight_borrow(lw_format format, int64_t n, int64_t k, const void *lines, lw_weight **out);
lw_status lw_weight_place(lw_format format, int64_t n, int64_t k, void *lines, lw_weight **out);
/* One piece of memory for the lines of many weights: zeros, at a multiple of 64, from 2 MiB on at a multiple of 2 MiB and advised
 * for huge pages. The caller has checked that the size did not overflow. */
lw_status lw_memory_alloc(size_t bytes, void **out);
void lw_memory_free(void *memory, size_t bytes);
const void *lw_weight_lines(const lw_weight *w);
/* *row: the first output of a quantised weight with a scale or minimum that is infinite or NaN; -1: none. */
lw_status lw_weight_finite(lw_ctx *ctx, const lw_weight *w, int64_t *row);
/* 64 bits over all lines, the same for any number of threads: finds damage, does not keep out malice. */
lw_status lw_weight_checksum(lw_ctx *ctx, const lw_weight *w, uint64_t *out);

/* ---- kernels on plain float32 arrays (strides in elements, innermost contiguous) --------------------------------- */
typedef enum lw_act { LW_ACT_NONE = 0, LW_ACT_SILU, LW_ACT_GELU, LW_ACT_GELU_TANH, LW_ACT_RELU2, LW_ACT_TANH,
                      LW_ACT_EXP } lw_act;
/* c[m][n] = act(a[m][k] . w[n][k]^T (* column_scale[n] * row_scale[m]) (+ bias[n])) (+ residual[m][n])
 * P32, P16 and plain floats: a float32 or bfloat16. Quantised: a float32. P8: a int8 or uint8, and c may be the int32
 * sums themselves (then nothing else is given); or a float32, rounded here to int8 with one scale per row (largest
 * magnitude / 127; no row_scale then). */
typedef struct lw_gemm_args {
    const void *a; lw_type a_type; int64_t lda;
    const lw_weight *w;
    const lw_source *plain;          /* instead of w: b as it lies, packed in passing (float types as P32, int8 as P8) */
    int64_t k;                       /* of plain */
    void *c; lw_type c_type; int64_t ldc;      /* float32, bfloat16 or int32 */
    const float *row_scale, *column_scale;     /* P8 only; NULL: ones */
    const float *bias;               /* NULL: none */
    const float *residual; int64_t ldr;   /* NULL: none; may equal a float32 c */
    lw_act act;
    int64_t gated;                   /* > 0: w (its bias, scales) alternates 16 gate, 16 up rows: c[m][gated] = act(gate) * up */
    int64_t m;
    int exact;                       /* P16: 1 = widen to float32 even where a bf16 dot exists */
    int c_dot;                       /* a bfloat16 c is read by a bf16 dot only: subnormals may become zeros */
} lw_gemm_args;
lw_status lw_gemm(lw_ctx *ctx, const lw_gemm_args *args);
lw_status lw_rms_norm(lw_ctx *ctx, int64_t rows, int64_t n, const float *x, int64_t ldx, const float *w, float eps,
                      float *y, int64_t ldy);                      /* w NULL: ones */
lw_status lw_layer_norm(lw_ctx *ctx, int64_t rows, int64_t n, const float *x, int64_t ldx, const float *w,
                        const float *b, float eps, float *y, int64_t ldy);
lw_status lw_softmax(lw_ctx *ctx, int64_t rows, int64_t n, const float *x, int64_t ldx, float *y, int64_t ldy);
lw_status lw_activation(lw_ctx *ctx, lw_act act, int64_t n, const float *x, float *y);
lw_status lw_mul_activation(lw_ctx *ctx, lw_act act, int64_t n, const float *gate, const float *up, float *y);
/* Rotary embedding, in place: x[tokens][heads][head_dim] (ldx from token to token), the first 2*pairs dims of each head. */
typedef struct lw_rope_args {
    float *x; int64_t ldx;
    int64_t tokens;
    int heads, head_dim, pairs;
    int interleaved;                 /* 0: (i, i + pairs) "half", 1: (2i, 2i+1) */
    const int32_t *positions;        /* [tokens] */
    const float *inv_freq;           /* [pairs] */
    float factor;                    /* multiplies cos and sin */
} lw_rope_args;
lw_status lw_rope(lw_ctx *ctx, const lw_rope_args *args);

/* ---- the paged KV cache -------------------------------------------------------------------------------------------- */
enum { LW_PAGE = 64, LW_SEGMENT = 256 };     /* tokens per page; positions per attention segment (see attention.c) */
typedef struct lw_cache lw_cache;
typedef struct lw_cache_shape {
    int layers, kv_heads, head_dim;
    lw_type type;                    /* LW_F32 or LW_BF16 */
} lw_cache_shape;
lw_status lw_cache_create(const lw_cache_shape *shape, lw_cache **out);
void lw_cache_free(lw_cache *cache);
size_t lw_cache_page_bytes(const lw_cache *cache);
int64_t lw_cache_pages(const lw_cache *cache);                       /* pages that exist */
lw_status lw_cache_reserve(lw_cache *cache, int64_t pages);          /* grow to at least this many */
lw_status lw_cache_copy_page(lw_cache *cache, int32_t from, int32_t to);

/* Sequences of a batch. Rows (tokens) of sequence s are row_starts[s] .. row_starts[s+1]-1, at consecutive positions
 * from first_position[s]; its page for position p is page_table[s * table_width + p / LW_PAGE]. */
typedef struct lw_sequences {
    int count;
    const int32_t *row_starts;       /* [count + 1] */
    const int32_t *first_position;   /* [count] */
    const int32_t *page_table;       /* [count][table_width] */
    int table_width;
} lw_sequences;

typedef struct lw_attention_shape {
    int heads, kv_heads;             /* heads % kv_heads == 0; q head h reads kv head h / (heads / kv_heads) */
    float scale, softcap;            /* softcap 0: none; else softcap * tanh(score * scale / softcap) */
    int causal;                      /* 1: keys up to the row's own position */
    int window_left, window_right;   /* -1: unlimited; else keys within [position - left, position + right] */
} lw_attention_shape;
/* k, v [rows][kv_heads * head_dim] are written at the rows' positions in `layer`. */
lw_status lw_cache_append(lw_ctx *ctx, lw_cache *cache, int layer, const lw_sequences *s, const float *k, int64_t ldk,
                          const float *v, int64_t ldv);
/* out[rows][heads * head_dim]. kv_length[s]: keys of sequence s (NULL: up to its last row). exact as in lw_gemm_args. */
typedef struct lw_attend_args {
    const float *q; int64_t ldq;
    float *out; int64_t ldo;
    float *lse;                      /* [rows][heads] log-sum-exp, or NULL */
    int layer, exact;
    const int32_t *kv_length;
    lw_attention_shape shape;
} lw_attend_args;
lw_status lw_attend(lw_ctx *ctx, lw_cache *cache, const lw_sequences *s, const lw_attend_args *args);

/* ---- programs ------------------------------------------------------------------------------------------------------ */
typedef enum lw_op_kind {
    LW_OP_EMBED = 0,   /* out = rows of weight `w` at the batch's tokens, times scale */
    LW_OP_ANGLES,      /* out = cos | sin of position * vec[i] times scale; `pairs` frequencies */
    LW_OP_NORM,        /* out = norm(in) over `groups` runs of `width` columns from `column`; vec, bias, eps, layer norm if `variant` */
    LW_OP_LINEAR,      /* out[column2..] = act(in . w^T (+ bias)) (+ residual slot `in2` if >= 0), act = variant; `width` > 0:
                          so many outputs of gate and up, see lw_gemm_args; out = LW_LOGITS: the batch's logits. in_dot, out_dot: the
                          slot holds whole rows as the bfloat16 dot product would round them: bfloat16 on tables that have one */
    LW_OP_ROPE,        /* in place on `out`: `groups` heads of `width` from `column`; angles in slot `in2`; interleaved if `variant` */
    LW_OP_APPEND,      /* slot `in`: keys at `column`, values at `column2`; cache layer `layer` */
    LW_OP_ATTEND,      /* slot `in`: queries at `column`; out = attention; layer, attention */
    LW_OP_ADD,         /* out = in + in2 */
    LW_OP_LAST         /* out = the rows of `in` whose logits are wanted; ops after it run on those rows only */
} lw_op_kind;
enum { LW_NONE = -1, LW_LOGITS = -2 };

typedef struct lw_op {
    int32_t kind, in, in2, out;      /* slots of the arena, LW_NONE if unused */
    int32_t column, column2, width, groups, pairs, variant, layer, exact, in_dot, out_dot;
    float eps, scale;
    const lw_weight *w;
    const float *vec, *bias;         /* borrowed for the program's life; lengths padded to 16 */
    lw_attention_shape attention;
} lw_op;

typedef struct lw_program lw_program;
/* ops are copied; slot i holds rows of slot_width[i] float32. */
lw_status lw_program_create(lw_ctx *ctx, const lw_op *ops, int n_ops, const int32_t *slot_width, int n_slots,
                            lw_program **out);
void lw_program_free(lw_program *program);
size_t lw_program_scratch(const lw_program *program, int64_t rows);  /* arena bytes for a step of so many rows */

typedef struct lw_batch {
    int rows;
    const int32_t *tokens;           /* [rows] */
    lw_sequences sequences;
    int n_logits;
    const int32_t *logit_rows;       /* [n_logits] ascending rows whose logits are wanted */
    float *logits; int64_t ld_logits;  /* [n_logits][ld_logits] */
    int64_t *op_ns;                  /* [n_ops] nanoseconds are added per op, or NULL */
} lw_batch;
lw_status lw_run(lw_program *program, lw_cache *cache, const lw_batch *batch);

/* ---- measuring ----------------------------------------------------------------------------------------------------- */
typedef enum lw_peak { LW_PEAK_F32 = 0, LW_PEAK_BF16, LW_PEAK_INT8, LW_PEAK_READ, LW_PEAK_BARRIER } lw_peak;
/* One burst on the context's threads: operations (or bytes read, or barriers passed) and seconds. bytes: working set of
 * LW_PEAK_READ per context. Returns LW_E_ARGUMENT if the table has no such instruction. */
lw_status lw_measure(lw_ctx *ctx, lw_peak what, size_t bytes, double *work, double *seconds);
#endif
