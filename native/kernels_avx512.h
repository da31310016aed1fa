// The registers of AVX-512 with VNNI, for each file that is compiled for them.
#pragma once
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
    static inline i iset(int32_t x) { return _mm512_set1_epi32(x); }
    static inline i load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
    static inline bytes row_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
    template <bool>
    static inline bytes broadcast_quad(const std::byte* p) {
        int32_t quad;
        __builtin_memcpy(&quad, p, 4);
        return _mm512_set1_epi32(quad);
    }
    static inline i dot4(i sum, bytes row, i query) { return _mm512_dpbusd_epi32(sum, row, query); }
    static inline int32_t isum(i x) { return _mm512_reduce_add_epi32(x); }
    // The sums of four registers, in parts: lane by lane of 128 bits.
    static inline i four_sums(const i* x) {
        const i a = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
        const i b = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
        return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    // The sums of sixteen registers, of the parts of four each.
    static inline i join_sums(const i* x) {
        const i a = _mm512_add_epi32(_mm512_shuffle_i64x2(x[0], x[1], 0x44), _mm512_shuffle_i64x2(x[0], x[1], 0xee));
        const i b = _mm512_add_epi32(_mm512_shuffle_i64x2(x[2], x[3], 0x44), _mm512_shuffle_i64x2(x[2], x[3], 0xee));
        return _mm512_add_epi32(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
    }
    // Four floats of each of sixteen rows, column by column.
    static inline void columns(const float* const* rows, f* out) {
        f four[4];  // lane j of it: row 4j + r
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
            const f low = _mm512_castps128_ps512(_mm_loadu_ps(rows[r]));
            const f lower = _mm512_mask_broadcast_f32x4(low, 0x00f0, _mm_loadu_ps(rows[4 + r]));
            const f higher = _mm512_mask_broadcast_f32x4(lower, 0x0f00, _mm_loadu_ps(rows[8 + r]));
            four[r] = _mm512_mask_broadcast_f32x4(higher, 0xf000, _mm_loadu_ps(rows[12 + r]));
        }
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(four[0], four[1]));
        const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(four[0], four[1]));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(four[2], four[3]));
        const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(four[2], four[3]));
        out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    using raw = __m512i;
    static inline raw load_raw(const std::byte* p) { return _mm512_loadu_si512(p); }
    template <int Shift, int Bits>
    static inline bytes field(raw codes) {
        if constexpr (Shift == 0) return _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>((1 << Bits) - 1)));
#if defined(__GFNI__)
        // One instruction shifts and cuts off: a matrix of bits, whose row 7 - i says which of them becomes bit i.
        uint64_t matrix = 0;
        for (int bit = 0; bit < Bits; ++bit) matrix |= uint64_t{1} << (8 * (7 - bit) + Shift + bit);
        return _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(static_cast<long long>(matrix)), 0);
#else
        return _mm512_and_si512(_mm512_srli_epi16(codes, Shift), _mm512_set1_epi8((1 << Bits) - 1));
#endif
    }
    // Codes one after the other to one a byte: part number so and so of a line of 64.
    template <int Bits, int>
    static inline bytes spread(const std::byte* p) {
        if constexpr (Bits == 1) {
            uint64_t mask;
            __builtin_memcpy(&mask, p, 8);
            return _mm512_maskz_mov_epi8(mask, _mm512_set1_epi8(1));
        } else if constexpr (Bits == 2) {
            const __m512i one = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
            const __m512i two = _mm512_or_si512(one, _mm512_slli_epi32(one, 12));
            return _mm512_and_si512(_mm512_or_si512(two, _mm512_slli_epi32(two, 6)), _mm512_set1_epi8(3));
        } else {
            const __m512i one = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p));
            return _mm512_and_si512(_mm512_or_si512(one, _mm512_slli_epi16(one, 4)), _mm512_set1_epi8(15));
        }
    }
    // table[code] + base, as bytes of which 128 stands for zero.
    static inline bytes looked_up(const std::byte* table, bytes codes, const std::byte* base) {
        const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table));
        const __m512i sum = _mm512_adds_epi8(_mm512_shuffle_epi8(all, codes), load_raw(base));
        return _mm512_xor_si512(sum, _mm512_set1_epi8(-128));
    }
    static inline void store_codes(std::byte* p, bytes x) { _mm512_storeu_si512(p, x); }
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

}  // namespace
}  // namespace rag
