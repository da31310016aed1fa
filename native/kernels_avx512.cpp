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
    static inline f add(f a, f b) { return _mm512_add_ps(a, b); }
    static inline f min(f a, f b) { return _mm512_min_ps(a, b); }
    static inline f max(f a, f b) { return _mm512_max_ps(a, b); }
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
    template <int R>
    static inline void isums(const i* x, int32_t* out) {
        if constexpr (R == 8) {
            __m256i half[8];
#pragma GCC unroll 8
            for (int r = 0; r < 8; ++r)
                half[r] = _mm256_add_epi32(_mm512_castsi512_si256(x[r]), _mm512_extracti64x4_epi64(x[r], 1));
            const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(half[0], half[1]), _mm256_hadd_epi32(half[2], half[3]));
            const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(half[4], half[5]), _mm256_hadd_epi32(half[6], half[7]));
            const __m256i sums = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
            _mm256_storeu_si256((__m256i*)out, sums);
        } else {
            for (int r = 0; r < R; ++r) out[r] = isum(x[r]);
        }
    }
    using raw = __m512i;
    static inline raw load_raw(const std::byte* p) { return _mm512_loadu_si512(p); }
    template <int Shift, int Bits>
    static inline bytes field(raw codes) {
        return _mm512_and_si512(Shift ? _mm512_srli_epi16(codes, Shift) : codes, _mm512_set1_epi8((1 << Bits) - 1));
    }
    static inline i widen_bytes(const std::byte* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
    static inline i iand15(i x) { return _mm512_and_si512(x, _mm512_set1_epi32(15)); }
    static inline i ishr4(i x) { return _mm512_srli_epi32(x, 4); }
    static inline i ishl4(i x) { return _mm512_slli_epi32(x, 4); }
    static inline i ior(i a, i b) { return _mm512_or_si512(a, b); }
    static inline i isub(i a, i b) { return _mm512_sub_epi32(a, b); }
    static inline i imul(i a, int b) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(b)); }
    static inline f to_float(i x) { return _mm512_cvtepi32_ps(x); }
    static inline i to_int(f x) { return _mm512_cvttps_epi32(x); }
    static inline void store_bytes(std::byte* p, i x) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(x)); }
};

#include "kernels_body.h"

}  // namespace

const Kernels& kernels_avx512() { return kTable; }

}  // namespace rag
#endif
