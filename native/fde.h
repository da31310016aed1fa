// Fixed dimensional encodings: a set of token vectors becomes one vector, so that the inner product of a query's and a
// document's comes near the sum, over the query's tokens, of the best inner product with a token of the document.
// MUVERA: Dhulipala et al., NeurIPS 2024, section 2.
//
// The random matrices are given, buckets are decided exactly and sums have one order, so an encoding is the same, to
// the bit, with every instruction set and number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "parallel.h"

namespace rag {

inline constexpr size_t kMostPlanes = 12;  // 4,096 buckets

struct EncodingForm {
    size_t dim, repetitions, planes, projected, final_size;  // final_size 0: no final projection

    size_t buckets() const { return size_t{1} << planes; }
    size_t width() const { return repetitions * buckets() * projected; }  // before the final projection
    size_t size() const { return final_size ? final_size : width(); }
};

enum class Side { query, document };

class FixedDimensionalEncoder {
public:
    // `planes` [repetitions][planes][dim]. `signs` [repetitions][projected][dim], +1 or -1; null where projected = dim,
    // and nothing is projected. `sketch` [width], where there is a final size: number i is added to the final number
    // sketch[i], or where that is negative, taken away from number -1 - sketch[i].
    FixedDimensionalEncoder(const EncodingForm& form, const float* planes, const float* signs, const int32_t* sketch);

    const EncodingForm& form() const { return form_; }

    // Set i is tokens[offsets[i]] .. tokens[offsets[i + 1] - 1], out[n][size]. Tokens of documents count at unit length,
    // those of queries as they are. `fill` is for documents. Throws InputError for offsets that do not fit, sets without
    // tokens, a document's token of zeros, and numbers that are not finite.
    void encode(const float* tokens, size_t n_tokens, std::span<const int64_t> offsets, Side side, bool fill,
                size_t threads, const Interrupt& interrupt, float* out) const;

private:
    struct Panels;
    class Worker;
    std::shared_ptr<const Panels> panels() const;

    EncodingForm form_;
    std::vector<float> planes_, signs_;
    std::vector<int32_t> sketch_;
    mutable std::mutex packing_;
    mutable std::shared_ptr<const Panels> panels_;  // for the instruction set that was used last
};

}  // namespace rag
