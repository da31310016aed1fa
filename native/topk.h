// The best k of a stream of scores.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace rag {

struct Candidate {
    float score;
    uint32_t row;
    int64_t id;
};

// Higher score first, then smaller id: a total order, so the result depends neither on threads nor on blocks.
inline bool better(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
}

// Collects up to 2k candidates, then drops the worse half: cheaper than a heap, and the threshold that the kernels
// compare with stays in one place.
class TopK {
public:
    explicit TopK(size_t k) : k_(k) {}

    float threshold() const { return threshold_; }  // scores below it cannot enter; equal ones may, by their id

    void push(const Candidate& candidate) {
        items_.push_back(candidate);
        if (items_.size() >= 2 * k_) prune();
    }
    void merge(const TopK& other) {
        for (const Candidate& item : other.items_)
            if (item.score >= threshold_) push(item);
    }
    // Best first.
    std::vector<Candidate> take() {
        if (items_.size() > k_) prune();
        std::sort(items_.begin(), items_.end(), better);
        return std::move(items_);
    }

private:
    void prune() {
        std::nth_element(items_.begin(), items_.begin() + (k_ - 1), items_.end(), better);
        items_.resize(k_);
        threshold_ = items_[k_ - 1].score;
    }

    size_t k_;
    float threshold_ = -std::numeric_limits<float>::infinity();
    std::vector<Candidate> items_;
};

}  // namespace rag
