// Queries in bytes, side by side as the kernel panel_bytes takes them.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "codec.h"
#include "lines.h"

namespace rag {

class ByteQueries {
public:
    // n queries of so many components, for rows whose byte `zero` stands for zero; `small`: no byte is above 15.
    ByteQueries(size_t n, size_t components, int32_t zero, bool small)
        : kernels_(kernels()), padded_(round_up(n, kernels_.lanes)), quads_((components + 3) / 4), zero_(zero),
          small_(small),
          codes_(padded_ * quads_ * 4), sums_(padded_), factors_(padded_), constants_(padded_) {}

    // `codes` are padded with zeros to a multiple of four.
    void set(size_t query, const int8_t* codes, int32_t sum, float factor, float constant) {
        const size_t wide = kernels_.panel_vectors * kernels_.lanes, first = query / wide * wide;
        const size_t width = std::min(wide, padded_ - first);  // the last panel is as wide as it needs to be
        int8_t* to = codes_.data() + (first * quads_ + query - first) * 4;
        for (size_t d = 0; d < quads_; ++d) std::memcpy(to + d * width * 4, codes + d * 4, 4);
        sums_[query] = sum;
        factors_[query] = factor;
        constants_[query] = constant;
    }

    // As Queries::panel, for rows of bytes and three factors each.
    void score(size_t first, size_t vectors, const Block& block, float* out, size_t ld, Ahead ahead) const {
        const size_t query = first * kernels_.lanes;
        const BytePanel panel{codes_.data() + query * quads_ * 4, sums_.data() + query, factors_.data() + query,
                              constants_.data() + query, zero_};
        kernels_.panel_bytes[small_](block.rows, block.factors, round_up(block.n, kernels_.tile_rows), panel, vectors,
                                     quads_, out, ld, ahead);
    }

private:
    const Kernels& kernels_;
    size_t padded_, quads_;
    int32_t zero_;
    bool small_;
    Lines<int8_t> codes_;
    std::vector<int32_t> sums_;
    std::vector<float> factors_, constants_;
};

}  // namespace rag
