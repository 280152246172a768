/* fuzz_pack.c - the C that reads a file's bytes: packing rows of blocks or numbers as they lie in a mapped file, unpacking them, and
 * products with lines from a packed cache. Sources are allocated as long as they are, at any address, for ASan to watch; what is
 * packed must not depend on the other rows, nor products on the table. With clang's -fsanitize=fuzzer a target of libFuzzer; with
 * FUZZ_MAIN a program that draws inputs (-runs=N -seed=S -artifact_prefix=P), or repeats the files that it is given. */
#include "../lanewise.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                            \
    do {                                                                           \
        if (condition) break;                                                      \
        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
        abort();                                                                   \
    } while (0)

/* The bytes of an input, then numbers that follow from them. */
typedef struct input { const uint8_t *at; size_t left; uint64_t more; } input;

static uint8_t byte(input *in)
{
    if (in->left) {
        in->left--;
        in->more = (in->more ^ *in->at) * 0x9e3779b97f4a7c15u;
        return *in->at++;
    }
    in->more ^= in->more << 13, in->more ^= in->more >> 7, in->more ^= in->more << 17;
    in->more += !in->more;
    return (uint8_t)(in->more >> 24);
}

static int64_t below(input *in, int64_t n)
{
    int64_t x = byte(in);
    if (n > 256) x = x << 8 | byte(in);
    return x % n;
}

static void fill(input *in, void *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)out)[i] = byte(in);
}

static void *exactly(size_t bytes)
{
    void *p = malloc(bytes);
    MUST(p || !bytes);
    return p;
}

/* ---- tables -------------------------------------------------------------------------------------------------------- */
enum { TABLES = 32 };
static lw_ctx *contexts[TABLES], *scalar;
static int n_tables;

static void open_tables(void)
{
    for (int i = 0; i < lw_isa_count() && n_tables < TABLES; i++) {
        if (lw_isa_missing(i) || !strncmp(lw_isa_name(i), "broken", 6)) continue;
        MUST(lw_ctx_create(&(lw_options){lw_isa_name(i), 1}, &contexts[n_tables]) == LW_OK);
        if (!strcmp(lw_isa_name(i), "scalar")) scalar = contexts[n_tables];
        else n_tables++;
    }
    MUST(scalar && n_tables);
}

/* ---- a source ------------------------------------------------------------------------------------------------------ */
typedef struct problem {
    lw_format format;
    int64_t n, k, row0, last;        /* last: the output that the last row becomes */
    int step;
    lw_source source;
    size_t row_bytes;                /* of a row whose numbers lie beside each other */
    unsigned char *memory;
} problem;

static const lw_format formats[] = {LW_P32, LW_P16, LW_P8, LW_Q4_0, LW_Q4_1, LW_Q5_0, LW_Q5_1, LW_Q8_0, LW_Q2_K, LW_Q3_K, LW_Q4_K, LW_Q5_K,
                                    LW_Q6_K, LW_IQ4_NL, LW_IQ4_XS, LW_MXFP4, LW_IQ2_W, LW_IQ3_XXS_W, LW_IQ3_S_W};
enum { FORMATS = sizeof formats / sizeof *formats };

static problem draw(input *in)
{
    static const lw_type floats[] = {LW_F32, LW_F16, LW_BF16};
    problem p = {.format = formats[below(in, FORMATS)], .n = 1 + below(in, 50), .step = 1};
    const int quantised = p.format >= LW_Q4_0, small = lw_weight_size(p.format, 1, 32) >= 0;
    p.k = !quantised ? 1 + below(in, 600) : small ? 32 * (1 + below(in, 20)) : 256 * (1 + below(in, 3));
    lw_weight *one;
    MUST(lw_weight_create(p.format, 1, p.k, &one) == LW_OK);
    p.source.type = quantised ? LW_BLOCKS : p.format == LW_P8 ? LW_I8 : floats[below(in, 3)];
    const size_t size = quantised ? 1 : lw_type_size(p.source.type);
    p.row_bytes = quantised ? (size_t)lw_weight_row_bytes(one) : (size_t)p.k * size;
    lw_weight_free(one);
    p.source.rows = 1 + below(in, p.n);
    const int kind = byte(in);
    if (kind & 1) p.step = 1 + (kind >> 1 & 3);
    if (kind & 8) p.row0 = below(in, p.n + 1);
    p.last = p.row0 + (p.source.rows - 1) / 16 * 16 * p.step + (p.source.rows - 1) % 16;
    p.source.col_stride = (int64_t)size, p.source.row_stride = (int64_t)p.row_bytes;
    if (kind & 16) p.source.row_stride += below(in, 9);
    if ((kind & 96) == 96 && !quantised) p.source.row_stride = (int64_t)size, p.source.col_stride = p.source.rows * (int64_t)size;
    const size_t offset = kind & 128 ? (size_t)below(in, 8) : 0;
    const size_t columns = quantised ? p.row_bytes : (size_t)((p.k - 1) * p.source.col_stride) + size;
    const size_t bytes = (size_t)((p.source.rows - 1) * p.source.row_stride) + columns;
    p.memory = exactly(offset + bytes);
    fill(in, p.memory + offset, bytes);
    p.source.data = p.memory + offset;
    return p;
}

/* A row of the source by itself, its numbers beside each other. */
static unsigned char *lifted(const problem *p, int64_t row)
{
    unsigned char *out = exactly(p->row_bytes);
    const unsigned char *from = (const unsigned char *)p->source.data + row * p->source.row_stride;
    const size_t size = p->format >= LW_Q4_0 ? p->row_bytes : lw_type_size(p->source.type);
    for (size_t i = 0; i * size < p->row_bytes; i++) memcpy(out + i * size, from + (int64_t)i * p->source.col_stride, size);
    return out;
}

/* ---- what must be so ----------------------------------------------------------------------------------------------- */
static void same_numbers(const float *a, const float *b, int64_t count)      /* any NaN is a NaN */
{
    for (int64_t i = 0; i < count; i++) MUST(!memcmp(a + i, b + i, 4) || (isnan(a[i]) && isnan(b[i])));
}

static float *unpacked(const lw_weight *w, int64_t row0, int64_t rows)
{
    float *out = exactly((size_t)(rows * lw_weight_k(w)) * 4);
    MUST(lw_weight_unpack(w, row0, rows, out) == LW_OK);
    return out;
}

/* What becomes of a row does not depend on where it goes, nor on the rows beside it. */
static void check_row(lw_ctx *ctx, const problem *p, const float *all, int64_t row)
{
    unsigned char *alone = lifted(p, row);
    const int64_t output = p->row0 + row / 16 * 16 * p->step + row % 16;
    lw_source source = {alone, p->source.type, 1, (int64_t)p->row_bytes, (int64_t)lw_type_size(p->source.type)};
    lw_weight *w;
    MUST(lw_weight_create(p->format, 1, p->k, &w) == LW_OK);
    MUST(lw_weight_pack(ctx, w, 0, 1, &source) == LW_OK);
    float *values = unpacked(w, 0, 1);
    same_numbers(values, all + output * p->k, p->k);
    if (p->format == LW_P32 && p->source.type == LW_F32) MUST(!memcmp(values, alone, p->row_bytes));
    if (p->format == LW_P8)
        for (int64_t i = 0; i < p->k; i++) MUST(values[i] == (float)(int8_t)alone[i]);
    free(values);
    free(alone);
    lw_weight_free(w);
}

/* The first row that has a scale which is no number is the first with such values; scales that are large make them, too. The exponent
 * of MXFP4 that stands for NaN is 2^127 times the code here, as in llama.cpp. */
static void check_finite(lw_ctx *ctx, const lw_weight *w, const float *all)
{
    const lw_format format = lw_weight_format(w);
    const int64_t count = lw_weight_n(w) * lw_weight_k(w);
    int64_t found, first = 0;
    MUST(lw_weight_finite(ctx, w, &found) == LW_OK);
    while (first < count && isfinite(all[first])) first++;
    first = first < count ? first / lw_weight_k(w) : -1;
    if (format < LW_Q4_0) MUST(found == -1);
    else if (format == LW_MXFP4) MUST(found >= -1 && found < lw_weight_n(w));
    else if (format > LW_MXFP4) MUST(found == -1 || (first >= 0 && first <= found));
    else MUST(found == first);
}

static float *product(lw_ctx *ctx, const lw_weight *w, const float *a, int64_t m)
{
    float *c = exactly((size_t)(m * lw_weight_n(w)) * 4);
    lw_gemm_args args = {.a = a, .a_type = LW_F32, .lda = lw_weight_k(w), .w = w, .c = c, .c_type = LW_F32, .ldc = lw_weight_n(w),
                         .m = m, .exact = 1};
    MUST(lw_gemm(ctx, &args) == LW_OK);
    return c;
}

/* Tame activations, or any bits. */
static float *activations(input *in, int64_t count)
{
    float *a = exactly((size_t)count * 4);
    const int any = below(in, 4) == 0;
    if (any) fill(in, a, (size_t)count * 4);
    else for (int64_t i = 0; i < count; i++) a[i] = (float)((int)byte(in) - 128) * 0.0625f;
    return a;
}

static void check_order(input *in, lw_weight *w)
{
    const int64_t k = lw_weight_k(w);
    int32_t *order = exactly((size_t)k * 4);
    for (int64_t i = 0; i < k; i++) order[i] = (int32_t)i;
    for (int64_t i = k - 1; i > 0; i--) {
        const int64_t j = below(in, i + 1);
        const int32_t x = order[i];
        order[i] = order[j], order[j] = x;
    }
    const int spoiled = k > 1 && below(in, 4) == 0;
    const int32_t wrong[] = {order[0], -1, (int32_t)k, INT32_MAX, INT32_MIN};
    if (spoiled) order[1 + below(in, k - 1)] = wrong[below(in, 5)];
    MUST(lw_weight_set_order(w, order) == (spoiled ? LW_E_ARGUMENT : LW_OK));
    free(order);
}

/* Lines as a cache has them: as they were packed, or any bytes, which must be safe and no more. */
static void check_borrowed(input *in, lw_ctx *ctx, const lw_weight *w, const float *a, int64_t m, const float *wanted)
{
    const int64_t n = lw_weight_n(w), k = lw_weight_k(w);
    const size_t bytes = (size_t)lw_weight_size(lw_weight_format(w), n, k);
    unsigned char *lines = aligned_alloc(64, bytes);
    MUST(lines);
    memcpy(lines, lw_weight_lines(w), bytes);
    const int kind = (int)below(in, 4);
    if (kind == 1) fill(in, lines, bytes);
    if (kind == 2) lines[below(in, (int64_t)bytes)] ^= (uint8_t)(1 << below(in, 8));
    lw_weight *borrowed;
    MUST(lw_weight_borrow(lw_weight_format(w), n, k, lines, &borrowed) == LW_OK);
    float *got = product(ctx, borrowed, a, m), *all = unpacked(borrowed, 0, n);
    if (kind == 0 || kind == 3) same_numbers(got, wanted, m * n);
    int64_t row;
    MUST(lw_weight_finite(ctx, borrowed, &row) == LW_OK);
    uint64_t sums[2];
    MUST(lw_weight_checksum(ctx, w, &sums[0]) == LW_OK && lw_weight_checksum(ctx, borrowed, &sums[1]) == LW_OK);
    MUST((sums[0] == sums[1]) == !memcmp(lines, lw_weight_lines(w), bytes));
    free(got), free(all);
    lw_weight_free(borrowed);
    free(lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!scalar) open_tables();
    input in = {data, size, 88172645463325252u};
    lw_ctx *ctx = contexts[below(&in, n_tables)];
    problem p = draw(&in);
    lw_weight *w;
    MUST(lw_weight_create(p.format, p.n, p.k, &w) == LW_OK);
    const lw_status status = lw_weight_pack(ctx, w, p.row0, p.step, &p.source);
    MUST(status == (p.last < p.n ? LW_OK : LW_E_ARGUMENT));
    if (status == LW_OK) {
        float *all = unpacked(w, 0, p.n);
        check_row(ctx, &p, all, below(&in, p.source.rows));
        check_finite(ctx, w, all);
        free(all);
        const int64_t m = below(&in, 4) ? 1 : 1 + below(&in, 40);
        float *a = activations(&in, m * p.k);
        if (p.format >= LW_Q4_0 && below(&in, 4) == 0) check_order(&in, w);
        float *got = product(ctx, w, a, m), *wanted = product(scalar, w, a, m);
        same_numbers(got, wanted, m * p.n);
        float *last = product(ctx, w, a + (m - 1) * p.k, 1);
        same_numbers(last, wanted + (m - 1) * p.n, p.n);
        if (p.format != LW_P8 && lw_weight_bytes(w) == (size_t)lw_weight_size(p.format, p.n, p.k))
            check_borrowed(&in, ctx, w, a, m, wanted);
        free(a), free(got), free(wanted), free(last);
    }
    lw_weight_free(w);
    free(p.memory);
    return 0;
}

#ifdef FUZZ_MAIN
static uint8_t current[4096];
static size_t current_size;
static const char *prefix = "./";

__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

static void keep(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%scrash", prefix);
    FILE *file = fopen(path, "wb");
    if (!file) return;
    fwrite(current, 1, current_size, file);
    fclose(file);
    printf("Test unit written to %s\n", path);
    fflush(stdout);
}

static void aborted(int signal_)
{
    signal(signal_, SIG_DFL);
    keep();
    abort();
}

static void repeat(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    current_size = fread(current, 1, sizeof current, file);
    fclose(file);
}

int main(int count, char **arguments)
{
    long runs = 20000, files = 0;
    uint64_t seed = (uint64_t)time(NULL);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep);
    signal(SIGABRT, aborted);
    for (int i = 1; i < count; i++) {
        if (!strncmp(arguments[i], "-runs=", 6)) runs = atol(arguments[i] + 6);
        if (!strncmp(arguments[i], "-seed=", 6)) seed = strtoull(arguments[i] + 6, NULL, 10);
        if (!strncmp(arguments[i], "-artifact_prefix=", 17)) prefix = arguments[i] + 17;
        if (arguments[i][0] == '-') continue;
        repeat(arguments[i]);
        LLVMFuzzerTestOneInput(current, current_size);
        files++;
    }
    if (files) runs = 0;
    const time_t start = time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    for (long i = 0; i < runs; i++) {
        input draw = {NULL, 0, (seed + (uint64_t)i) * 0x9e3779b97f4a7c15u + 1};
        for (int j = 0; j < 8; j++) byte(&draw);
        current_size = (size_t)below(&draw, below(&draw, 2) ? 64 : (int64_t)sizeof current);
        fill(&draw, current, current_size);
        LLVMFuzzerTestOneInput(current, current_size);
    }
    printf("Done %ld runs in %ld second(s)\n", runs + files, (long)(time(NULL) - start));
    return 0;
}
#endif
