// Learned matrices, and queries in bytes: what several codecs turn vectors with.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "codec.h"
#include "lines.h"

namespace rag {

// A learned matrix, rows padded to whole cache lines. Without any it leaves vectors as they are.
class Matrix {
public:
    Matrix() = default;
    Matrix(const std::vector<float>& data, size_t dim) : width_(round_up(dim, 16)), n_(data.size() / width_) {
        for (size_t r = 0; r < n_ + kMaxTile; ++r)
            rows_.push_back(reinterpret_cast<const std::byte*>(data.data() + std::min(r, n_ - 1) * width_));
    }
    explicit operator bool() const { return n_ > 0; }
    const float* operator[](size_t r) const { return reinterpret_cast<const float*>(rows_[r]); }
    // Of each of n vectors less `mean`, the products with the rows: out[vector * ld + row].
    void apply(const float* vectors, size_t n, size_t dim, const float* mean, float* out, size_t ld) const {
        thread_local Lines<float> packed, products;
        const size_t wide = kernels().panel_vectors * kernels().lanes;
        for (size_t first = 0; first < n; first += wide) {
            const size_t count = std::min(wide, n - first), width = round_up(count, kernels().lanes);
            packed.assign(dim * width, 0);
            for (size_t i = 0; i < count; ++i)
                for (size_t d = 0; d < dim; ++d) packed[d * width + i] = vectors[(first + i) * dim + d] - mean[d];
            const size_t rows = round_up(n_, kernels().tile_rows);
            products.resize(rows * width);
            kernels().panel_dot_f32(rows_.data(), rows, packed.data(), width / kernels().lanes, dim, products.data(),
                                    width, {rows_.data(), 0});
            for (size_t i = 0; i < count; ++i)
                for (size_t r = 0; r < n_; ++r) out[(first + i) * ld + r] = products[r * width + i];
        }
    }

    // The products of one vector, padded with zeros to a multiple of 16.
    void apply(const float* vector, float* out) const { kernels().dot_f32(rows_.data(), n_, vector, width_, out); }

private:
    size_t width_ = 0, n_ = 0;
    std::vector<const std::byte*> rows_;
};

inline constexpr size_t kUnit = 32;  // what kernels take numbers in multiples of

struct Bytes {  // of values: their codes are round(value / scale), and this is the sum of them
    float scale;
    int32_t sum;
};

// Values to signed bytes; their number is a multiple of kUnit.
inline Bytes to_bytes(const float* values, size_t width, std::byte* codes) {
    float low, high;
    kernels().range(values, width, &low, &high);
    const float scale = std::max(-low, high) / 127, inverse = scale > 0 && std::isfinite(1 / scale) ? 1 / scale : 0;
    kernels().quantize(values, width, {0, inverse, 128.5f, 255}, codes);
    int32_t sum = 0;
    for (size_t i = 0; i < width; ++i) {
        codes[i] ^= std::byte{128};
        sum += static_cast<int8_t>(codes[i]);
    }
    return {scale, sum};
}

}  // namespace rag
