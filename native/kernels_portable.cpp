// Any processor: vectors of four floats in plain C++, which the compiler maps to whatever the target has.
#include "kernels.h"

namespace rag {
namespace {

struct V {
    using f = float __attribute__((vector_size(16)));
    using i = int32_t __attribute__((vector_size(16)));
    struct bytes {
        int8_t at[16];
    };
    static constexpr int lanes = 4, panel_vectors = 2, tile_rows = 4, row_tile = 4;

    template <class T>
    static inline T copy(const void* p) {
        T x;
        __builtin_memcpy(&x, p, sizeof x);
        return x;
    }

    static inline f zero() { return f{}; }
    static inline f load(const float* p) { return copy<f>(p); }
    static inline f broadcast(float x) { return f{x, x, x, x}; }
    static inline void store(float* p, f x) { __builtin_memcpy(p, &x, sizeof x); }
    static inline f fma(f a, f b, f c) { return a * b + c; }
    static inline f sub(f a, f b) { return a - b; }
    static inline f mul(f a, f b) { return a * b; }
    static inline f add(f a, f b) { return a + b; }
    static inline f min(f a, f b) { return a < b ? a : b; }
    static inline f max(f a, f b) { return a > b ? a : b; }
    static inline float sum(f x) { return (x[0] + x[2]) + (x[1] + x[3]); }
    static inline unsigned not_less(f a, f b) {
        return unsigned(a[0] >= b[0]) | unsigned(a[1] >= b[1]) << 1 | unsigned(a[2] >= b[2]) << 2 |
               unsigned(a[3] >= b[3]) << 3;
    }

    static inline float widen(uint16_t half) {
        const uint32_t sign = uint32_t(half & 0x8000) << 16;
        const uint32_t magnitude = half & 0x7fff;
        if (magnitude < 0x0400) {  // zero or subnormal: magnitude * 2^-24, exactly
            const float value = float(magnitude) * 0x1p-24f;
            return sign ? -value : value;
        }
        return copy<float>(&static_cast<const uint32_t&>(sign | ((magnitude << 13) + (uint32_t(127 - 15) << 23))));
    }
    // Round to nearest, ties to even. The engine stores no infinity, NaN or value beyond the range of half.
    static inline uint16_t narrow(float x) {
        const uint32_t all = copy<uint32_t>(&x), sign = all >> 16 & 0x8000, magnitude = all & 0x7fffffff;
        if (magnitude < 0x38800000) {  // below 2^-14: the addition of 0.5 shifts and rounds the digits in place
            const float shifted = copy<float>(&magnitude) + 0.5f;
            return uint16_t(sign | (copy<uint32_t>(&shifted) - 0x3f000000));
        }
        const uint32_t rebased = magnitude - (uint32_t(127 - 15) << 23);
        return uint16_t(sign | ((rebased + 0xfff + (rebased >> 13 & 1)) >> 13));
    }
    static inline f load_half(const uint16_t* p) { return f{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}; }
    static inline void store_half(uint16_t* p, f x) {
        for (int l = 0; l < lanes; ++l) p[l] = narrow(x[l]);
    }

    static constexpr int code_offset = 0;
    static inline i izero() { return i{}; }
    static inline i load_bytes(const void* p) { return copy<i>(p); }
    static inline i iset(int32_t x) { return i{x, x, x, x}; }
    static inline i load_ints(const int32_t* p) { return copy<i>(p); }
    static inline bytes row_bytes(const std::byte* p) {
        bytes row;
        for (int b = 0; b < 16; ++b) row.at[b] = int8_t(int(p[b]) - 128);
        return row;
    }
    template <bool Small>
    static inline bytes broadcast_quad(const std::byte* p) {
        bytes row;
        for (int b = 0; b < 16; ++b) row.at[b] = int8_t(int(p[b % 4]) - (Small ? 0 : 128));
        return row;
    }
    static inline i dot4(i sum, const bytes& row, i query) {
        const bytes q = copy<bytes>(&query);
        for (int l = 0; l < lanes; ++l)
            for (int b = 4 * l; b < 4 * l + 4; ++b) sum[l] += row.at[b] * q.at[b];
        return sum;
    }
    static inline int32_t isum(i x) { return x[0] + x[1] + x[2] + x[3]; }
    static inline i four_sums(const i* x) { return i{isum(x[0]), isum(x[1]), isum(x[2]), isum(x[3])}; }
    static inline i join_sums(const i* x) { return *x; }
    // Four floats of each of four rows, column by column.
    static inline void columns(const float* const* rows, f* out) {
        for (int c = 0; c < 4; ++c) out[c] = f{rows[0][c], rows[1][c], rows[2][c], rows[3][c]};
    }
    struct raw {
        uint8_t at[16];
    };
    static inline raw load_raw(const std::byte* p) { return copy<raw>(p); }
    template <int Shift, int Bits>
    static inline bytes field(const raw& codes) {
        bytes row;
        for (int b = 0; b < 16; ++b) row.at[b] = int8_t(codes.at[b] >> Shift & ((1 << Bits) - 1));
        return row;
    }
    // Codes one after the other to one a byte: part number so and so of a line of 64.
    template <int Bits, int Part>
    static inline bytes spread(const std::byte* p) {
        bytes row;
        for (int b = 0; b < 16; ++b) {
            const int at = (16 * Part + b) * Bits;
            row.at[b] = int8_t(int(p[at / 8]) >> (at % 8) & ((1 << Bits) - 1));
        }
        return row;
    }
    // table[code] + base, as bytes of which 128 stands for zero.
    static inline bytes looked_up(const std::byte* table, const bytes& codes, const std::byte* base) {
        bytes result;
        for (int b = 0; b < 16; ++b) {
            const int sum = int(int8_t(table[codes.at[b]])) + int(int8_t(base[b]));
            result.at[b] = int8_t(uint8_t((sum < -128 ? -128 : sum > 127 ? 127 : sum) + 128));
        }
        return result;
    }
    static inline void store_codes(std::byte* p, const bytes& x) { __builtin_memcpy(p, x.at, sizeof x.at); }
    static inline i widen_bytes(const std::byte* p) { return i{int(p[0]), int(p[1]), int(p[2]), int(p[3])}; }
    static inline i iand15(i x) { return x & 15; }
    static inline i ishr4(i x) { return x >> 4; }
    static inline i ishl4(i x) { return x << 4; }
    static inline i ior(i a, i b) { return a | b; }
    static inline i isub(i a, i b) { return a - b; }
    static inline i imul(i a, int b) { return a * b; }
    static inline f to_float(i x) { return __builtin_convertvector(x, f); }
    static inline i to_int(f x) { return __builtin_convertvector(x, i); }
    static inline void store_bytes(std::byte* p, i x) {
        for (int l = 0; l < lanes; ++l) p[l] = std::byte(x[l]);
    }
};

#include "kernels_body.h"

}  // namespace

const Kernels& kernels_portable() { return kTable; }

}  // namespace rag
