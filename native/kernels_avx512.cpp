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
    static inline i iset(int32_t x) { return _mm512_set1_epi32(x); }
    static inline i load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
    static inline bytes row_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
    static inline bytes broadcast_bytes(const std::byte* p) {
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
        return _mm512_and_si512(Shift ? _mm512_srli_epi16(codes, Shift) : codes, _mm512_set1_epi8((1 << Bits) - 1));
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

#include "kernels_body.h"

// Product codes where a register of bytes can be looked up in four others (VBMI): 64 rows side by side.
#define VBMI __attribute__((target("avx512vbmi")))

VBMI inline void transpose_words(__m512i* x) {  // 8 x 8 of 64 bits
    __m512i y[8];
#pragma GCC unroll 4
    for (int r = 0; r < 8; r += 2) {
        y[r] = _mm512_unpacklo_epi64(x[r], x[r + 1]);
        y[r + 1] = _mm512_unpackhi_epi64(x[r], x[r + 1]);
    }
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {  // word 2j + r of two rows in y[r + ...] lies in lane j
        const __m512i a = _mm512_shuffle_i64x2(y[r], y[r + 2], 0x88), b = _mm512_shuffle_i64x2(y[r], y[r + 2], 0xdd);
        const __m512i c = _mm512_shuffle_i64x2(y[r + 4], y[r + 6], 0x88);
        const __m512i d = _mm512_shuffle_i64x2(y[r + 4], y[r + 6], 0xdd);
        x[r] = _mm512_shuffle_i64x2(a, c, 0x88);
        x[r + 2] = _mm512_shuffle_i64x2(b, d, 0x88);
        x[r + 4] = _mm512_shuffle_i64x2(a, c, 0xdd);
        x[r + 6] = _mm512_shuffle_i64x2(b, d, 0xdd);
    }
}

// A line of each of 64 rows, to[byte * 64 + row].
VBMI void transpose_lines(const std::byte* const* rows, size_t offset, std::byte* to) {
    alignas(64) std::byte words[64 * 64];  // [word of the line][group of 8 rows][row]
    for (size_t g = 0; g < 8; ++g) {
        __m512i x[8];
        for (int r = 0; r < 8; ++r) {
            x[r] = _mm512_loadu_si512(rows[g * 8 + r] + offset);
            __builtin_prefetch(rows[g * 8 + r] + offset + 64);
        }
        transpose_words(x);
        for (int w = 0; w < 8; ++w) _mm512_store_si512(words + (w * 8 + g) * 64, x[w]);
    }
    alignas(64) std::byte order[64];
    for (int b = 0; b < 64; ++b) order[b] = static_cast<std::byte>(b % 8 * 8 + b / 8);
    const __m512i by_byte = _mm512_load_si512(order);
    for (size_t w = 0; w < 8; ++w) {
        __m512i x[8];
        for (int g = 0; g < 8; ++g) x[g] = _mm512_permutexvar_epi8(by_byte, _mm512_load_si512(words + (w * 8 + g) * 64));
        transpose_words(x);
        for (int b = 0; b < 8; ++b) _mm512_store_si512(to + (w * 8 + b) * 64, x[b]);
    }
}

VBMI void score_64(const std::byte* const* rows, const ProductQuery& query, float* out) {
    alignas(64) std::byte codes[64 * 64];
    const __m512i low_bytes = _mm512_set1_epi16(255), low_words = _mm512_set1_epi32(0xffff);
    __m512i sums[4] = {V::izero(), V::izero(), V::izero(), V::izero()};  // of rows 4i, 4i + 2, 4i + 1, 4i + 3
    const uint8_t* table = query.table;
    for (size_t line = 0; line < query.lines; ++line) {
        transpose_lines(rows, line * 64, codes);
        __m512i even = V::izero(), odd = V::izero();
        for (size_t m = 0; m < 64; ++m, table += kCentroids) {
            const __m512i code = _mm512_load_si512(codes + m * 64);
            const __m512i first = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), code, _mm512_loadu_si512(table + 64));
            const __m512i second =
                _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), code, _mm512_loadu_si512(table + 192));
            const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), first, second);
            even = _mm512_add_epi16(even, _mm512_and_si512(found, low_bytes));
            odd = _mm512_add_epi16(odd, _mm512_srli_epi16(found, 8));
        }
        sums[0] = _mm512_add_epi32(sums[0], _mm512_and_si512(even, low_words));
        sums[1] = _mm512_add_epi32(sums[1], _mm512_srli_epi32(even, 16));
        sums[2] = _mm512_add_epi32(sums[2], _mm512_and_si512(odd, low_words));
        sums[3] = _mm512_add_epi32(sums[3], _mm512_srli_epi32(odd, 16));
    }
    constexpr int row[4] = {0, 2, 1, 3};
    for (int j = 0; j < 4; ++j) {
        alignas(64) int32_t each[16];
        _mm512_store_si512(each, sums[j]);
        for (int i = 0; i < 16; ++i) out[4 * i + row[j]] = query.step * static_cast<float>(each[i]) + query.constant;
    }
}

VBMI void score_product_vbmi(const std::byte* const* rows, size_t n, const ProductQuery& query, float* out) {
    size_t i = 0;
    for (; i + 64 <= n; i += 64) score_64(rows + i, query, out + i);
    if (n - i < 12) return score_product(rows + i, n - i, query, out + i);
    const std::byte* last[64];
    float scores[64];
    for (size_t r = 0; r < 64; ++r) last[r] = rows[i + r < n ? i + r : n - 1];
    score_64(last, query, scores);
    for (size_t r = 0; i + r < n; ++r) out[i + r] = scores[r];
}

}  // namespace

const Kernels& kernels_avx512() {
    static const Kernels table = [] {
        Kernels best = kTable;
        if (__builtin_cpu_supports("avx512vbmi")) best.score_product = score_product_vbmi;
        return best;
    }();
    return table;
}

}  // namespace rag
#endif
