/* weight_finite.c - whether the scales of packed GGUF blocks are numbers: a file may hold any bits, and a NaN spreads to every answer. */
#include "context.h"
#include "format.h"
#include "quant.h"
#include <stdatomic.h>
#include <string.h>

/* Where floating-point scales lie in a header (quant.h): n of so many bytes, lane after lane, from byte `at` on. */
typedef struct floats { uint16_t at, n, size; } floats;

static floats floats_of(lw_scales kind)
{
    switch (kind) {
    case LW_SCALES_F16: return (floats){0, 8 * LW_LANES, 2};
    case LW_SCALES_F16M: return (floats){0, 16 * LW_LANES, 2};
    case LW_SCALES_K6: return (floats){0, 2 * LW_LANES, 2};
    case LW_SCALES_K8: return (floats){256, LW_LANES, 2};
    case LW_SCALES_K8F: return (floats){256, LW_LANES, 4};
    case LW_SCALES_K3: return (floats){192, LW_LANES, 2};
    case LW_SCALES_K2: return (floats){256, 2 * LW_LANES, 2};
    case LW_SCALES_XS: return (floats){64, LW_LANES, 2};
    case LW_SCALES_E8: return (floats){0, 8 * LW_LANES, 1};
    default: return (floats){0, 0, 1};
    }
}

/* One bit per lane: it has an infinity or a NaN (E8M0 has one NaN alone). */
static unsigned wrong_lanes(floats f, const unsigned char *header)
{
    unsigned any = 0, lanes = 0;
    const unsigned char *p = header + f.at;
    if (f.size == 2) {                       /* first whether there is one: the loop of all files that are sound */
        for (int i = 0; i < f.n; i++) {
            uint16_t x;
            memcpy(&x, p + 2 * i, 2);
            any |= ((x & 0x7fffu) + 0x400u) & 0x8000u;
        }
        if (!any) return 0;
    }
    for (int i = 0; i < f.n; i++) {
        uint32_t x = 0;
        memcpy(&x, p + i * f.size, f.size);
        const uint32_t most = f.size == 1 ? 0xff : f.size == 2 ? 0x7c00 : 0x7f800000;
        /* E8: a line has four bytes of each lane. */
        if ((x & most) == most) lanes |= 1u << (f.size == 1 ? i / 4 % LW_LANES : i % LW_LANES);
    }
    return lanes;
}

typedef struct finite_job {
    const lw_weight *w;
    _Atomic int64_t first;       /* output, or INT64_MAX */
} finite_job;

static void look(void *arg, int64_t panel, int worker)
{
    (void)worker;
    finite_job *job = arg;
    const lw_weight *w = job->w;
    const lw_quant *q = lw_quant_of(w->format);
    const floats f = floats_of((lw_scales)q->scales);
    const unsigned char *header = w->lines + (size_t)panel * w->panel_bytes;
    unsigned lanes = 0;
    for (int64_t k = 0; k < w->k; k += LW_SUPER, header += q->header + 8 * q->piece) lanes |= wrong_lanes(f, header);
    if (!lanes) return;
    int64_t row = panel * LW_LANES, known = atomic_load(&job->first);
    while (!(lanes & 1)) lanes >>= 1, row++;
    if (row >= w->n) return;                 /* what borrowed lines hold beside the weight */
    while (row < known && !atomic_compare_exchange_weak(&job->first, &known, row)) continue;
}

lw_status lw_weight_finite(lw_ctx *ctx, const lw_weight *w, int64_t *row)
{
    if (!ctx || !w || !row) return LW_E_ARGUMENT;
    *row = -1;
    if (w->format < LW_Q4_0) return LW_OK;
    finite_job job = {w, INT64_MAX};
    lw_status status = lw_pool_run(ctx->pool, w->panels, look, &job);
    if (status == LW_OK && job.first < INT64_MAX) *row = job.first;
    return status;
}
