// Centroid interaction (PLAID: Santhanam et al., CIKM 2022, section 4): each token of a document counts as the nearest of
// learned centroids. A query is compared with the centroids once; then a document's approximate MaxSim takes one look into a
// table for each of its centroids, and no multiplication.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "codec.h"
#include "maxsim.h"
#include "ragged.h"

namespace rag {

class Centroids {
public:
    Centroids(const float* centroids, size_t n, size_t dim);  // 1 to 65536; finite

    size_t size() const { return halves_.size(); }
    size_t dim() const { return dim_; }

    // Which one is nearest to each of n tokens, of unit length once divided by `lengths`, or (null) as they are. Both are
    // rounded to 8 bits a number.
    void nearest(const float* tokens, size_t n, const double* lengths, size_t threads, const Interrupt& interrupt,
                 uint16_t* numbers) const;
    // Inner products with n tokens, scores[centroid * ld + token], where ld is n rounded up to registers.
    size_t products(const float* tokens, size_t n, std::vector<float>& scores) const;

private:
    // Calls at(first centroid, count, scores [count, ld]).
    template <class At>
    void blocks(const Queries& tokens, size_t vectors, float* scores, bool whole, At at) const;

    size_t dim_;
    std::unique_ptr<Codec> codec_;
    std::vector<std::byte> codes_;
    std::vector<float> factors_, halves_;  // half the squared lengths
    std::vector<const std::byte*> rows_;
};

struct CentroidParts : RaggedParts {
    std::span<const std::byte> numbers;
};

// Documents as sets of centroids, each of which is kept once.
class CentroidIndex : public RaggedStore {
public:
    CentroidIndex(const float* centroids, size_t n, size_t dim) : centroids_(centroids, n, dim) {}

    const Centroids& centroids() const { return centroids_; }
    const Rows& numbers() const { return numbers_; }
    std::span<const uint16_t> of(size_t document) const {
        return {reinterpret_cast<const uint16_t*>(numbers_[first(document)]), length(document)};
    }

    // As TokenStore::add.
    void add(std::span<const int64_t> ids, const float* tokens, size_t n, std::span<const int64_t> offsets,
             size_t threads, const Interrupt& interrupt);
    void attach(const CentroidParts& parts, const std::shared_ptr<void>& owner);
    void compact();

    // The k best documents for each query by approximate scores, as `maxsim` gives them. Locks the store for reading.
    void search(const TokenQueries& queries, size_t k, std::optional<std::span<const int64_t>> filter, size_t threads,
                const Interrupt& interrupt, int64_t* ids, float* scores) const;
    // Approximate scores [queries, width] of candidates, -infinity for those that are not there. Locks the store as well.
    void score(const TokenQueries& queries, const CandidateIds& candidates, size_t threads, const Interrupt& interrupt,
               float* scores) const;

private:
    Centroids centroids_;
    Rows numbers_{sizeof(uint16_t)};
};

}  // namespace rag
