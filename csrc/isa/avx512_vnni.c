/* AVX-512 with the byte dot product (vpdpbusd). */
#define LW_HAS_VNNI
#include "../lanewise.h"
#include "../vec/avx512.h"

#include "avx512_tiles.h"
#include "../kernels/table.h"
#include "tables.h"

#ifdef LW_EMULATE
LW_DEFINE_TABLE(lw_emulated_avx512_vnni, "emulated_avx512_vnni");
#else
/* For avx512_bf16. */
void lw_tile_quant_avx512_vnni(const lw_quant_tile *t) { tile_quant(t); }
void lw_expand_quant_avx512_vnni(int form, int64_t k, const void *panel, void *out) { expand_quant(form, k, panel, out); }
void lw_quantize_quant_avx512_vnni(int form, int rows, int64_t k, const float *a, ptrdiff_t lda, void *out) {
    quantize(form, rows, k, a, lda, out);
}
LW_DEFINE_TABLE(lw_kernels_avx512_vnni, "avx512_vnni");
#endif
