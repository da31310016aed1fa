// The codec int8: each vector is divided by its own scale (its largest magnitude / 127) and rounded. Scores are
// approximate; float16 copies of the vectors rank the best of them again.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "byte_panel.h"

namespace rag {

namespace {

constexpr int kZero = 128;  // the byte of a zero

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
        : width_(width), codes_(n * width), side_by_side_(panels ? n : 0, dim, kZero, false) {
        for (size_t q = 0; q < n; ++q) {
            int8_t* codes = codes_.data() + q * width;
            int32_t sum = 0;
            const float scale = quantise(queries + q * dim, dim, [&](size_t d, int code) {
                codes[d] = static_cast<int8_t>(code);
                sum += code;
            });
            prepared_.push_back({codes, sum, metric == Metric::l2 ? 2 * scale : scale});
            if (panels) side_by_side_.set(q, codes, sum, prepared_.back().factor, 0);
        }
    }

    void rows(size_t query, const Block& block, float* out) const override {
        kernels().dot_i8(block.rows, block.factors, block.n, prepared_[query], width_, out);
    }

    void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const override {
        thread_local std::vector<float> factors;
        factors.resize(3 * (block.n + kMaxTile));
        for (size_t r = 0; r < block.n + kMaxTile; ++r) {
            factors[3 * r] = block.factors[2 * r];
            factors[3 * r + 2] = block.factors[2 * r + 1];  // what lies between them is never set, and 0
        }
        const Ahead ahead{block.rows + kernels().tile_rows, width_};
        side_by_side_.score(first, vectors, {block.rows, factors.data(), block.n}, out, ld, ahead);
    }

private:
    size_t width_;
    std::vector<int8_t> codes_;
    std::vector<Int8Query> prepared_;
    ByteQueries side_by_side_;
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
        std::memset(code, kZero, code_bytes());
        factors[0] = quantise(vector, dim_, [&](size_t d, int x) { code[d] = static_cast<std::byte>(x + kZero); });
        factors[1] = 0;
        if (metric_ == Metric::l2)
            for (size_t d = 0; d < dim_; ++d) factors[1] += vector[d] * vector[d];
    }
    void decode(const std::byte* code, const float* factors, float* vector) const override {
        for (size_t d = 0; d < dim_; ++d) vector[d] = factors[0] * static_cast<float>(static_cast<int>(code[d]) - kZero);
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
