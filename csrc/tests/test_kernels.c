/* test_kernels.c - every slot of every table that can run here, against plain loops and bit for bit against the scalar
 * table; the deliberately broken tables must fail. Prints a line per table, then "N passed, N failed".
 *
 * By hand, from csrc/ (flags of each file as in CMakeLists.txt; the last two need libsimde-dev and LW_TEST_EMULATED):
 *   F="-O3 -ffp-contract=off -fno-math-errno -Wall -Wextra -DLW_TEST_TABLES -DLW_TEST_EMULATED -D_GNU_SOURCE"
 *   A="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c"; mkdir -p /tmp/t
 *   for f in scalar list broken; do gcc $F -c isa/$f.c -o /tmp/t/$f.o; done
 *   gcc $F -mavx2 -mfma -mf16c -c isa/avx2.c -o /tmp/t/avx2.o
 *   gcc $F $A -c isa/avx512.c -o /tmp/t/avx512.o; gcc $F $A -mavx512bf16 -c isa/avx512_bf16.c -o /tmp/t/avx512_bf16.o
 *   for f in avx512 avx512_bf16; do gcc $F -O1 -Wno-psabi -DLW_EMULATE -mavx2 -mfma -mf16c -c isa/$f.c -o /tmp/t/e_$f.o; done
 *   gcc $F tests/test_kernels.c cpu.c /tmp/t/?*.o -lm -o /tmp/t/test_kernels && /tmp/t/test_kernels
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../isa/tables.h"
#include "../quant.h"

static const lw_kernels *const ref = &lw_kernels_scalar;
static long failures, checks;      /* of the table at hand */
static int quiet;                  /* broken tables fail in silence */

#define CHECK(ok, ...)                                                   \
    do {                                                                 \
        checks++;                                                        \
        if (!(ok) && failures++ < 5 && !quiet) {                         \
            printf("    ");                                              \
            printf(__VA_ARGS__);                                         \
            printf("\n");                                                \
        }                                                                \
    } while (0)

static uint64_t seed = 88172645463325252u;
static uint32_t bits(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}
static int below(int n) { return (int)(bits() % (uint32_t)n); }
static float from_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static uint32_t to_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static int same(float a, float b) { return (a != a && b != b) || to_bits(a) == to_bits(b); }
static float uniform(void) { return (float)below(1 << 24) * 0x1p-23f - 1.0f; }
static float wild(void) {          /* mostly ordinary, sometimes any bits, subnormal, zero or infinite */
    switch (below(24)) {
    case 0: return from_bits(bits());
    case 1: return from_bits(bits() & 0x807fffffu);
    case 2: return from_bits(bits() & 0x80000000u);
    case 3: return below(2) ? INFINITY : -INFINITY;
    case 4: return uniform() * 100;
    default: return uniform() * 8;
    }
}

/* ---- tiles -------------------------------------------------------------------------------------------------------- */
enum { MAX_K = 700, MAX_COLUMNS = 128, GUARD = 8 };
enum { P32, P16, DOT };
static float W[MAX_COLUMNS][MAX_K];                         /* weights of each output */
static float A[LW_MAX_ROWS][MAX_K];
static float a32[LW_MAX_ROWS * (MAX_K + 8)];
static uint16_t a16[LW_MAX_ROWS * (MAX_K + 8)];
static ALIGN(64) unsigned char lines[MAX_COLUMNS / 16 * (MAX_K + 2) * 64];
static float C[LW_MAX_ROWS * (MAX_COLUMNS + GUARD) + GUARD], expected[LW_MAX_ROWS * (MAX_COLUMNS + GUARD) + GUARD];
static float residual[LW_MAX_ROWS * (MAX_COLUMNS + 3)], bias[MAX_COLUMNS];

static float draw(int kind, int integers) {
    if (integers) return (float)(below(17) - 8);
    float x = below(50) ? uniform() * (below(4) ? 1 : 0x1p-70f) : 0.0f;
    volatile uint16_t high = (uint16_t)(to_bits(x) >> 16);   /* GCC 12.2 loses "& 0xffff0000" on the bits of a float */
    return kind == P32 ? x : from_bits((uint32_t)high << 16);
}

/* Lays operands out with NaN wherever nothing should be read, or what is read should not be used. */
static void lay_out(lw_tile *t, int kind, int integers) {
    const int steps = kind == P32 ? t->k : (t->k + t->skip + 1) / 2;
    memset(lines, 0xff, sizeof lines);
    t->ldb = 64 * (steps + below(3));
    for (int o = 0; o < t->columns; o++)
        for (int k = 0; k < t->k; k++) {
            unsigned char *line = lines + o / 16 * t->ldb;
            W[o][k] = draw(kind, integers);
            const uint32_t u = to_bits(W[o][k]);
            const uint16_t high = (uint16_t)(u >> 16);
            const int j = k + t->skip;
            if (kind == P32) memcpy(line + 64 * k + 4 * (o % 16), &u, 4);
            else memcpy(line + 64 * (j / 2) + 4 * (o % 16) + 2 * (j % 2), &high, 2);
        }
    t->lda = kind == DOT ? (t->k + 1) / 2 * 2 + 2 * below(3) : t->k + below(4);
    if (kind == P32 && !below(3)) t->lda = 0;                 /* interleaved */
    memset(a32, 0xff, sizeof a32);
    memset(a16, 0xff, sizeof a16);
    for (int r = 0; r < t->rows; r++)
        for (int k = 0; k < t->k; k++) {
            A[r][k] = draw(kind == DOT ? P16 : P32, integers);
            a32[t->lda ? r * t->lda + k : k * t->rows + r] = A[r][k];
            a16[r * t->lda + k] = (uint16_t)(to_bits(A[r][k]) >> 16);
        }
    t->a = kind == DOT ? (const void *)a16 : a32;
    t->b = lines;
}

static void tile_case(const lw_kernels *K, int kind, int rows, int panels, int columns, int k, int integers) {
    lw_tile t = {.rows = rows, .panels = panels, .columns = columns, .k = k};
    t.skip = kind != P32 && k > 0 && below(2);
    t.accumulate = below(2);
    lay_out(&t, kind, integers);
    t.ldc = columns + below(GUARD);
    t.c = C + GUARD / 2;
    if (below(2)) t.bias = bias;
    if (below(2)) {
        const int in_place = !t.accumulate && below(2);
        t.residual = in_place ? t.c : residual;
        t.ldr = in_place ? t.ldc : columns + 3;
    }
    for (int i = 0; i < columns; i++) bias[i] = draw(P32, integers);
    for (size_t i = 0; i < sizeof residual / 4; i++) residual[i] = draw(P32, integers);
    for (size_t i = 0; i < sizeof C / 4; i++) C[i] = expected[i] = draw(P32, integers);
    float *e = expected + GUARD / 2;
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < columns; o++) {
            float acc = t.accumulate ? e[r * t.ldc + o] : 0.0f;
            long long whole = integers ? (long long)acc : 0;
            for (int j = 0; j < k; j++) {
                acc = fmaf(A[r][j], W[o][j], acc);
                if (integers) whole += (long long)A[r][j] * (long long)W[o][j];
            }
            if (integers) acc = (float)whole;
            if (t.bias) acc += bias[o];
            if (t.residual) acc += t.residual == t.c ? e[r * t.ldc + o] : residual[r * t.ldr + o];
            e[r * t.ldc + o] = acc;
        }
    (kind == P32 ? K->tile_f32 : kind == P16 ? K->tile_bf16 : K->tile_dot)(&t);
    int wrong = 0;
    for (size_t i = 0; i < sizeof C / 4; i++) wrong += integers ? C[i] != expected[i] : !same(C[i], expected[i]);
    CHECK(!wrong, "tile kind %d, %d x %d panels, columns %d, k %d, skip %d: %d wrong", kind, rows, panels, columns, k,
          t.skip, wrong);
}

static void int8_case(const lw_kernels *K, int rows, int panels, int columns, int k) {
    static int8_t a[LW_MAX_ROWS][MAX_K];
    static uint32_t quads[2 * MAX_K], units[LW_MAX_ROWS * 2 * MAX_K];
    int32_t start[LW_MAX_ROWS], sums[LW_MAX_ROWS * MAX_COLUMNS], wrong = 0;
    const int n = (k + 3) / 4, per_row = n * K->quad / 4;
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < k; i++) a[r][i] = (int8_t)bits();
        start[r] = -128 * K->to_quads((size_t)k, a[r], 0, quads);
        for (int u = 0; u < per_row; u++) units[u * rows + r] = quads[u];
    }
    for (size_t i = 0; i < sizeof lines; i++) lines[i] = (unsigned char)bits();
    memset(sums, 0, sizeof sums);
    const lw_tile t = {.a = units, .b = lines, .ldb = 64 * n, .c = (float *)(void *)sums, .ldc = MAX_COLUMNS, .start = start,
                       .rows = rows, .panels = panels, .columns = columns, .k = 4 * n};
    K->tile_int8(&t);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < MAX_COLUMNS; o++) {
            int want = 0;
            for (int i = 0; o < columns && i < k; i++)
                want += a[r][i] * (lines[o / 16 * t.ldb + i / 4 * 64 + o % 16 * 4 + i % 4] - 128);
            wrong += sums[r * MAX_COLUMNS + o] != want;
        }
    CHECK(!wrong, "int8, %d x %d panels, columns %d, k %d: %d wrong", rows, panels, columns, k, wrong);
}

static void test_tiles(const lw_kernels *K) {
    for (int r = 1; r <= K->rows; r++)
        for (int p = 1; p <= K->panels[r]; p++)
            for (int i = 0; i < 8; i++) int8_case(K, r, p, 16 * p - (i % 2 ? below(16) : 0), 1 + below(MAX_K - 1));
    static const int long_k[] = {41, 63, 64, 65, 127, 256, 700};
    for (int kind = P32; kind <= DOT; kind++) {
        if (kind == DOT && !K->tile_dot) continue;
        for (int r = 1; r <= K->rows; r++)
            for (int p = 1; p <= K->panels[r]; p++) {
                for (int columns = 1; columns <= 16 * p; columns++) tile_case(K, kind, r, p, columns, below(41), 1);
                for (int k = 0; k <= 40; k++) tile_case(K, kind, r, p, below(2) ? 16 * p : 1 + below(16 * p), k, 1);
                for (int i = 0; i < 7; i++) tile_case(K, kind, r, p, 16 * p - (i % 2), long_k[i], 1);
                for (int i = 0; kind != DOT && i < 24; i++)
                    tile_case(K, kind, r, p, below(2) ? 16 * p : 1 + below(16 * p), i < 22 ? below(41) : 300 + i, 0);
            }
    }
}

/* ---- kernels on rows, bit for bit against the scalar table --------------------------------------------------------- */
enum { MAX_N = 208, ROW = 2 * MAX_N + 32 };
static float x[ROW], y[ROW], w[ROW], v[ROW], out[ROW], want[ROW];

static void fill(float *p, float (*value)(void)) {
    for (int i = 0; i < ROW; i++) p[i] = value();
}
static void poison(void) {
    for (int i = 0; i < ROW; i++) out[i] = want[i] = from_bits(0x12340000u + (uint32_t)i);
}
static void compare(const char *what, int n) {
    int wrong = -1;
    for (int i = ROW - 1; i >= 0; i--)
        if (!same(out[i], want[i])) wrong = i;
    CHECK(wrong < 0, "%s, n %d: element %d is %a, should be %a", what, n, wrong, out[wrong < 0 ? 0 : wrong],
          want[wrong < 0 ? 0 : wrong]);
}
#define BOTH(what, n, call_out, call_want) do { poison(); call_out; call_want; compare(what, n); } while (0)

static void test_elementwise(const lw_kernels *K, int n) {
    const size_t m = (size_t)n;
    for (int a = LW_ACT_NONE; a <= LW_ACT_EXP; a++) {
        lw_act act = (lw_act)a;
        BOTH("activation", n, K->activation(act, m, x, out), ref->activation(act, m, x, want));
        BOTH("mul_activation", n, K->mul_activation(act, m, x, y, out), ref->mul_activation(act, m, x, y, want));
    }
    BOTH("add", n, K->add(m, x, y, out), ref->add(m, x, y, want));
    BOTH("to_bf16", n, K->to_bf16(m, x, (uint16_t *)(void *)out), ref->to_bf16(m, x, (uint16_t *)(void *)want));
    memcpy(out, x, sizeof x);
    memcpy(want, x, sizeof x);
    K->activation(LW_ACT_SILU, m, out, out);
    ref->activation(LW_ACT_SILU, m, x, want);
    compare("activation in place", n);
}

static void test_rows(const lw_kernels *K, int n) {
    const size_t m = (size_t)n;
    const float eps = 1e-6f, *weight = below(4) ? w : NULL, *shift = below(3) ? v : NULL;
    BOTH("rms_norm", n, K->rms_norm(m, x, weight, eps, out), ref->rms_norm(m, x, weight, eps, want));
    BOTH("layer_norm", n, K->layer_norm(m, x, weight, shift, eps, out), ref->layer_norm(m, x, weight, shift, eps, want));
    BOTH("softmax", n, K->softmax(m, x, out), ref->softmax(m, x, want));
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        const int pairs = n / 6, head = 2 * pairs + below(4);
        memcpy(out, x, sizeof x);
        memcpy(want, x, sizeof x);
        K->rope(out, 3, head, pairs, interleaved, w, v);
        ref->rope(want, 3, head, pairs, interleaved, w, v);
        compare("rope", pairs);
    }
    const float a = uniform() * 4, b = uniform() * 4, sum = 1 + fabsf(uniform());
    float max1 = a, max2 = a, sum1 = sum, sum2 = sum;
    memcpy(out, x, sizeof x);
    memcpy(want, x, sizeof x);
    K->segment_merge(n, out, &max1, &sum1, y, b, 1.5f);
    ref->segment_merge(n, want, &max2, &sum2, y, b, 1.5f);
    compare("segment_merge", n);
    CHECK(same(max1, max2) && same(sum1, sum2), "segment_merge, n %d: max or sum", n);
    BOTH("segment_finish", n, K->segment_finish(n, x, sum, out), ref->segment_finish(n, x, sum, want));
}

static void test_segment(const lw_kernels *K) {
    const int n = 16 * (1 + below(16)), lo = below(n), hi = lo + 1 + below(n - lo);
    const float cap = below(2) ? 20.0f : 0.0f;
    float max1, max2, sum1, sum2;
    for (int i = 0; i < ROW; i++) out[i] = want[i] = i >= lo && i < hi ? x[i] : NAN;
    K->segment_softmax(n, lo, hi, 0.7f, cap, out, &max1, &sum1);
    ref->segment_softmax(n, lo, hi, 0.7f, cap, want, &max2, &sum2);
    compare("segment_softmax", n);
    int zeros = 1;
    double total = 0;
    for (int i = 0; i < n; i++) {
        if (i < lo || i >= hi) zeros &= to_bits(out[i]) == 0;
        else total += out[i];
    }
    CHECK(zeros, "segment_softmax, n %d [%d, %d): not zero outside", n, lo, hi);
    CHECK(same(max1, max2) && same(sum1, sum2), "segment_softmax, n %d [%d, %d): max or sum", n, lo, hi);
    CHECK(!(fabs(total - sum1) > 1e-5 * total), "segment_softmax, n %d: sum %g, should be %g", n, sum1, total);
}

/* ---- right values --------------------------------------------------------------------------------------------------- */
static double ulps(float got, double right) {
    if (right != right || got != got) return right != right && got != got ? 0 : 1e9;
    if (fabs(right) >= 0x1.ffffffp127) return isinf(got) && (got < 0) == (right < 0) ? 0 : 1e9;
    if (isinf(got)) return 1e9;
    int e;
    frexp(right, &e);
    return fabs((double)got - right) / ldexp(1.0, e - 24 < -149 ? -149 : e - 24);
}
static double right_act(lw_act act, double t) {
    switch (act) {
    case LW_ACT_EXP: return exp(t);
    case LW_ACT_TANH: return tanh(t);
    case LW_ACT_SILU: return t < -300 ? -0.0 : t / (1 + exp(-t));
    case LW_ACT_GELU: return t < -50 ? -0.0 : t * 0.5 * erfc(-t * M_SQRT1_2);
    default: return t < -50 ? -0.0 : t > 50 ? t : t / (1 + exp(-2 * sqrt(2 / M_PI) * (t + 0.044715 * t * t * t)));
    }
}
/* All float32 in steps: the activations' errors and, in every table, the scalar table's bits. */
static void sweep(const lw_kernels *K, lw_act act, uint32_t step, double bound, const char *name) {
    enum { N = 4096 };
    static float in[N], got[N], scalar[N];
    double worst = 0;
    float at = 0;
    for (uint64_t u = 0; u < 1ull << 32;) {
        int n = 0;
        for (; n < N && u < 1ull << 32; u += step) in[n++] = from_bits((uint32_t)u);
        K->activation(act, (size_t)n, in, got);
        if (bound == 0) ref->activation(act, (size_t)n, in, scalar);
        for (int i = 0; i < n; i++) {
            const double e = bound == 0 ? !same(got[i], scalar[i]) : ulps(got[i], right_act(act, in[i]));
            if (e > worst) worst = e, at = in[i];
        }
    }
    CHECK(worst <= bound, "%s: %.3f ulp at %a", name, worst, at);
    if (bound > 0 && !quiet) printf("    %-10s %.3f ulp (at %a)\n", name, worst, at);
}
static void test_values(const lw_kernels *K) {
    sweep(K, LW_ACT_EXP, 97, 2.0, "exp");
    sweep(K, LW_ACT_TANH, 997, 4.0, "tanh");
    sweep(K, LW_ACT_SILU, 997, 4.0, "silu");
    sweep(K, LW_ACT_GELU, 997, 6.0, "gelu");
    sweep(K, LW_ACT_GELU_TANH, 997, 6.0, "gelu_tanh");
    double rms = 0, soft = 0;
    for (int round = 0; round < 300; round++) {
        const int n = 1 + below(MAX_N);
        const float size = ldexpf(1.0f, below(60) - 30);
        double squares = 0, total = 0, max = -1e9;
        for (int i = 0; i < n; i++) {
            x[i] = uniform() * size, w[i] = uniform(), y[i] = uniform() * 20;
            squares += (double)x[i] * x[i];
            max = fmax(max, y[i]);
        }
        for (int i = 0; i < n; i++) total += exp(y[i] - max);
        K->rms_norm((size_t)n, x, w, 1e-6f, out);
        K->softmax((size_t)n, y, want);
        for (int i = 0; i < n; i++) {
            rms = fmax(rms, ulps(out[i], x[i] * w[i] / sqrt(squares / n + (double)1e-6f)));
            soft = fmax(soft, ulps(want[i], exp(y[i] - max) / total) - fabs(y[i] - max));
        }
    }
    CHECK(rms <= 3, "rms_norm: %.3f ulp", rms);
    CHECK(soft <= 4, "softmax: %.3f ulp beyond conditioning", soft);
    if (!quiet) printf("    rms_norm %.3f ulp, softmax %.3f ulp beyond conditioning\n", rms, soft);
}

/* ---- quantised tiles ------------------------------------------------------------------------------------------------- */
/* q4_0 with scales of one and whole activations whose maximum is 127: every sum is a whole number, and exact. */
static void test_quant(const lw_kernels *K) {
    enum { K_ = 288, PANELS = 2, SIZE = 2 * 256 + 9 * 256 };
    static ALIGN(64) unsigned char w[PANELS][SIZE], expanded[PANELS][2 * 512 + 9 * 512];
    static ALIGN(64) uint32_t staged[12 * (3 + 9 + K_ / 4)];
    static float a[12][K_], c[12][32];
    for (int p = 0; p < PANELS; p++)
        for (int i = 0; i < SIZE; i++) {
            const int at = i % (256 + 8 * 256);
            w[p][i] = (unsigned char)(at < 256 ? (i % 2 ? 0x3c : 0) : (int)(bits() & 255));
        }
    for (int rows = 1; rows <= K->quant_rows; rows++) {
        for (int r = 0; r < rows; r++)
            for (int k = 0; k < K_; k++) a[r][k] = k % 32 ? (float)(below(255) - 127) : 127.0f;
        K->quantize(0, rows, K_, a[0], K_, staged);
        for (int p = 0; p < PANELS; p++) K->expand_quant(0, K_, w[p], expanded[p]);
        for (int direct = rows <= K->quant_direct; direct >= 0; direct--) {
            lw_quant_tile t = {.a = staged, .b = direct ? w[0] : expanded[0], .ldb = direct ? SIZE : sizeof expanded[0], .c = c[0],
                               .ldc = 32, .k = K_, .form = direct ? 0 : LW_X32_8, .rows = rows, .panels = PANELS, .columns = 29};
            memset(c, 0xff, sizeof c);
            K->tile_quant(&t);
            for (int r = 0; r < rows; r++)
                for (int o = 0; o < 29; o++) {
                    double sum = 0;
                    for (int k = 0; k < K_; k++) {
                        const unsigned char *piece = w[o / 16] + (k / 256 + 1) * 256 + k / 32 * 256;
                        const int group = k % 32 / 4, byte = piece[64 * (group / 2) + 4 * (o % 16) + k % 4];
                        sum += ((byte >> 4 * (group % 2) & 15) - 8) * (double)a[r][k];
                    }
                    CHECK(c[r][o] == sum, "quant: %d rows, direct %d, row %d, output %d: %g, not %g", rows, direct, r, o,
                          (double)c[r][o], sum);
                }
            for (int r = 0; r < rows; r++) CHECK(c[r][29] != c[r][29], "quant: a column too many is written");
        }
    }
}

/* ---- tables --------------------------------------------------------------------------------------------------------- */
static long test_table(const lw_kernels *K, int values) {
    const int broken = strncmp(K->name, "broken", 6) == 0;
    checks = failures = 0;
    quiet = broken;
    test_tiles(K);
    test_quant(K);
    for (int n = 0; n <= 200; n++) {
        fill(x, uniform), fill(y, uniform), fill(w, uniform), fill(v, uniform);
        test_rows(K, n);
        test_segment(K);
        fill(x, wild), fill(y, wild);
        test_elementwise(K, n);
        test_rows(K, n);
    }
    if (K != ref && !broken)
        for (int a = LW_ACT_SILU; a <= LW_ACT_EXP; a++) sweep(K, (lw_act)a, 9973, 0, "same bits as scalar");
    if (values) test_values(K);
    CHECK(K->peak_f32(10) > 0 && K->read(lines, 4096) == ref->read(lines, 4096), "peak or read");
    const int ok = broken ? failures > 0 : failures == 0;
    printf("%-4s %s: %ld checks, %ld wrong%s\n", ok ? "ok" : "FAIL", K->name, checks, failures,
           broken ? (ok ? " (found, as it must be)" : " (a broken table was not found)") : "");
    return ok;
}

int main(void) {
    int passed = 0, failed = 0, valued = 0;
    for (int i = 0; i < lw_isa_list_count; i++) {
        const lw_kernels *K = lw_isa_list[i].kernels;
        const char *missing = lw_isa_list[i].missing();
        if (missing) {
            printf("skip %s: no %s\n", K->name, missing);
            continue;
        }
        if (test_table(K, !valued++)) passed++;
        else failed++;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
