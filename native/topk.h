// The best k of a stream of scores.
#pragma once
#include <algorithm>
#include <bit>
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

// Collects up to 2k candidates, then drops about the worse half: cheaper than a heap, and the threshold that the
// kernels compare with stays in one place.
class TopK {
public:
    explicit TopK(size_t k) : k_(k), enough_(k + k / 4) {}

    float threshold() const { return threshold_; }  // scores below it cannot enter; equal ones may, by their id

    void push(const Candidate& candidate) {
        items_.push_back(candidate);
        keys_.push_back(ordered(candidate.score));
        if (items_.size() >= 2 * k_) prune();
    }
    void merge(const TopK& other) {
        for (const Candidate& item : other.items_)
            if (item.score >= threshold_) push(item);
    }
    // In any order.
    std::vector<Candidate> take_any() {
        if (items_.size() > k_) select();
        return std::move(items_);
    }
    // Best first.
    std::vector<Candidate> take() {
        if (items_.size() > k_) select();
        std::sort(items_.begin(), items_.end(), better);
        return std::move(items_);
    }

private:
    // The bits of a score to an integer in the same order, and back.
    static int32_t turned(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }
    static int32_t ordered(float score) { return turned(std::bit_cast<int32_t>(score + 0.0f)); }  // + 0: no -0

    size_t reach(int32_t key) const {
        int32_t n = 0;
        for (const int32_t other : keys_) n += other >= key;
        return n;
    }

    // Looks for a score that k or a few more reach, by halving the interval where it lies: without the branches that
    // nothing could foretell, which a selection is full of.
    void prune() {
        int32_t least = keys_[0], most = keys_[0];
        for (const int32_t key : keys_) least = std::min(least, key), most = std::max(most, key);
        int64_t low = least, high = int64_t{most} + 1;  // at least k reach the one, fewer the other
        size_t reached = keys_.size();
        while (reached > enough_ && high - low > 1) {
            const int64_t middle = low + (high - low) / 2;
            const size_t n = reach(static_cast<int32_t>(middle));
            if (n >= k_)
                low = middle, reached = n;
            else
                high = middle;
        }
        if (reached > enough_) return select();  // they are all alike: ids decide
        size_t kept = 0;
        for (size_t i = 0; i < keys_.size(); ++i) {
            keys_[kept] = keys_[i];
            items_[kept] = items_[i];
            kept += keys_[i] >= low;
        }
        keys_.resize(kept);
        items_.resize(kept);
        threshold_ = std::bit_cast<float>(turned(static_cast<int32_t>(low)));
    }

    void select() {
        std::nth_element(items_.begin(), items_.begin() + (k_ - 1), items_.end(), better);
        items_.resize(k_);
        keys_.clear();
        for (const Candidate& item : items_) keys_.push_back(ordered(item.score));
        threshold_ = items_[k_ - 1].score;
    }

    size_t k_, enough_;
    float threshold_ = -std::numeric_limits<float>::infinity();
    std::vector<Candidate> items_;
    std::vector<int32_t> keys_;  // of the items
};

}  // namespace rag
