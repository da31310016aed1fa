// Locally-adaptive codes (LVQ) that rank finally: 8 or 12 bits a component between the smallest and the largest component
// of each vector less the mean, scored against queries in full precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "codec.h"

namespace rag {

namespace {

constexpr size_t kGroup = 32;
constexpr size_t kHeader = 8;  // scale and low

class AdaptiveQueries : public Queries {
public:
    // `mean` and `ones` are padded to whole groups.
    AdaptiveQueries(const float* queries, size_t n, size_t dim, Metric metric, bool twelve,
                    const std::vector<float>& mean, const std::vector<float>& ones)
        : width_(mean.size()), values_(n * width_) {
        const bool far = metric == Metric::l2;
        kernel_ = kernels().score_adaptive[twelve][far];
        for (size_t i = 0; i < n; ++i) {
            float* values = values_.data() + i * width_;
            std::copy_n(queries + i * dim, dim, values);
            const float constant = far ? 0 : dot(values, mean.data(), width_);
            if (far)
                for (size_t d = 0; d < dim; ++d) values[d] -= mean[d];
            const float sum = dot(values, ones.data(), width_);
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
        : twelve_(bits == 12), dim_(dim), width_(round_up(dim, kGroup)), metric_(metric), mean_(learned.mean),
          ones_(width_, 1.0f) {
        mean_.resize(width_);
    }

    std::string_view name() const override { return twelve_ ? "adaptive12" : "adaptive8"; }
    size_t code_bytes() const override { return kHeader + (twelve_ ? width_ / 2 * 3 : width_); }
    bool panels() const override { return false; }

    // Padding gets the code 0.
    void encode(const float* vector, std::byte* code, float*) const override {
        thread_local std::vector<float> centred;
        centred.resize(width_);
        for (size_t d = 0; d < dim_; ++d) centred[d] = vector[d] - mean_[d];
        std::fill(centred.begin() + dim_, centred.end(), centred[0]);
        float low, high;
        kernels().range(centred.data(), width_, &low, &high);
        std::fill(centred.begin() + dim_, centred.end(), low);
        const float most = twelve_ ? 4095 : 255, step = (high - low) / most, inverse = 1 / step;
        const Grid grid{low, std::isfinite(inverse) ? inverse : 0, 0.5f, most};
        (twelve_ ? kernels().quantize12 : kernels().quantize)(centred.data(), width_, grid, code + kHeader);
        const float header[2] = {step, low};
        std::memcpy(code, header, sizeof header);
    }

    void decode(const std::byte* code, const float*, float* vector) const override {
        float header[2];
        std::memcpy(header, code, sizeof header);
        const auto dequantize = twelve_ ? kernels().dequantize12 : kernels().dequantize;
        if (width_ == dim_) return dequantize(code + kHeader, width_, header[0], header[1], mean_.data(), vector);
        thread_local std::vector<float> padded;
        padded.resize(width_);
        dequantize(code + kHeader, width_, header[0], header[1], mean_.data(), padded.data());
        std::copy_n(padded.data(), dim_, vector);
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool) const override {
        return std::make_unique<AdaptiveQueries>(queries, n, dim_, metric_, twelve_, mean_, ones_);
    }

private:
    bool twelve_;
    size_t dim_, width_;
    Metric metric_;
    std::vector<float> mean_, ones_;  // the mean is padded with zeros
};

}  // namespace

std::unique_ptr<Codec> make_adaptive(int bits, size_t dim, Metric metric, const Learned& learned) {
    return std::make_unique<Adaptive>(bits, dim, metric, learned);
}

}  // namespace rag
