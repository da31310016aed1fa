// The codec int8: each vector is divided by its own scale (its largest magnitude / 127) and rounded. Scores are
// approximate; float16 copies of the vectors rank the best of them again.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "codec.h"

namespace rag {

namespace {

// Writes round(x / scale) for each component; returns the scale.
template <class Write>
float quantise(const float* vector, size_t dim, Write write) {
    float largest = 0;
    for (size_t d = 0; d < dim; ++d) largest = std::max(largest, std::abs(vector[d]));
    const float scale = largest / 127;
    const float inverse = scale > 0 ? 1 / scale : 0;
    const bool usable = std::isfinite(inverse);  // it is not when all components are tiny: they count as zero
    for (size_t d = 0; d < dim; ++d) {
        const float x = usable ? vector[d] * inverse : 0;
        write(d, std::clamp(static_cast<int>(x + std::copysign(0.5f, x)), -127, 127));
    }
    return usable ? scale : 0;
}

class Int8Queries : public Queries {
public:
    Int8Queries(const float* queries, size_t n, size_t dim, size_t width, Metric metric, bool panels)
        : kernels_(kernels()), width_(width), quads_((dim + 3) / 4), codes_(n * width) {
        const size_t padded = round_up(n, kernels_.lanes);
        sums_.resize(padded);
        factors_.resize(padded);
        for (size_t q = 0; q < n; ++q) {
            const float scale = quantise(queries + q * dim, dim, [&](size_t d, int code) {
                codes_[q * width + d] = static_cast<int8_t>(code);
                sums_[q] += code;
            });
            factors_[q] = metric == Metric::l2 ? 2 * scale : scale;
        }
        if (panels) pack(n);
    }

    void rows(size_t query, const Block& block, float* out) const override {
        const Int8Query prepared{codes_.data() + query * width_, sums_[query], factors_[query]};
        kernels_.dot_i8(block.rows, block.factors, block.n, prepared, width_, out);
    }

    void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const override {
        const size_t query = first * kernels_.lanes;
        const Int8Panel prepared{packed_.data() + query * quads_ * 4, sums_.data() + query, factors_.data() + query};
        kernels_.panel_dot_i8(block.rows, block.factors, round_up(block.n, kernels_.tile_rows), prepared, vectors,
                              quads_, out, ld);
    }

private:
    // As for floats, with four neighbouring dimensions of a query together.
    void pack(size_t n) {
        const size_t lanes = kernels_.lanes, wide = kernels_.panel_vectors * lanes;
        packed_.resize(round_up(n, lanes) * quads_ * 4);
        int8_t* to = packed_.data();
        for (size_t first = 0; first < n; first += wide) {
            const size_t width = std::min(wide, round_up(n - first, lanes));
            for (size_t d = 0; d < quads_; ++d, to += width * 4)
                for (size_t q = 0; q < std::min(width, n - first); ++q)
                    std::memcpy(to + q * 4, codes_.data() + (first + q) * width_ + d * 4, 4);
        }
    }

    const Kernels& kernels_;
    size_t width_, quads_;
    std::vector<int8_t> codes_, packed_;
    std::vector<int32_t> sums_;
    std::vector<float> factors_;
};

class Int8 : public Codec {
public:
    Int8(size_t dim, Metric metric) : dim_(dim), metric_(metric) {}
    std::string_view name() const override { return "int8"; }
    size_t code_bytes() const override { return round_up(dim_, 64); }
    size_t factors() const override { return 2; }  // the scale; under l2 the squared norm, else 0
    std::string_view exact() const override { return "float16"; }
    size_t candidates(size_t k) const override { return k + std::max<size_t>(32, k); }

    void encode(const float* vector, std::byte* code, float* factors) const override {
        std::memset(code, 128, code_bytes());
        factors[0] = quantise(vector, dim_, [&](size_t d, int x) { code[d] = static_cast<std::byte>(x + 128); });
        factors[1] = 0;
        if (metric_ == Metric::l2)
            for (size_t d = 0; d < dim_; ++d) factors[1] += vector[d] * vector[d];
    }
    void decode(const std::byte* code, const float* factors, float* vector) const override {
        for (size_t d = 0; d < dim_; ++d) vector[d] = factors[0] * static_cast<float>(static_cast<int>(code[d]) - 128);
    }
    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const override {
        return std::make_unique<Int8Queries>(queries, n, dim_, code_bytes(), metric_, panels);
    }

private:
    size_t dim_;
    Metric metric_;
};

}  // namespace

std::unique_ptr<Codec> make_int8(size_t dim, Metric metric) { return std::make_unique<Int8>(dim, metric); }

}  // namespace rag
