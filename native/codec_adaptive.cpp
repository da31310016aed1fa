// Locally-adaptive codes (LVQ) that rank finally: 8 or 12 bits a component between the smallest and the largest component
// of each vector less the mean, scored against queries in full precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "codec.h"

namespace rag {

namespace {

constexpr size_t kGroup = 32;
constexpr size_t kHeader = 8;  // scale and low

class AdaptiveQueries : public Queries {
public:
    AdaptiveQueries(const float* queries, size_t n, size_t dim, Metric metric, bool twelve, const Learned& learned)
        : width_(round_up(dim, kGroup)), values_(n * width_) {
        const bool far = metric == Metric::l2;
        kernel_ = kernels().score_adaptive[twelve][far];
        for (size_t i = 0; i < n; ++i) {
            float* values = values_.data() + i * width_;
            std::copy_n(queries + i * dim, dim, values);
            float constant = 0;
            if (!learned.mean.empty()) {
                if (far)
                    for (size_t d = 0; d < dim; ++d) values[d] -= learned.mean[d];
                else
                    constant = std::inner_product(values, values + dim, learned.mean.begin(), 0.0f);
            }
            const float sum = std::accumulate(values, values + width_, 0.0f);
            prepared_.push_back({values, width_ / kGroup, sum, static_cast<float>(width_ - dim), constant});
        }
    }

    void rows(size_t query, const Block& block, float* out) const override {
        kernel_(block.rows, block.n, prepared_[query], out);
    }
    void panel(size_t, size_t, const Block&, float*, size_t) const override {}

private:
    size_t width_;
    std::vector<float> values_;
    std::vector<AdaptiveQuery> prepared_;
    void (*kernel_)(const std::byte* const*, size_t, const AdaptiveQuery&, float*);
};

class Adaptive : public Codec {
public:
    Adaptive(int bits, size_t dim, Metric metric, const Learned& learned)
        : twelve_(bits == 12), dim_(dim), metric_(metric), learned_(learned) {}

    std::string_view name() const override { return twelve_ ? "adaptive12" : "adaptive8"; }
    size_t code_bytes() const override { return kHeader + round_up(dim_, kGroup) / kGroup * group_bytes(); }
    bool panels() const override { return false; }

    void encode(const float* vector, std::byte* code, float*) const override {
        thread_local std::vector<float> centred;
        centred.assign(vector, vector + dim_);
        if (!learned_.mean.empty())
            for (size_t d = 0; d < dim_; ++d) centred[d] -= learned_.mean[d];
        const auto [low, high] = std::minmax_element(centred.begin(), centred.end());
        const int most = twelve_ ? 4095 : 255;
        const float step = (*high - *low) / static_cast<float>(most);
        const float header[2] = {step, *low};
        std::memset(code, 0, code_bytes());
        std::memcpy(code, header, sizeof header);
        for (size_t d = 0; d < dim_; ++d) {
            const float x = step > 0 ? std::round((centred[d] - *low) / step) : 0;
            put(code, d, std::clamp(static_cast<int>(x), 0, most));
        }
    }

    void decode(const std::byte* code, const float*, float* vector) const override {
        float header[2];
        std::memcpy(header, code, sizeof header);
        for (size_t d = 0; d < dim_; ++d) {
            vector[d] = header[0] * static_cast<float>(get(code, d)) + header[1];
            if (!learned_.mean.empty()) vector[d] += learned_.mean[d];
        }
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool) const override {
        return std::make_unique<AdaptiveQueries>(queries, n, dim_, metric_, twelve_, learned_);
    }

private:
    size_t group_bytes() const { return twelve_ ? 48 : 32; }

    // Where component d has its eight (higher) bits, and where its four lower ones: half a byte, the low half for the
    // first 16 of a group.
    size_t place(size_t d) const { return kHeader + d / kGroup * group_bytes() + d % kGroup; }
    size_t rest(size_t d) const { return kHeader + d / kGroup * group_bytes() + kGroup + d % 16; }
    static int shift(size_t d) { return d % kGroup < 16 ? 0 : 4; }

    void put(std::byte* code, size_t d, int value) const {
        code[place(d)] = static_cast<std::byte>(twelve_ ? value >> 4 : value);
        if (twelve_) code[rest(d)] |= static_cast<std::byte>((value & 15) << shift(d));
    }
    int get(const std::byte* code, size_t d) const {
        const int value = static_cast<int>(code[place(d)]);
        return twelve_ ? value << 4 | (static_cast<int>(code[rest(d)]) >> shift(d) & 15) : value;
    }

    bool twelve_;
    size_t dim_;
    Metric metric_;
    const Learned& learned_;
};

}  // namespace

std::unique_ptr<Codec> make_adaptive(int bits, size_t dim, Metric metric, const Learned& learned) {
    return std::make_unique<Adaptive>(bits, dim, metric, learned);
}

}  // namespace rag
