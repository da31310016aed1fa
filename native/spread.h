// Vectors around a centre, for choosing among candidates for links.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "store.h"

namespace rag {

// Vectors around a centre, made ready for comparing them with one another by Euclidean distance: what sets each apart
// from the centre, in a byte a number, so that near ones are told apart as well as far ones. Under inner product a
// component is added in thought that makes all vectors equally long, as far as the longest: then the nearest are those
// with the largest inner product (Bachrach et al. 2014).
class Spread {
public:
    explicit Spread(const VectorStore& store)
        : store_(store), width_(round_up(store.dim(), 64)), centre_(width_), apart_(width_), signed_(width_) {}

    // The vector of a row, from now on the centre.
    const float* centre(uint32_t row, double longest) {
        longest_ = longest;
        centre_added_ = decode(row, centre_.data());
        return centre_.data();
    }
    void load(size_t slot, uint32_t row) {
        if (slot >= slots_) {
            slots_ = 2 * slot + 64;
            codes_.resize(slots_ * width_);
            scales_.resize(slots_);
            added_.resize(slots_);
            norms_.resize(slots_);
            pointers_.resize(slots_ + kMaxTile);
            factors_.resize(2 * pointers_.size());
        }
        added_[slot] = decode(row, apart_.data());
        const auto* const vector = reinterpret_cast<const std::byte*>(apart_.data());
        const std::array<const std::byte*, kMaxTile + 1> alone = filled(vector);
        kernels().l2_f32(alone.data(), 1, centre_.data(), width_, &norms_[slot]);
        norms_[slot] = -norms_[slot];
        subtract(apart_.data(), centre_.data(), width_);
        float low = 0, high = 0;
        kernels().range(apart_.data(), width_, &low, &high);
        const float largest = std::max(-low, high), inverse = largest > 0 ? kLargest / largest : 0;
        const bool usable = std::isfinite(inverse);  // it is not when all components are tiny: they count as zero
        scales_[slot] = usable ? largest / kLargest : 0;
        const Grid grid{-largest, usable ? inverse : 0, kZero - kLargest + 0.5f, 255};
        kernels().quantize(apart_.data(), width_, grid, codes_.data() + slot * width_);
    }
    // Asks for the memory of a row that is soon to be loaded.
    void fetch(uint32_t row) const {
        const Rows& codes = store_.finest().codes;
        for (size_t at = 0; at < std::min(codes.stride(), kFetched); at += 64) __builtin_prefetch(codes[row] + at);
    }
    // The squared distance from the centre.
    float distance(size_t slot) const {
        const float added = added_[slot] - centre_added_;
        return norms_[slot] + added * added;
    }
    // Squared distances of one to others.
    void distances(size_t from, std::span<const uint32_t> to, float* out) {
        const std::byte* const own = codes_.data() + from * width_;
        const int32_t sum = flip(own, signed_.data(), width_);
        for (size_t i = 0; i < to.size(); ++i) {
            pointers_[i] = codes_.data() + to[i] * width_;
            factors_[2 * i] = scales_[to[i]];
            factors_[2 * i + 1] = norms_[to[i]];
        }
        std::fill_n(pointers_.begin() + to.size(), kMaxTile, own);
        kernels().dot_i8(pointers_.data(), factors_.data(), to.size(), {signed_.data(), sum, 2 * scales_[from]}, width_,
                         out);
        for (size_t i = 0; i < to.size(); ++i) {
            const float added = added_[from] - added_[to[i]];
            out[i] = std::max(norms_[from] - out[i], 0.0f) + added * added;
        }
    }

private:
    static constexpr uint8_t kZero = 128;  // the code of 0
    static constexpr float kLargest = 127;
    static constexpr size_t kFetched = 1024;  // bytes; the processor sees to the rest

    static std::array<const std::byte*, kMaxTile + 1> filled(const std::byte* row) {
        std::array<const std::byte*, kMaxTile + 1> rows;
        rows.fill(row);
        return rows;
    }
    // Returns their sum.
    static int32_t flip(const std::byte* __restrict codes, int8_t* __restrict to, size_t n) {
        int32_t sum = 0;
        for (size_t i = 0; i < n; ++i) {
            to[i] = static_cast<int8_t>(codes[i] ^ std::byte{kZero});
            sum += to[i];
        }
        return sum;
    }
    static void subtract(float* __restrict from, const float* __restrict what, size_t n) {
        for (size_t i = 0; i < n; ++i) from[i] -= what[i];
    }

    float decode(uint32_t row, float* to) {
        const Tier& tier = store_.finest();
        tier.codec->decode(tier.codes[row], tier.factors_of(row), to);
        if (store_.metric() != Metric::ip) return 0;
        const double squares = std::inner_product(to, to + store_.dim(), to, 0.0);
        return static_cast<float>(std::sqrt(std::max(longest_ - squares, 0.0)));
    }

    const VectorStore& store_;
    size_t width_, slots_ = 0;
    double longest_ = 0;
    float centre_added_ = 0;
    std::vector<float> centre_, apart_;
    std::vector<int8_t> signed_;
    std::vector<std::byte> codes_;
    std::vector<float> scales_, added_, norms_, factors_;
    std::vector<const std::byte*> pointers_;
};

}  // namespace rag
