/* weight_quant.c - GGUF blocks -> packed superblocks, and back to float32, without losing a bit.
 *
 * A superblock of one row passes through one form (struct super): codes, and scales as the file has them. Packing reads a file's
 * blocks into it and writes its lane of the planes; unpacking reads the planes and computes the values as the formats define
 * them, the same products and sums in the same order in float32 (ggml-quants.c, gguf.quants). */
#include "context.h"
#include "format.h"
#include "quant.h"
#include <stddef.h>
#include <string.h>

typedef struct super {
    uint8_t code[LW_SUPER];          /* unsigned; indices of a table where the format has one */
    uint16_t d[8], m[8];             /* float16: per 32, or d[0] and m[0] (dmin) of the superblock; d: exponents of E8 */
    uint32_t wide;                   /* float32: d of the superblock */
    uint8_t scale[16], min[16];      /* K: per block, as stored (6 bits, 4 bits, or a signed byte) */
} super;

/* ---- the file's blocks ------------------------------------------------------------------------------------------- */
static uint16_t get16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, 2);
    return x;
}

/* n bytes of 8 / bits fields: all first fields, then all second ones, ... */
static void fields(const uint8_t *p, int n, int bits, uint8_t *out)
{
    for (int shift = 0; shift < 8; shift += bits)
        for (int i = 0; i < n; i++) *out++ = (uint8_t)(p[i] >> shift & ((1 << bits) - 1));
}

/* Adds bit (or two bits) planes of the same order above the codes. */
static void raise_codes(const uint8_t *p, int n, int bits, int by, uint8_t *code)
{
    for (int shift = 0; shift < 8; shift += bits)
        for (int i = 0; i < n; i++, code++) *code = (uint8_t)(*code | (p[i] >> shift & ((1 << bits) - 1)) << by);
}

/* Blocks of 32: where the codes begin. */
static int codes_at(lw_format format)
{
    return format == LW_MXFP4 ? 1 : format == LW_Q4_1 || format == LW_Q5_1 ? 4 : 2;
}

/* The scales of block b of the superblock. */
static void read_small_scales(lw_format format, const uint8_t *p, int b, super *s)
{
    s->d[b] = format == LW_MXFP4 ? p[0] : get16(p);
    if (format == LW_Q4_1 || format == LW_Q5_1) s->m[b] = get16(p + 2);
}

static void read_small(lw_format format, const uint8_t *p, int b, super *s)
{
    uint8_t *code = s->code + 32 * b;
    read_small_scales(format, p, b, s);
    p += codes_at(format);
    if (format == LW_Q8_0) {
        for (int i = 0; i < 32; i++) code[i] = p[i] ^ 0x80;
    } else if (format == LW_Q5_0 || format == LW_Q5_1) {
        fields(p + 4, 16, 4, code);
        for (int i = 0; i < 32; i++) code[i] |= (uint8_t)((p[i / 8] >> i % 8 & 1) << 4);
    } else {
        fields(p, 16, 4, code);
    }
}

/* 6-bit scales and minima of Q4_K and Q5_K. */
static void read_k6(const uint8_t *p, super *s)
{
    for (int j = 0; j < 4; j++) {
        s->scale[j] = p[j] & 63;
        s->scale[j + 4] = (uint8_t)((p[j + 8] & 15) | (p[j] >> 6) << 4);
        s->min[j] = p[j + 4] & 63;
        s->min[j + 4] = (uint8_t)(p[j + 8] >> 4 | (p[j + 4] >> 6) << 4);
    }
}

static void read_k_scales(const uint8_t *p, super *s)
{
    s->d[0] = get16(p);
    s->m[0] = get16(p + 2);
    read_k6(p + 4, s);
}

static void read_large(lw_format format, const uint8_t *p, super *s)
{
    switch ((int)format) {
    case LW_IQ2_W:                   /* no type of GGUF: d, the scales, the codes */
    case LW_IQ3_XXS_W:
    case LW_IQ3_S_W:
        memcpy(&s->wide, p, 4);
        memcpy(s->scale, p + 4, 16);
        fields(p + 20, 128, 4, s->code);
        break;
    case LW_Q4_K:
    case LW_Q5_K:
        read_k_scales(p, s);
        p += format == LW_Q5_K ? 48 : 16;
        for (int i = 0; i < 4; i++) fields(p + 32 * i, 32, 4, s->code + 64 * i);
        if (format == LW_Q5_K) raise_codes(p - 32, 32, 1, 4, s->code);
        break;
    case LW_Q6_K:
        for (int i = 0; i < 2; i++) {
            fields(p + 64 * i, 64, 4, s->code + 128 * i);
            raise_codes(p + 128 + 32 * i, 32, 2, 4, s->code + 128 * i);
        }
        memcpy(s->scale, p + 192, 16);
        s->d[0] = get16(p + 208);
        break;
    case LW_Q2_K:
        for (int j = 0; j < 16; j++) s->scale[j] = p[j] & 15, s->min[j] = p[j] >> 4;
        for (int i = 0; i < 2; i++) fields(p + 16 + 32 * i, 32, 2, s->code + 128 * i);
        s->d[0] = get16(p + 80);
        s->m[0] = get16(p + 82);
        break;
    case LW_Q3_K:
        for (int i = 0; i < 2; i++) fields(p + 32 + 32 * i, 32, 2, s->code + 128 * i);
        raise_codes(p, 32, 1, 2, s->code);
        fields(p + 96, 8, 4, s->scale);
        raise_codes(p + 104, 4, 2, 4, s->scale);
        s->d[0] = get16(p + 108);
        break;
    case LW_IQ4_XS: {
        uint16_t high = get16(p + 2);
        s->d[0] = get16(p);
        for (int j = 0; j < 8; j++)
            s->scale[j] = (uint8_t)((p[4 + j / 2] >> j % 2 * 4 & 15) | (high >> 2 * j & 3) << 4);
        for (int i = 0; i < 8; i++) fields(p + 8 + 16 * i, 16, 4, s->code + 32 * i);
        break;
    }
    }
}

/* ---- planes: one lane -------------------------------------------------------------------------------------------- */
static uint32_t word(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static void put(uint8_t *p, uint32_t x) { memcpy(p, &x, 4); }
static void put16(uint8_t *p, uint16_t x) { memcpy(p, &x, 2); }

/* p: the lane's 4 bytes of the piece's first line. */
static void put_codes(lw_code kind, const uint8_t *code, uint8_t *p)
{
    uint32_t g[8], high = 0, two[2] = {0, 0};
    for (int i = 0; i < 8; i++) g[i] = word(code + 4 * i);
    if (kind == LW_CODE_LINE) {
        for (int i = 0; i < 8; i++) put(p + 64 * i, g[i]);
        return;
    }
    if (kind == LW_CODE_TWO || kind == LW_CODE_TWO_BIT) {
        for (int i = 0; i < 8; i++) {
            two[i / 4] |= (g[i] & 0x03030303) << 2 * (i % 4);
            high |= (g[i] >> 2 & 0x01010101) << i;
        }
        put(p, two[0]);
        put(p + 64, two[1]);
        if (kind == LW_CODE_TWO_BIT) put(p + 128, high);
        return;
    }
    for (int i = 0; i < 4; i++) put(p + 64 * i, (g[2 * i] & 0x0f0f0f0f) | (g[2 * i + 1] & 0x0f0f0f0f) << 4);
    for (int i = 0; i < 8; i++) {
        high |= (g[i] >> 4 & 0x01010101) << i;
        two[i / 4] |= (g[i] >> 4 & 0x03030303) << 2 * (i % 4);
    }
    if (kind == LW_CODE_NIBBLE_BIT) put(p + 256, high);
    if (kind == LW_CODE_NIBBLE_TWO) put(p + 256, two[0]), put(p + 320, two[1]);
}

static void get_codes(lw_code kind, const uint8_t *p, uint8_t *code)
{
    for (int i = 0; i < 8; i++) {
        uint32_t x;
        if (kind == LW_CODE_LINE) {
            x = word(p + 64 * i);
        } else if (kind == LW_CODE_TWO || kind == LW_CODE_TWO_BIT) {
            x = word(p + 64 * (i / 4)) >> 2 * (i % 4) & 0x03030303;
            if (kind == LW_CODE_TWO_BIT) x |= (word(p + 128) >> i & 0x01010101) << 2;
        } else {
            x = word(p + 64 * (i / 2)) >> 4 * (i % 2) & 0x0f0f0f0f;
            if (kind == LW_CODE_NIBBLE_BIT) x |= (word(p + 256) >> i & 0x01010101) << 4;
            if (kind == LW_CODE_NIBBLE_TWO) x |= (word(p + 256 + 64 * (i / 4)) >> 2 * (i % 4) & 0x03030303) << 4;
        }
        put(code + 4 * i, x);
    }
}

/* h: the header; float16 planes have 2 bytes per lane, lines 4. */
static void put_scales(lw_scales kind, const super *s, int lane, uint8_t *h)
{
    uint8_t *line = h + 4 * lane, *half = h + 2 * lane;
    const uint8_t *a = s->scale, *b = s->min;
    switch ((int)kind) {
    case LW_SCALES_F16:
    case LW_SCALES_F16M:
        for (int j = 0; j < 8; j++) put16(half + 32 * j, s->d[j]);
        for (int j = 0; j < 8 && kind == LW_SCALES_F16M; j++) put16(half + 256 + 32 * j, s->m[j]);
        break;
    case LW_SCALES_K6:
        put16(half, s->d[0]);
        put16(half + 32, s->m[0]);
        for (int j = 0; j < 4; j++) {
            line[64 + j] = (uint8_t)((a[j] & 15) | a[j + 4] << 4);
            line[128 + j] = (uint8_t)((b[j] & 15) | b[j + 4] << 4);
            line[192 + j] = (uint8_t)(a[j] >> 4 | a[j + 4] >> 4 << 2 | b[j] >> 4 << 4 | b[j + 4] >> 4 << 6);
        }
        break;
    case LW_SCALES_K8:
    case LW_SCALES_K8F:
        for (int j = 0; j < 16; j++) line[64 * (j / 4) + j % 4] = a[j];
        if (kind == LW_SCALES_K8) put16(half + 256, s->d[0]);
        else put(line + 256, s->wide);
        break;
    case LW_SCALES_K3:
        for (int j = 0; j < 4; j++) {
            line[j] = (uint8_t)((a[j] & 15) | a[j + 4] << 4);
            line[64 + j] = (uint8_t)((a[j + 8] & 15) | a[j + 12] << 4);
            line[128 + j] = (uint8_t)(a[j] >> 4 | a[j + 4] >> 4 << 2 | a[j + 8] >> 4 << 4 | a[j + 12] >> 4 << 6);
        }
        put16(half + 192, s->d[0]);
        break;
    case LW_SCALES_K2:
        for (int j = 0; j < 16; j++) line[64 * (j / 4) + j % 4] = (uint8_t)(a[j] | b[j] << 4);
        put16(half + 256, s->d[0]);
        put16(half + 288, s->m[0]);
        break;
    case LW_SCALES_XS: {
        uint16_t high = 0;
        for (int j = 0; j < 4; j++) line[j] = (uint8_t)((a[j] & 15) | a[j + 4] << 4);
        for (int j = 0; j < 8; j++) high |= (uint16_t)(a[j] >> 4 << 2 * j);
        put16(half + 64, s->d[0]);
        put16(half + 96, high);
        break;
    }
    case LW_SCALES_E8:
        for (int j = 0; j < 8; j++) line[64 * (j / 4) + j % 4] = (uint8_t)s->d[j];
        break;
    }
}

static void get_scales(lw_scales kind, const uint8_t *h, int lane, super *s)
{
    const uint8_t *line = h + 4 * lane, *half = h + 2 * lane;
    uint8_t *a = s->scale, *b = s->min;
    switch ((int)kind) {
    case LW_SCALES_F16:
    case LW_SCALES_F16M:
        for (int j = 0; j < 8; j++) s->d[j] = get16(half + 32 * j);
        for (int j = 0; j < 8 && kind == LW_SCALES_F16M; j++) s->m[j] = get16(half + 256 + 32 * j);
        break;
    case LW_SCALES_K6:
        s->d[0] = get16(half);
        s->m[0] = get16(half + 32);
        for (int j = 0; j < 8; j++) {
            int shift = j / 4 * 4, x = line[192 + j % 4];
            a[j] = (uint8_t)((line[64 + j % 4] >> shift & 15) | (x >> shift / 2 & 3) << 4);
            b[j] = (uint8_t)((line[128 + j % 4] >> shift & 15) | (x >> (shift / 2 + 4) & 3) << 4);
        }
        break;
    case LW_SCALES_K8:
    case LW_SCALES_K8F:
        for (int j = 0; j < 16; j++) a[j] = line[64 * (j / 4) + j % 4];
        s->d[0] = get16(half + 256);
        s->wide = word(line + 256);
        break;
    case LW_SCALES_K3:
        for (int j = 0; j < 16; j++)
            a[j] = (uint8_t)((line[64 * (j / 8) + j % 4] >> j / 4 % 2 * 4 & 15) | (line[128 + j % 4] >> j / 4 * 2 & 3) << 4);
        s->d[0] = get16(half + 192);
        break;
    case LW_SCALES_K2:
        for (int j = 0; j < 16; j++) {
            uint8_t x = line[64 * (j / 4) + j % 4];
            a[j] = x & 15;
            b[j] = x >> 4;
        }
        s->d[0] = get16(half + 256);
        s->m[0] = get16(half + 288);
        break;
    case LW_SCALES_XS:
        for (int j = 0; j < 8; j++)
            a[j] = (uint8_t)((line[j % 4] >> j / 4 * 4 & 15) | (get16(half + 96) >> 2 * j & 3) << 4);
        s->d[0] = get16(half + 64);
        break;
    case LW_SCALES_E8:
        for (int j = 0; j < 8; j++) s->d[j] = line[64 * (j / 4) + j % 4];
        break;
    }
}

/* ---- values ------------------------------------------------------------------------------------------------------ */
static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static float half_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, m = (uint32_t)(h & 0x7fff) << 13;
    if (m < 0x00800000) return (sign ? -0x1p-24f : 0x1p-24f) * (float)(h & 0x7fff);   /* subnormal */
    return from_bits(sign | (m + 0x38000000 + (m >= 0x0f800000 ? 0x38000000 : 0)));
}

/* 2^(e - 128) */
static float e8_value(uint16_t e) { return from_bits(e < 2 ? UINT32_C(0x00200000) << e : (uint32_t)(e - 1) << 23); }

/* The scale of block b; for K formats the float32 product of the formats' definition. */
static float scale_of(lw_scales kind, const super *s, int b)
{
    switch ((int)kind) {
    case LW_SCALES_E8: return e8_value(s->d[b]);
    case LW_SCALES_K8: return half_value(s->d[0]) * (float)(int8_t)s->scale[b];
    case LW_SCALES_K8F: return from_bits(s->wide) * (float)(int8_t)s->scale[b];
    case LW_SCALES_K3:
    case LW_SCALES_XS: return half_value(s->d[0]) * (float)(s->scale[b] - 32);
    case LW_SCALES_K6:
    case LW_SCALES_K2: return half_value(s->d[0]) * (float)s->scale[b];
    default: return half_value(s->d[b]);
    }
}

static void values(const lw_quant *q, const super *s, int n, float *out)
{
    const uint8_t *table = lw_quant_table(q->code);
    for (int i = 0; i < n; i += q->block) {
        int b = i / q->block;
        float scale = scale_of((lw_scales)q->scales, s, b), min = 0.0f;
        if (q->minima == LW_MIN_FLOAT) min = half_value(s->m[b]);
        if (q->minima == LW_MIN_INT) min = half_value(s->m[0]) * (float)s->min[b];
        for (int j = i; j < i + q->block; j++) {
            float x = scale * (float)((table ? table[s->code[j]] : s->code[j]) - q->zero);
            out[j] = q->minima == LW_MIN_FLOAT ? x + min : q->minima == LW_MIN_INT ? x - min : x;
        }
    }
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */
int64_t lw_weight_row_bytes(const lw_weight *w)
{
    if (w->format < LW_Q4_0) return 0;
    const lw_quant *q = lw_quant_of(w->format);
    return w->k / q->source_block * q->source_bytes;
}

/* n bytes, the low nibbles of all before the high ones, into 2n / 8 lines: as fields and put_codes would do it, in fewer steps. */
static void put_nibbles(const uint8_t *p, int n, uint8_t *lines)
{
    uint8_t *high = lines + n / 8 * LW_LINE;
    for (int i = 0; i < n / 8; i++) {
        uint32_t a = word(p + 8 * i), b = word(p + 8 * i + 4);
        put(lines + LW_LINE * i, (a & 0x0f0f0f0f) | (b & 0x0f0f0f0f) << 4);
        put(high + LW_LINE * i, (a >> 4 & 0x0f0f0f0f) | (b & 0xf0f0f0f0));
    }
}

/* n values of a row into its lane of a superblock. */
static void pack_lane(lw_format format, const uint8_t *from, int n, int lane, unsigned char *out)
{
    const lw_quant *q = lw_quant_of(format);
    super s;
    uint8_t *lines = out + q->header + 4 * lane;
    memset(s.d, 0, sizeof s - offsetof(super, d));
    if (format == LW_Q4_K) {
        read_k_scales(from, &s);
        for (int i = 0; i < 4; i++) put_nibbles(from + 16 + 32 * i, 32, lines + 2 * i * q->piece);
    } else if (q->source_block == 32 && q->piece == 4 * LW_LINE) {
        for (int b = 0; b < n / 32; b++, from += q->source_bytes) {
            read_small_scales(format, from, b, &s);
            put_nibbles(from + codes_at(format), 16, lines + b * q->piece);
        }
    } else {
        if (q->source_block == LW_SUPER) read_large(format, from, &s);
        else for (int b = 0; b < n / 32; b++) read_small(format, from + b * q->source_bytes, b, &s);
        for (int i = 0; i < n / LW_PIECE; i++) put_codes((lw_code)q->code, s.code + LW_PIECE * i, lines + i * q->piece);
    }
    put_scales((lw_scales)q->scales, &s, lane, out);
}

/* All lanes of a superblock before the next one: its lines stay in L1 while they are put together. */
void lw_quant_pack_panel(lw_format format, int64_t k, const unsigned char *const rows[LW_LANES], unsigned char *panel)
{
    const lw_quant *q = lw_quant_of(format);
    for (int64_t at = 0; at < k; at += LW_SUPER) {
        int64_t from = at / q->source_block * q->source_bytes;
        for (int lane = 0; lane < LW_LANES; lane++)
            if (rows[lane]) pack_lane(format, rows[lane] + from, (int)lw_min(LW_SUPER, k - at), lane, panel);
        panel += q->header + 8 * q->piece;
    }
}

void lw_quant_unpack_row(const lw_weight *w, int64_t row, float *out)
{
    const lw_quant *q = lw_quant_of(w->format);
    const unsigned char *panel = w->lines + (size_t)(row / LW_LANES) * w->panel_bytes;
    int lane = (int)(row % LW_LANES);
    for (int64_t k = 0; k < w->k; k += LW_SUPER) {
        super s = {0};
        int n = (int)lw_min(LW_SUPER, w->k - k);
        get_scales((lw_scales)q->scales, panel, lane, &s);
        for (int i = 0; i < n / LW_PIECE; i++)
            get_codes((lw_code)q->code, panel + q->header + i * q->piece + 4 * lane, s.code + LW_PIECE * i);
        panel += q->header + 8 * q->piece;
        if (!w->order) {
            values(q, &s, n, out + k);
            continue;
        }
        float part[LW_SUPER];
        values(q, &s, n, part);
        for (int i = 0; i < n; i++) out[w->order[k + i]] = part[i];
    }
}
