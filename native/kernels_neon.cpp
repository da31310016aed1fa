// NEON, on every 64-bit ARM: 4 floats, or 16 bytes, an instruction.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels.h"

namespace rag {
namespace {

struct V {
    using f = float32x4_t;
    using i = int32x4_t;
    using bytes = int8x16_t;
    static constexpr int lanes = 4, panel_vectors = 3, tile_rows = 8, row_tile = 8;

    static inline f zero() { return vdupq_n_f32(0); }
    static inline f load(const float* p) { return vld1q_f32(p); }
    static inline f broadcast(float x) { return vdupq_n_f32(x); }
    static inline void store(float* p, f x) { vst1q_f32(p, x); }
    static inline f fma(f a, f b, f c) { return vfmaq_f32(c, a, b); }
    static inline f sub(f a, f b) { return vsubq_f32(a, b); }
    static inline f mul(f a, f b) { return vmulq_f32(a, b); }
    static inline f add(f a, f b) { return vaddq_f32(a, b); }
    static inline f min(f a, f b) { return vminq_f32(a, b); }
    static inline f max(f a, f b) { return vmaxq_f32(a, b); }
    static inline float sum(f x) { return vaddvq_f32(x); }
    static inline unsigned not_less(f a, f b) {
        const uint32_t weights[4] = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), vld1q_u32(weights)));
    }
    static inline f load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static inline void store_half(uint16_t* p, f x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }

    // Rows are turned back to signed bytes (x ^ 128), so the dot is that of the signed values.
    static constexpr int code_offset = 0;
    static inline bytes signed_row(uint8x16_t codes) { return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128))); }
    static inline i izero() { return vdupq_n_s32(0); }
    static inline i load_bytes(const void* p) { return vreinterpretq_s32_s8(vld1q_s8(static_cast<const int8_t*>(p))); }
    static inline i iset(int32_t x) { return vdupq_n_s32(x); }
    static inline i load_ints(const int32_t* p) { return vld1q_s32(p); }
    static inline bytes row_bytes(const std::byte* p) { return signed_row(vld1q_u8((const uint8_t*)p)); }
    template <bool Small>
    static inline bytes broadcast_quad(const std::byte* p) {
        uint32_t quad;
        __builtin_memcpy(&quad, p, 4);
        const uint8x16_t codes = vreinterpretq_u8_u32(vdupq_n_u32(quad));
        return Small ? vreinterpretq_s8_u8(codes) : signed_row(codes);
    }
    static inline i dot4(i sum, bytes row, i query) {
        const int8x16_t q = vreinterpretq_s8_s32(query);
#if defined(__ARM_FEATURE_DOTPROD)
        return vdotq_s32(sum, row, q);
#else
        const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(row), vget_low_s8(q)));
        const int32x4_t high = vpaddlq_s16(vmull_high_s8(row, q));
        return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
    }
    static inline int32_t isum(i x) { return vaddvq_s32(x); }
    static inline i four_sums(const i* x) { return vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3])); }
    static inline i join_sums(const i* x) { return *x; }
    // Four floats of each of four rows, column by column.
    static inline void columns(const float* const* rows, f* out) {
        const f x[4] = {vld1q_f32(rows[0]), vld1q_f32(rows[1]), vld1q_f32(rows[2]), vld1q_f32(rows[3])};
        const f a = vzip1q_f32(x[0], x[2]), b = vzip2q_f32(x[0], x[2]), c = vzip1q_f32(x[1], x[3]), d = vzip2q_f32(x[1], x[3]);
        out[0] = vzip1q_f32(a, c);
        out[1] = vzip2q_f32(a, c);
        out[2] = vzip1q_f32(b, d);
        out[3] = vzip2q_f32(b, d);
    }
    using raw = uint8x16_t;
    static inline raw load_raw(const std::byte* p) { return vld1q_u8((const uint8_t*)p); }
    template <int Shift, int Bits>
    static inline bytes field(raw codes) {
        if constexpr (Shift > 0) codes = vshrq_n_u8(codes, Shift);
        return vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8((1 << Bits) - 1)));
    }
    // Codes one after the other to one a byte: part number so and so of a line of 64.
    template <int Bits, int Part>
    static inline bytes spread(const std::byte* p) {
        static constexpr uint8_t order[3][16] = {{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                                                 {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                                 {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7}};
        static constexpr int8_t shifts[3][16] = {{0, -1, -2, -3, -4, -5, -6, -7, 0, -1, -2, -3, -4, -5, -6, -7},
                                                 {0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6},
                                                 {0, -4, 0, -4, 0, -4, 0, -4, 0, -4, 0, -4, 0, -4, 0, -4}};
        uint64_t word = 0;
        __builtin_memcpy(&word, p + 2 * Bits * Part, 2 * Bits);
        const uint8x16_t all = vqtbl1q_u8(vreinterpretq_u8_u64(vdupq_n_u64(word)), vld1q_u8(order[Bits / 2]));
        const uint8x16_t moved = vshlq_u8(all, vld1q_s8(shifts[Bits / 2]));
        return vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8((1 << Bits) - 1)));
    }
    // table[code] + base, as bytes of which 128 stands for zero.
    static inline bytes looked_up(const std::byte* table, bytes codes, const std::byte* base) {
        const int8x16_t value = vqtbl1q_s8(vld1q_s8((const int8_t*)table), vreinterpretq_u8_s8(codes));
        return veorq_s8(vqaddq_s8(value, vld1q_s8((const int8_t*)base)), vdupq_n_s8(-128));
    }
    static inline void store_codes(std::byte* p, bytes x) { vst1q_s8((int8_t*)p, x); }
    static inline i widen_bytes(const std::byte* p) {
        uint32_t quad;
        __builtin_memcpy(&quad, p, 4);
        const uint16x8_t wide = vmovl_u8(vcreate_u8(quad));
        return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
    }
    static inline i iand15(i x) { return vandq_s32(x, vdupq_n_s32(15)); }
    static inline i ishr4(i x) { return vshrq_n_s32(x, 4); }
    static inline i ishl4(i x) { return vshlq_n_s32(x, 4); }
    static inline i ior(i a, i b) { return vorrq_s32(a, b); }
    static inline i isub(i a, i b) { return vsubq_s32(a, b); }
    static inline i imul(i a, int b) { return vmulq_n_s32(a, b); }
    static inline f to_float(i x) { return vcvtq_f32_s32(x); }
    static inline i to_int(f x) { return vcvtq_s32_f32(x); }
    static inline void store_bytes(std::byte* p, i x) {
        const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(x));
        const uint8x8_t narrow = vmovn_u16(vcombine_u16(words, words));
        const uint32_t quad = vget_lane_u32(vreinterpret_u32_u8(narrow), 0);
        __builtin_memcpy(p, &quad, 4);
    }
};

#include "kernels_body.h"

}  // namespace

const Kernels& kernels_neon() { return kTable; }

}  // namespace rag
#endif
