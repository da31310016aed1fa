#include "input.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "errors.h"

namespace rag {

namespace {

// Scores of vectors below this length stay finite in float, squared distances included.
constexpr double kLargestNorm = 1e18;

[[noreturn]] void refuse_component(const float* vector, size_t dim, float limit, const std::string& where) {
    for (size_t d = 0; d < dim; ++d) {
        const std::string place = where + " holds " + std::to_string(vector[d]) + " at position " + std::to_string(d);
        if (!std::isfinite(vector[d])) throw InputError(place, "vectors must be finite; check what made them");
        if (std::abs(vector[d]) > limit)
            throw InputError(place + ", beyond what the codec can hold (" + std::to_string(limit) + ")",
                             "scale the vectors down, or use codec float32");
    }
    throw InputError(where + " is longer than 1e18", "scale the vectors down");
}

}  // namespace

std::vector<double> InputCheck::lengths(const float* vectors, size_t n) const {
    std::vector<double> lengths(n);
    for (size_t i = 0; i < n; ++i) {
        const float* vector = vectors + i * dim;
        double squares = 0;
        bool within = true;
        for (size_t d = 0; d < dim; ++d) {
            squares += static_cast<double>(vector[d]) * vector[d];
            within &= std::abs(vector[d]) <= limit;  // false for NaN
        }
        const double norm = std::sqrt(squares);
        const auto where = [&] { return std::string(what) + "[" + std::to_string(i) + "]"; };
        if (!within || (!unit && norm > kLargestNorm)) refuse_component(vector, dim, limit, where());
        if (unit && norm == 0) throw InputError(where() + " is all zeros, which has no direction", instead_of_zeros);
        lengths[i] = unit ? norm : 1;
    }
    return lengths;
}

void check_new_ids(std::span<const int64_t> ids, const Ids& known, const Bitmap& dead) {
    if (known.size() + ids.size() > std::numeric_limits<uint32_t>::max())
        throw InputError("an index holds at most 4294967295 ids", "split them over several indexes");
    std::vector<int64_t> sorted(ids.begin(), ids.end());
    std::sort(sorted.begin(), sorted.end());
    if (!sorted.empty() && sorted.front() < 0)
        throw InputError("id " + std::to_string(sorted.front()) + " is negative", "ids start at 0");
    if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
        throw InputError("id " + std::to_string(*twice) + " is given twice", "each needs its own id");
    Bitmap found(known.size());
    known.find(sorted, found);
    found.each([&](size_t row) {
        if (!dead[row])
            throw InputError("id " + std::to_string(known[row]) + " is there already", "delete it first to replace it");
    });
}

}  // namespace rag
