# What the binding uses of csrc/lanewise.h.
cdef extern from "lanewise.h" nogil:
    ctypedef enum lw_status:
        LW_OK, LW_E_MEMORY, LW_E_ARGUMENT, LW_E_ISA, LW_E_CANCELLED, LW_E_SYSTEM
    ctypedef enum lw_type:
        LW_F32, LW_F16, LW_BF16, LW_I8, LW_U8, LW_I32, LW_BLOCKS
    ctypedef enum lw_format:
        LW_P32, LW_P16, LW_P8, LW_Q4_0, LW_Q4_1, LW_Q5_0, LW_Q5_1, LW_Q8_0, LW_Q2_K, LW_Q3_K, LW_Q4_K, LW_Q5_K, LW_Q6_K
        LW_IQ4_NL, LW_IQ4_XS, LW_MXFP4, LW_IQ2_W, LW_IQ3_XXS_W, LW_IQ3_S_W
    ctypedef enum lw_act:
        LW_ACT_NONE, LW_ACT_SILU, LW_ACT_GELU, LW_ACT_GELU_TANH, LW_ACT_RELU2, LW_ACT_TANH, LW_ACT_EXP
    ctypedef enum lw_op_kind:
        LW_OP_EMBED, LW_OP_ANGLES, LW_OP_NORM, LW_OP_LINEAR, LW_OP_ROPE, LW_OP_APPEND, LW_OP_ATTEND
        LW_OP_ADD, LW_OP_LAST
    ctypedef enum lw_peak:
        LW_PEAK_F32, LW_PEAK_BF16, LW_PEAK_INT8, LW_PEAK_READ, LW_PEAK_BARRIER
    enum:
        LW_PAGE, LW_SEGMENT, LW_NONE, LW_LOGITS
    ctypedef struct lw_ctx:
        pass
    ctypedef struct lw_weight:
        pass
    ctypedef struct lw_cache:
        pass
    ctypedef struct lw_program:
        pass
    ctypedef struct lw_machine:
        char brand[64]
        int logical, physical, affinity, threads, huge_pages
        double quota
        size_t l1d, l2, l3
    ctypedef struct lw_options:
        const char *isa
        int threads
    ctypedef struct lw_source:
        const void *data
        lw_type type
        int64_t rows, row_stride, col_stride
    ctypedef struct lw_gemm_args:
        const void *a
        lw_type a_type
        int64_t lda
        const lw_weight *w
        const lw_source *plain
        int64_t k
        void *c
        lw_type c_type
        int64_t ldc
        const float *row_scale
        const float *column_scale
        const float *bias
        const float *residual
        int64_t ldr
        lw_act act
        int64_t gated, m
        int exact
    ctypedef struct lw_rope_args:
        float *x
        int64_t ldx, tokens
        int heads, head_dim, pairs, interleaved
        const int32_t *positions
        const float *inv_freq
        float factor
    ctypedef struct lw_cache_shape:
        int layers, kv_heads, head_dim
        lw_type type
    ctypedef struct lw_sequences:
        int count
        const int32_t *row_starts
        const int32_t *first_position
        const int32_t *page_table
        int table_width
    ctypedef struct lw_attention_shape:
        int heads, kv_heads
        float scale, softcap
        int causal, window_left, window_right
    ctypedef struct lw_attend_args:
        const float *q
        int64_t ldq
        float *out
        int64_t ldo
        float *lse
        int layer, exact
        const int32_t *kv_length
        lw_attention_shape shape
    ctypedef struct lw_op:
        int32_t kind, in_ "in", in2, out
        int32_t column, column2, width, groups, pairs, variant, layer, exact, in_dot, out_dot
        float eps, scale
        const lw_weight *w
        const float *vec
        const float *bias
        lw_attention_shape attention
    ctypedef struct lw_batch:
        int rows
        const int32_t *tokens
        lw_sequences sequences
        int n_logits
        const int32_t *logit_rows
        float *logits
        int64_t ld_logits
        int64_t *op_ns

    const char *lw_status_text(lw_status)
    void lw_machine_query(lw_machine *)
    int lw_isa_count()
    const char *lw_isa_name(int)
    const char *lw_isa_missing(int)
    lw_status lw_ctx_create(const lw_options *, lw_ctx **)
    void lw_ctx_free(lw_ctx *)
    const char *lw_ctx_isa(const lw_ctx *)
    int lw_ctx_threads(const lw_ctx *)
    int lw_ctx_has_dot(const lw_ctx *)
    void lw_ctx_set_poll(lw_ctx *, int (*)(void *) noexcept, void *)
    lw_status lw_weight_create(lw_format, int64_t, int64_t, lw_weight **)
    int64_t lw_weight_size(lw_format, int64_t, int64_t)
    int64_t lw_weight_row_bytes(const lw_weight *)
    void lw_weight_free(lw_weight *)
    int64_t lw_weight_n(const lw_weight *)
    int64_t lw_weight_k(const lw_weight *)
    lw_format lw_weight_format(const lw_weight *)
    size_t lw_weight_bytes(const lw_weight *)
    lw_status lw_weight_pack(lw_ctx *, lw_weight *, int64_t, int, const lw_source *)
    lw_status lw_weight_unpack(const lw_weight *, int64_t, int64_t, float *)
    lw_status lw_weight_borrow(lw_format, int64_t, int64_t, const void *, lw_weight **)
    lw_status lw_weight_place(lw_format, int64_t, int64_t, void *, lw_weight **)
    lw_status lw_memory_alloc(size_t, void **)
    void lw_memory_free(void *, size_t)
    lw_status lw_weight_set_order(lw_weight *, const int32_t *)
    const void *lw_weight_lines(const lw_weight *)
    lw_status lw_weight_finite(lw_ctx *, const lw_weight *, int64_t *)
    lw_status lw_weight_checksum(lw_ctx *, const lw_weight *, uint64_t *)
    lw_status lw_gemm(lw_ctx *, const lw_gemm_args *)
    lw_status lw_rms_norm(lw_ctx *, int64_t, int64_t, const float *, int64_t, const float *, float, float *, int64_t)
    lw_status lw_layer_norm(lw_ctx *, int64_t, int64_t, const float *, int64_t, const float *, const float *, float,
                            float *, int64_t)
    lw_status lw_softmax(lw_ctx *, int64_t, int64_t, const float *, int64_t, float *, int64_t)
    lw_status lw_activation(lw_ctx *, lw_act, int64_t, const float *, float *)
    lw_status lw_mul_activation(lw_ctx *, lw_act, int64_t, const float *, const float *, float *)
    lw_status lw_rope(lw_ctx *, const lw_rope_args *)
    lw_status lw_cache_create(const lw_cache_shape *, lw_cache **)
    void lw_cache_free(lw_cache *)
    size_t lw_cache_page_bytes(const lw_cache *)
    int64_t lw_cache_pages(const lw_cache *)
    lw_status lw_cache_reserve(lw_cache *, int64_t)
    lw_status lw_cache_copy_page(lw_cache *, int32_t, int32_t)
    lw_status lw_cache_append(lw_ctx *, lw_cache *, int, const lw_sequences *, const float *, int64_t, const float *,
                              int64_t)
    lw_status lw_attend(lw_ctx *, lw_cache *, const lw_sequences *, const lw_attend_args *)
    lw_status lw_program_create(lw_ctx *, const lw_op *, int, const int32_t *, int, lw_program **)
    void lw_program_free(lw_program *)
    size_t lw_program_scratch(const lw_program *, int64_t)
    lw_status lw_run(lw_program *, lw_cache *, const lw_batch *)
    lw_status lw_measure(lw_ctx *, lw_peak, size_t, double *, double *)
