// AVX-512 with VNNI: 16 floats, or 64 bytes, an instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

namespace rag {
namespace {

struct V {
    using f = __m512;
    using i = __m512i;
    using bytes = __m512i;
    static constexpr int lanes = 16, panel_vectors = 3, tile_rows = 8, row_tile = 8;

    static inline f zero() { return _mm512_setzero_ps(); }
    static inline f load(const float* p) { return _mm512_loadu_ps(p); }
    static inline f broadcast(float x) { return _mm512_set1_ps(x); }
    static inline void store(float* p, f x) { _mm512_storeu_ps(p, x); }
    static inline f fma(f a, f b, f c) { return _mm512_fmadd_ps(a, b, c); }
    static inline f sub(f a, f b) { return _mm512_sub_ps(a, b); }
    static inline f mul(f a, f b) { return _mm512_mul_ps(a, b); }
    static inline float sum(f x) { return _mm512_reduce_add_ps(x); }
    static inline unsigned not_less(f a, f b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
    static inline f load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
    static inline void store_half(uint16_t* p, f x) {
        _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }

    // dpbusd takes the row's unsigned bytes as they are; the +128 in them adds 128 * (sum of the query) to each dot.
    static constexpr int code_offset = 128;
    static inline i izero() { return _mm512_setzero_si512(); }
    static inline i load_bytes(const void* p) { return _mm512_loadu_si512(p); }
    static inline i load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
    static inline bytes row_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
    static inline bytes broadcast_bytes(const std::byte* p) {
        int32_t quad;
        __builtin_memcpy(&quad, p, 4);
        return _mm512_set1_epi32(quad);
    }
    static inline i dot4(i sum, bytes row, i query) { return _mm512_dpbusd_epi32(sum, row, query); }
    static inline int32_t isum(i x) { return _mm512_reduce_add_epi32(x); }
    static inline i isub(i a, i b) { return _mm512_sub_epi32(a, b); }
    static inline i imul(i a, int b) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(b)); }
    static inline f to_float(i x) { return _mm512_cvtepi32_ps(x); }
};

#include "kernels_body.h"

}  // namespace

const Kernels& kernels_avx512() { return kTable; }

}  // namespace rag
#endif
