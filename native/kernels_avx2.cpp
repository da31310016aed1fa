// AVX2 with FMA and F16C: 8 floats, or 32 bytes, an instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

namespace rag {
namespace {

struct V {
    using f = __m256;
    using i = __m256i;
    struct bytes {
        __m256i value, magnitude;
    };
    static constexpr int lanes = 8, panel_vectors = 2, tile_rows = 6, row_tile = 4;

    static inline f zero() { return _mm256_setzero_ps(); }
    static inline f load(const float* p) { return _mm256_loadu_ps(p); }
    static inline f broadcast(float x) { return _mm256_set1_ps(x); }
    static inline void store(float* p, f x) { _mm256_storeu_ps(p, x); }
    static inline f fma(f a, f b, f c) { return _mm256_fmadd_ps(a, b, c); }
    static inline f sub(f a, f b) { return _mm256_sub_ps(a, b); }
    static inline f mul(f a, f b) { return _mm256_mul_ps(a, b); }
    static inline f add(f a, f b) { return _mm256_add_ps(a, b); }
    static inline f min(f a, f b) { return _mm256_min_ps(a, b); }
    static inline f max(f a, f b) { return _mm256_max_ps(a, b); }
    static inline float sum(f x) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static inline unsigned not_less(f a, f b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
    static inline f load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
    static inline void store_half(uint16_t* p, f x) {
        _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }

    // maddubs saturates at 16 bits, so the row goes in by magnitude (<= 127) and its sign moves to the query:
    // 2 * 127 * 127 fits. The dot is then that of the signed values.
    static constexpr int code_offset = 0;
    static inline bytes signed_row(__m256i codes) {
        const __m256i value = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        return {value, _mm256_abs_epi8(value)};
    }
    static inline i izero() { return _mm256_setzero_si256(); }
    static inline i load_bytes(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static inline i iset(int32_t x) { return _mm256_set1_epi32(x); }
    static inline i load_ints(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static inline bytes row_bytes(const std::byte* p) { return signed_row(_mm256_loadu_si256((const __m256i*)p)); }
    static inline i dot4(i sum, const bytes& row, i query) {
        const __m256i pairs = _mm256_maddubs_epi16(row.magnitude, _mm256_sign_epi8(query, row.value));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static inline int32_t isum(i x) {
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
    }
    // The sums of four registers, in parts: lane by lane of 128 bits; and of eight registers, of the parts of four each.
    static inline i four_sums(const i* x) {
        return _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
    }
    static inline i join_sums(const i* x) {
        return _mm256_add_epi32(_mm256_permute2x128_si256(x[0], x[1], 0x20), _mm256_permute2x128_si256(x[0], x[1], 0x31));
    }
    // Four floats of each of eight rows, column by column.
    static inline void columns(const float* const* rows, f* out) {
        f four[4];  // lane j of it: row 4j + r
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r)
            four[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[r])), _mm_loadu_ps(rows[4 + r]), 1);
        const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(four[0], four[1]));
        const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(four[0], four[1]));
        const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(four[2], four[3]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(four[2], four[3]));
        out[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        out[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        out[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        out[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    // Codes of at most 4 bits go into maddubs as they are: 2 * 15 * 127 fits.
    using raw = __m256i;
    struct small {
        __m256i value;
    };
    template <bool Small>
    static inline auto broadcast_quad(const std::byte* p) {
        int32_t quad;
        __builtin_memcpy(&quad, p, 4);
        if constexpr (Small)
            return small{_mm256_set1_epi32(quad)};
        else
            return signed_row(_mm256_set1_epi32(quad));
    }
    static inline raw load_raw(const std::byte* p) { return _mm256_loadu_si256((const __m256i*)p); }
    template <int Shift, int Bits>
    static inline small field(raw codes) {
        return {_mm256_and_si256(Shift ? _mm256_srli_epi16(codes, Shift) : codes, _mm256_set1_epi8((1 << Bits) - 1))};
    }
    static inline i dot4(i sum, small row, i query) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(row.value, query), _mm256_set1_epi16(1)));
    }
    // Codes one after the other to one a byte: part number so and so of a line of 64.
    template <int Bits, int Part>
    static inline small spread(const std::byte* p) {
        p += 4 * Bits * Part;
        if constexpr (Bits == 1) {
            int32_t mask;
            __builtin_memcpy(&mask, p, 4);
            const __m256i order = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
            const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
            const __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(mask), order), bit);
            return {_mm256_and_si256(_mm256_cmpeq_epi8(own, bit), _mm256_set1_epi8(1))};
        } else if constexpr (Bits == 2) {
            const __m256i one = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
            const __m256i two = _mm256_or_si256(one, _mm256_slli_epi32(one, 12));
            return {_mm256_and_si256(_mm256_or_si256(two, _mm256_slli_epi32(two, 6)), _mm256_set1_epi8(3))};
        } else {
            const __m256i one = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
            return {_mm256_and_si256(_mm256_or_si256(one, _mm256_slli_epi16(one, 4)), _mm256_set1_epi8(15))};
        }
    }
    // table[code] + base, as bytes of which 128 stands for zero.
    static inline small looked_up(const std::byte* table, small codes, const std::byte* base) {
        const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
        const __m256i sum = _mm256_adds_epi8(_mm256_shuffle_epi8(all, codes.value), load_raw(base));
        return {_mm256_xor_si256(sum, _mm256_set1_epi8(-128))};
    }
    static inline void store_codes(std::byte* p, small x) { _mm256_storeu_si256((__m256i*)p, x.value); }
    static inline i widen_bytes(const std::byte* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
    static inline i iand15(i x) { return _mm256_and_si256(x, _mm256_set1_epi32(15)); }
    static inline i ishr4(i x) { return _mm256_srli_epi32(x, 4); }
    static inline i ishl4(i x) { return _mm256_slli_epi32(x, 4); }
    static inline i ior(i a, i b) { return _mm256_or_si256(a, b); }
    static inline i isub(i a, i b) { return _mm256_sub_epi32(a, b); }
    static inline i imul(i a, int b) { return _mm256_mullo_epi32(a, _mm256_set1_epi32(b)); }
    static inline f to_float(i x) { return _mm256_cvtepi32_ps(x); }
    static inline i to_int(f x) { return _mm256_cvttps_epi32(x); }
    static inline void store_bytes(std::byte* p, i x) {
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(words, words));
    }
};

#include "kernels_body.h"

}  // namespace

const Kernels& kernels_avx2() { return kTable; }

}  // namespace rag
#endif
