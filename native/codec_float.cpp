// The codecs float32 and float16: the numbers themselves, padded with zeros to 64 bytes.
#include <algorithm>
#include <cstring>
#include <vector>

#include "codec.h"
#include "lines.h"

namespace rag {

namespace {

class FloatQueries : public Queries {
public:
    FloatQueries(const float* queries, size_t n, size_t dim, size_t width, Metric metric, bool half, bool panels)
        : kernels_(kernels()), dim_(dim), width_(width), half_(half), padded_(n * width) {
        const bool l2 = metric == Metric::l2;
        rows_ = half ? (l2 ? kernels_.l2_f16 : kernels_.dot_f16) : (l2 ? kernels_.l2_f32 : kernels_.dot_f32);
        panel_ = l2 ? kernels_.panel_l2_f32 : kernels_.panel_dot_f32;
        for (size_t q = 0; q < n; ++q) std::copy_n(queries + q * dim, dim, padded_.data() + q * width);
        if (panels) pack(queries, n);
    }

    void rows(size_t query, const Block& block, float* out) const override {
        rows_(block.rows, block.n, padded_.data() + query * width_, width_, out);
    }

    void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const override {
        const size_t n = round_up(block.n, kernels_.tile_rows), tile = kernels_.tile_rows;
        const float* packed = packed_.data() + first * kernels_.lanes * dim_;
        if (!half_) return panel_(block.rows, n, packed, vectors, dim_, out, ld, {block.rows + tile, width_ * 4});

        // Half floats are widened once for all the queries, tile by tile: so they stay in the first-level cache.
        thread_local Lines<float> wide;
        wide.resize(tile * width_);
        const std::byte* rows[kMaxTile];
        for (size_t r = 0; r < tile; ++r) rows[r] = reinterpret_cast<const std::byte*>(wide.data() + r * width_);
        for (size_t i = 0; i < n; i += tile) {
            for (size_t r = 0; r < tile; ++r)
                kernels_.from_half(reinterpret_cast<const uint16_t*>(block.rows[i + r]), wide.data() + r * width_, width_);
            panel_(rows, tile, packed, vectors, dim_, out + i * ld, ld, {block.rows + i + tile, width_ * 2});
        }
    }

private:
    // Dimension by dimension, the queries of a panel side by side; the last panel is as wide as it needs to be.
    void pack(const float* queries, size_t n) {
        const size_t lanes = kernels_.lanes, wide = kernels_.panel_vectors * lanes;
        packed_.resize(round_up(n, lanes) * dim_);
        float* to = packed_.data();
        for (size_t first = 0; first < n; first += wide) {
            const size_t width = std::min(wide, round_up(n - first, lanes));
            for (size_t d = 0; d < dim_; ++d, to += width)
                for (size_t q = 0; q < std::min(width, n - first); ++q) to[q] = queries[(first + q) * dim_ + d];
        }
    }

    const Kernels& kernels_;
    size_t dim_, width_;
    bool half_;
    RowsKernel rows_;
    PanelKernel panel_;
    Lines<float> padded_, packed_;
};

class Float32 : public Codec {
public:
    Float32(size_t dim, Metric metric) : dim_(dim), metric_(metric) {}
    std::string_view name() const override { return "float32"; }
    size_t code_bytes() const override { return round_up(dim_ * 4, 64); }
    void encode(const float* vector, std::byte* code, float*) const override { std::memcpy(code, vector, dim_ * 4); }
    void decode(const std::byte* code, const float*, float* vector) const override {
        std::memcpy(vector, code, dim_ * 4);
    }
    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const override {
        return std::make_unique<FloatQueries>(queries, n, dim_, code_bytes() / 4, metric_, false, panels);
    }

private:
    size_t dim_;
    Metric metric_;
};

class Float16 : public Codec {
public:
    Float16(size_t dim, Metric metric) : dim_(dim), width_(round_up(dim * 2, 64) / 2), metric_(metric) {}
    std::string_view name() const override { return "float16"; }
    size_t code_bytes() const override { return width_ * 2; }
    float limit() const override { return 65504; }
    void encode(const float* vector, std::byte* code, float*) const override {
        thread_local std::vector<float> padded;
        padded.assign(width_, 0);
        std::copy_n(vector, dim_, padded.data());
        kernels().to_half(padded.data(), reinterpret_cast<uint16_t*>(code), width_);
    }
    void decode(const std::byte* code, const float*, float* vector) const override {
        thread_local std::vector<float> padded;
        padded.resize(width_);
        kernels().from_half(reinterpret_cast<const uint16_t*>(code), padded.data(), width_);
        std::copy_n(padded.data(), dim_, vector);
    }
    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const override {
        return std::make_unique<FloatQueries>(queries, n, dim_, width_, metric_, true, panels);
    }

private:
    size_t dim_, width_;
    Metric metric_;
};

}  // namespace

std::unique_ptr<Codec> make_float32(size_t dim, Metric metric) { return std::make_unique<Float32>(dim, metric); }
std::unique_ptr<Codec> make_float16(size_t dim, Metric metric) { return std::make_unique<Float16>(dim, metric); }

}  // namespace rag
