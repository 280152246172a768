/* What sides_ik_llama.py calls of ik_llama.cpp with structures by value. It is compiled against the llama.h of the checkout
 * whose library it calls: their members change from week to week, and a wrong layout would not be noticed. */
#include "llama.h"

enum { ROWS = 512 }; /* tokens of one batch */

static void no_log(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

/* A model on the CPU; repack: -rtr, else mapped from the file. NULL: it does not load. */
struct llama_model *ik_load(const char *file, int repack) {
    llama_log_set(no_log, NULL);
    llama_backend_init();
    struct llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.repack_tensors = repack;
    return llama_model_load_from_file(file, params);
}

/* A context of `cells` tokens of all sequences together; q8_0: keys and values are, which needs flash attention; else
 * they are float16, the default. NULL: there is not enough memory. */
struct llama_context *ik_context(struct llama_model *model, int cells, int sequences, int threads, int flash,
                                 int q8_0) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = cells;
    params.n_seq_max = sequences;
    params.n_batch = params.n_ubatch = ROWS;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn = flash;
    if (q8_0) params.type_k = params.type_v = GGML_TYPE_Q8_0;
    return llama_init_from_model(model, params);
}

/* One llama_decode of n <= ROWS tokens, each of one sequence. The answer is its own: 0 is good. */
int ik_decode(struct llama_context *context, int n, int32_t *tokens, int32_t *positions, int32_t *sequences,
              int8_t *logits) {
    static int32_t ones[ROWS];
    static llama_seq_id *each[ROWS];
    if (n < 1 || n > ROWS) return -1;
    for (int i = 0; i < n; i++) {
        ones[i] = 1;
        each[i] = sequences + i;
    }
    struct llama_batch batch = {0};
    batch.n_tokens = n;
    batch.token = tokens;
    batch.pos = positions;
    batch.n_seq_id = ones;
    batch.seq_id = each;
    batch.logits = logits;
    int status = llama_decode(context, batch);
    if (status == 0) llama_synchronize(context);
    return status;
}
