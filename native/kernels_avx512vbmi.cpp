// AVX-512 with VBMI and GFNI besides VNNI: bytes of a register in any order, and bits of a byte.
#if defined(__x86_64__)
#include "kernels_avx512.h"

namespace rag {
namespace {

#include "kernels_body.h"

// Product codes: a register of bytes is looked up in four others, 64 rows side by side.
inline void transpose_words(__m512i* x) {  // 8 x 8 of 64 bits
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
void transpose_lines(const std::byte* const* rows, size_t offset, std::byte* to) {
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

void score_64(const std::byte* const* rows, const ProductQuery& query, float* out) {
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

void score_product_vbmi(const std::byte* const* rows, size_t n, const ProductQuery& query, float* out) {
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

const Kernels& kernels_avx512vbmi() {
    static const Kernels table = [] {
        Kernels best = kTable;
        best.score_product = score_product_vbmi;
        return best;
    }();
    return table;
}

}  // namespace rag
#endif
