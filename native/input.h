// Checks of what callers hand over to be stored or searched for.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "bitmap.h"
#include "ids.h"

namespace rag {

// Vectors must be finite, with components up to `limit`; if they are to be of unit length, no zeros; else not too long.
struct InputCheck {
    const char* what;  // the vectors are called
    size_t dim;
    float limit;
    bool unit;
    const char* instead_of_zeros;  // what to do

    // What to divide each of n vectors by: its length, or 1. Throws InputError for the first that is wrong.
    std::vector<double> lengths(const float* vectors, size_t n) const;
};

// InputError unless each of them is new, and at least 0.
void check_new_ids(std::span<const int64_t> ids, const Ids& known, const Bitmap& dead);

}  // namespace rag
