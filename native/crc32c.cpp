#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace rag {

namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bit-reversed

constexpr std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ kPolynomial : c >> 1;
        table[i] = c;
    }
    return table;
}

[[maybe_unused]] uint32_t by_table(uint32_t crc, const unsigned char* p, size_t n) {
    static constexpr std::array<uint32_t, 256> table = make_table();
    for (; n; --n) crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
    return crc;
}

#if defined(__x86_64__)
#define RAG_CRC_TARGET __attribute__((target("sse4.2")))
RAG_CRC_TARGET inline uint64_t step8(uint64_t crc, uint64_t w) { return _mm_crc32_u64(crc, w); }
RAG_CRC_TARGET inline uint32_t step1(uint32_t crc, unsigned char b) { return _mm_crc32_u8(crc, b); }
bool has_instruction() { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__ARM_FEATURE_CRC32)
#define RAG_CRC_TARGET
inline uint64_t step8(uint64_t crc, uint64_t w) { return __crc32cd(static_cast<uint32_t>(crc), w); }
inline uint32_t step1(uint32_t crc, unsigned char b) { return __crc32cb(crc, b); }
bool has_instruction() { return true; }
#endif

#if defined(RAG_CRC_TARGET)
inline uint64_t word(const unsigned char* p) {
    uint64_t w;
    std::memcpy(&w, p, 8);
    return w;
}

// The instruction takes three cycles but a new one can start every cycle, so three stretches run side by side.
// Appending `zeros` zero bytes to a stretch is linear in its checksum: one table look-up a byte of the checksum.
constexpr size_t kStretch = 4096;

struct Shift {
    std::array<std::array<uint32_t, 256>, 4> table{};

    constexpr explicit Shift(size_t zeros) {
        std::array<uint32_t, 32> power{};  // column i: what bit i of a checksum becomes after `zeros` zero bytes
        const auto bytes = make_table();
        for (int i = 0; i < 32; ++i) {
            uint32_t c = uint32_t{1} << i;
            for (size_t z = 0; z < zeros; ++z) c = c >> 8 ^ bytes[c & 0xff];
            power[i] = c;
        }
        for (int k = 0; k < 4; ++k)
            for (uint32_t b = 0; b < 256; ++b)
                for (int i = 0; i < 8; ++i)
                    if (b >> i & 1) table[k][b] ^= power[8 * k + i];
    }
    uint32_t operator()(uint32_t c) const {
        return table[0][c & 0xff] ^ table[1][c >> 8 & 0xff] ^ table[2][c >> 16 & 0xff] ^ table[3][c >> 24];
    }
};

RAG_CRC_TARGET uint32_t by_instruction(uint32_t crc, const unsigned char* p, size_t n) {
    static const Shift shift(kStretch);
    for (; n >= 3 * kStretch; p += 3 * kStretch, n -= 3 * kStretch) {
        uint64_t a = crc, b = 0, c = 0;
        for (size_t i = 0; i < kStretch; i += 8) {
            a = step8(a, word(p + i));
            b = step8(b, word(p + kStretch + i));
            c = step8(c, word(p + 2 * kStretch + i));
        }
        crc = shift(shift(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
    }
    for (; n >= 8; p += 8, n -= 8) crc = static_cast<uint32_t>(step8(crc, word(p)));
    for (; n; --n) crc = step1(crc, *p++);
    return crc;
}
#endif

}  // namespace

uint32_t crc32c(const void* data, size_t bytes, uint32_t value) {
    const auto* p = static_cast<const unsigned char*>(data);
#if defined(RAG_CRC_TARGET)
    static const bool instruction = has_instruction();
    if (instruction) return ~by_instruction(~value, p, bytes);
#endif
    return ~by_table(~value, p, bytes);
}

}  // namespace rag
