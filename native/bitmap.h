// A set of row numbers, one bit each.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rag {

class Bitmap {
public:
    explicit Bitmap(size_t n = 0, bool value = false) { resize(n, value); }

    void resize(size_t n, bool value = false) {
        words_.resize((n + 63) / 64, 0);
        for (size_t i = n_; value && i < n; ++i) set(i);
        n_ = n;
    }
    size_t size() const { return n_; }
    bool operator[](size_t i) const { return words_[i / 64] >> (i % 64) & 1; }
    void set(size_t i) { words_[i / 64] |= uint64_t{1} << (i % 64); }
    void reset(size_t i) { words_[i / 64] &= ~(uint64_t{1} << (i % 64)); }
    size_t count() const {
        size_t n = 0;
        for (uint64_t word : words_) n += std::popcount(word);
        return n;
    }
    std::span<const uint64_t> words() const { return words_; }
    std::span<uint64_t> words() { return words_; }

    // Calls f(i) for every member, in ascending order.
    template <class F>
    void each(F f) const {
        for (size_t w = 0; w < words_.size(); ++w)
            for (uint64_t bits = words_[w]; bits; bits &= bits - 1) f(w * 64 + std::countr_zero(bits));
    }

private:
    std::vector<uint64_t> words_;
    size_t n_ = 0;
};

}  // namespace rag
