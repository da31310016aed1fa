// What a codec learned, from NumPy arrays.
#pragma once
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

// Of a residual codec: `base` [reduced, dim] and `centroids` [n, reduced].
inline rag::Learned residual(size_t dim, const std::optional<FloatMatrix>& base,
                             const std::optional<FloatMatrix>& centroids, float spread) {
    rag::Learned result;
    if (!base && !centroids) return result;
    if (!base || !centroids || base->shape(1) != dim || base->shape(0) == 0 || centroids->shape(0) == 0 ||
        centroids->shape(0) > 65536 || centroids->shape(1) != base->shape(0) || !(spread >= 0 && spread < 1e18f))
        throw rag::InputError("what the codec learned does not fit the dimension", "learn it anew");
    result.base = padded_rows(*base);
    result.reduced = base->shape(0);
    result.centroids.assign(centroids->data(), centroids->data() + centroids->size());
    result.spread = spread;
    return result;
}
