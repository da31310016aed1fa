// The way of one query through a graph.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "graph.h"

namespace rag {

// The best rows seen so far, best first, and which of them are still to be expanded. An item is one number: its score, in
// an order-preserving form, above its row, above whether it was expanded.
class Pool {
public:
    void reset(size_t window, size_t capacity) {
        size_ = next_ = 0;
        widen(window, capacity);
    }
    // Keeps the best of what is there.
    void widen(size_t window, size_t capacity) {
        window_ = window;
        capacity_ = std::max(window, capacity);
        items_.resize(capacity_ + 1);
        size_ = std::min(size_, capacity_);
    }
    size_t size() const { return size_; }
    float score(size_t i) const { return unordered(static_cast<uint32_t>(items_[i] >> 32)); }
    uint32_t row(size_t i) const { return static_cast<uint32_t>(items_[i]) >> 1; }
    // Lower scores cannot enter.
    float threshold() const { return size_ < capacity_ ? -std::numeric_limits<float>::infinity() : score(size_ - 1); }

    // Whether it is now the next to be expanded.
    bool push(float score, uint32_t row) {
        const uint64_t item = uint64_t{ordered(score)} << 32 | row << 1 | 1;
        uint64_t* const first = items_.data();
        const size_t at = larger(item);
        std::memmove(first + at + 1, first + at, (size_ - at) * sizeof item);
        first[at] = item;
        size_ += size_ < capacity_;
        const bool first_of_all = at <= next_;
        next_ = std::min(next_, at);
        return first_of_all;
    }

    // The best row of the window that was not expanded, marked as such; kNoRow when there is none.
    uint32_t expand() {
        const uint32_t row = peek();
        if (row != kNoRow) items_[next_++] &= ~uint64_t{1};
        return row;
    }
    // The score of the row that was expanded last.
    float expanded() const { return score(next_ - 1); }
    // No row is expanded any more.
    void finish() { window_ = next_ = 0; }
    // Forgets the last rows, of lower scores than this, down to so many.
    void trim(float least, size_t most) {
        while (size_ > most && score(size_ - 1) < least) --size_;
    }
    // The row that would be next.
    uint32_t peek() {
        const size_t end = std::min(window_, size_);
        while (next_ < end && !(items_[next_] & 1)) ++next_;
        return next_ < end ? row(next_) : kNoRow;
    }

private:
    // How many items are larger: a binary search whose steps are no branches, which nothing could foretell.
    size_t larger(uint64_t item) const {
        const uint64_t* base = items_.data();
        for (size_t left = size_; left > 0;) {
            const size_t half = (left + 1) / 2;
            base += half & -static_cast<size_t>(base[half - 1] > item);
            left -= half;
        }
        return base - items_.data();
    }
    static uint32_t ordered(float score) {
        const auto bits = std::bit_cast<uint32_t>(score);
        return bits & kSign ? ~bits : bits | kSign;
    }
    static float unordered(uint32_t bits) { return std::bit_cast<float>(bits & kSign ? bits & ~kSign : ~bits); }
    static constexpr uint32_t kSign = uint32_t{1} << 31;

    size_t window_ = 0, capacity_ = 0, size_ = 0, next_ = 0;
    std::vector<uint64_t> items_;
};

// A set of rows that is emptied in as many steps as it has members.
class Visited {
public:
    // Room for so many more members, for rows below `rows`.
    void reserve(size_t rows, size_t more) {
        words_.resize(std::max(words_.size(), (rows + 63) / 64));
        if (touched_.size() < count_ + more) touched_.resize(2 * (count_ + more));
    }
    // Whether it is new. Without a branch: nothing could foretell it.
    bool insert(uint32_t row) {
        const uint64_t word = words_[row / 64], bit = word >> (row % 64) & 1;
        touched_[count_] = row / 64;
        count_ += word == 0;
        words_[row / 64] = word | uint64_t{1} << (row % 64);
        return !bit;
    }
    void clear() {
        for (size_t i = 0; i < count_; ++i) words_[touched_[i]] = 0;
        count_ = 0;
    }

private:
    std::vector<uint64_t> words_;
    std::vector<uint32_t> touched_;
    size_t count_ = 0;
};

// Several walks can take turns: each asks for memory at the end of its turn that it reads in the next. What a walk needs
// for itself it keeps for the next one.
class Walk {
public:
    // From the top of the graph down to a level, whose places are found. `origin`: the score of a row that lies where
    // the query does; squared distances are proportional to what scores lack of it.
    void start(const Graph& graph, const Queries& queries, size_t query, Effort effort, float origin = 0, size_t level = 0);
    // On the ground, among the rows that pass.
    void start(const Graph& graph, const Queries& queries, size_t query, Effort effort, float origin,
               std::span<const uint32_t> entries, const Bitmap& passing);
    // One turn. False when the walk is over.
    bool step();
    // Then: rows that no link leads to are found as well. `scores` has room for them.
    void meet_alone(std::span<const uint32_t> rows, const Block& block, float* scores);
    const Pool& found() const { return pool_; }
    // How many of what was found lie near enough to be expanded.
    size_t near() const;
    size_t expanded() const { return expanded_; }

private:
    void reset(const Graph& graph, const Queries& queries, size_t query, Effort effort, float origin, size_t level);
    float limit() const;
    void enter(size_t level);
    void aim();
    void begin(std::span<const uint32_t> entries);
    void meet_scored();
    void descend();
    bool gather();
    void meet(std::span<const uint32_t> links);
    void meet_passing(std::span<const uint32_t> links);
    void fetch();
    void fetch_links(uint32_t row) const;
    void score();

    const Graph* graph_ = nullptr;
    const Level* level_ = nullptr;
    size_t at_ = 0, goal_ = 0;  // numbers of this level and of the one where the walk ends
    Effort effort_{};
    float origin_ = 0, factor_ = 0;
    size_t expanded_ = 0;
    const Tier* tier_ = nullptr;
    const Queries* queries_ = nullptr;
    size_t factors_ = 0;
    size_t query_ = 0;
    const Bitmap* passing_ = nullptr;
    Pool pool_;
    Visited visited_;
    size_t waiting_ = 0;  // rows that are to be scored in the next turn
    std::vector<uint32_t> rows_;
    std::vector<const std::byte*> codes_;
    std::vector<float> row_factors_, scores_;
    std::vector<std::pair<float, uint32_t>> starts_;
};

}  // namespace rag
