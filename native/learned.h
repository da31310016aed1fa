// What a codec learned, from NumPy arrays.
#pragma once
#include <cmath>
#include <optional>
#include <vector>

#include "arrays.h"
#include "codec.h"
#include "errors.h"

// The rows of a matrix, each padded with zeros to whole cache lines.
inline std::vector<float> padded_rows(const FloatMatrix& matrix) {
    const size_t width = rag::round_up(matrix.shape(1), 16);
    std::vector<float> result(matrix.shape(0) * width);
    for (size_t r = 0; r < matrix.shape(0); ++r)
        std::copy_n(matrix.data() + r * matrix.shape(1), matrix.shape(1), result.data() + r * width);
    return result;
}

inline rag::Learned learned(size_t dim, const std::optional<FloatVector>& mean, const std::optional<FloatMatrix>& base,
                            const std::optional<FloatMatrix>& query, const std::optional<FloatCube>& centroids) {
    rag::Learned result;
    if (centroids && !(centroids->shape(0) == (dim + 7) / 8 && centroids->shape(1) == 256 && centroids->shape(2) == 8))
        throw rag::InputError("the centroids do not fit the dimension", "learn them anew");
    const bool pair = base && query && base->shape(0) == query->shape(0) && base->shape(0) > 0 &&
                      base->shape(1) == dim && query->shape(1) == dim;
    if ((mean && mean->shape(0) != dim) || ((base || query) && !pair))
        throw rag::InputError("what the codec learned does not fit the dimension", "learn it anew");
    if (mean) result.mean.assign(mean->data(), mean->data() + dim);
    if (pair) {
        result.base = padded_rows(*base);
        result.query = padded_rows(*query);
        result.reduced = base->shape(0);
    }
    if (centroids) result.centroids.assign(centroids->data(), centroids->data() + centroids->size());
    return result;
}

inline void check_learned(bool fits) {
    if (!fits) throw rag::InputError("what the codec learned does not fit the dimension", "learn it anew");
}

// Of a residual codec: `base` [dim, dim] and `centroids` [n, dim].
inline rag::Learned learned_residuals(size_t dim, const FloatMatrix& base, const FloatMatrix& centroids, float spread) {
    check_learned(base.shape(0) == dim && base.shape(1) == dim && centroids.shape(1) == dim);
    check_learned(centroids.shape(0) > 0 && centroids.shape(0) <= 65536 && spread >= 0 && spread < 1e18f);
    rag::Learned result;
    result.base = padded_rows(base);
    result.reduced = dim;
    result.centroids.assign(centroids.data(), centroids.data() + centroids.size());
    result.spread = spread;
    return result;
}

// Of a sign codec: `mean` [dim], `base` and `inverse` [dim, dim].
inline rag::Learned learned_signs(size_t dim, const FloatVector& mean, const FloatMatrix& base,
                                  const FloatMatrix& inverse, rag::Learned::Line line) {
    check_learned(mean.size() == dim && base.shape(0) == dim && base.shape(1) == dim);
    check_learned(inverse.shape(0) == dim && inverse.shape(1) == dim);
    check_learned(line.slope > 0 && line.slope < 1e6f && std::abs(line.mean_slope) < 1e6f && std::abs(line.constant) < 1e6f);
    rag::Learned result;
    result.mean.assign(mean.data(), mean.data() + dim);
    result.base = padded_rows(base);
    result.inverse = padded_rows(inverse);
    result.reduced = dim;
    result.line = line;
    return result;
}
