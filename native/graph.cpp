#include "graph.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "errors.h"

namespace rag {

namespace {

constexpr size_t kMostEntries = 256;

// Spreads row numbers evenly, whatever order the rows came in.
uint32_t scattered(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}
uint64_t scattered(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

[[noreturn]] void refuse(const char* what) { throw InputError(what, "the file is damaged"); }

}  // namespace

void Graph::wait() {
    const std::unique_lock writing(store_.mutex());
    levels_[0].extend(store_.rows(), levels_[0].room());
    known_ = store_.rows();
}

void Graph::attach(std::span<const Saved> levels, size_t linked, double longest, const std::shared_ptr<void>& owner) {
    const std::unique_lock writing(store_.mutex());
    const size_t rows = store_.rows();
    if (levels_[0].size() || levels.empty() || linked > rows || levels[0].links.size() != rows * levels[0].room)
        refuse("links for another number of rows");
    levels_[0].attach(levels[0].links, levels[0].room, owner);
    std::unordered_map<uint32_t, uint32_t> lower, places;
    for (size_t number = 1; number < levels.size(); ++number) {
        Level& level = levels_.emplace_back(form_.degree / 2, false);
        places.clear();
        for (const uint32_t row : levels[number].rows) {
            const auto below = lower.find(row);
            const bool there = number == 1 ? row < rows : below != lower.end();
            if (!there || !places.emplace(row, places.size()).second) refuse("rows of a level are not on the level below");
            level.name(row, number == 1 ? row : below->second);
        }
        level.attach(levels[number].links, levels[number].room, owner);
        lower.swap(places);
    }
    longest_ = longest;
    linked_ = linked;
    known_ = rows;
    if (levels_.size() > 1)
        enter_top();
    else
        for (size_t row = 0; row < linked_; ++row) enter(static_cast<uint32_t>(row));
}

// A whole number is drawn for each row and seed; a share of 1 / thinning of them is below the first bound, and so on.
size_t Graph::height(uint32_t row) const {
    if (!form_.thinning) return 0;
    const uint64_t drawn = scattered(scattered(form_.seed) ^ row);
    size_t height = 0;
    for (uint64_t bound = std::numeric_limits<uint64_t>::max() / form_.thinning; drawn < bound; bound /= form_.thinning) ++height;
    return height;
}

void Graph::enter_top() {
    top_ = 0;
    while (top_ + 1 < levels_.size() && (top_ == 0 || levels_[top_].size() > kMostEntries)) ++top_;
    entries_.resize(levels_[top_].size());
    std::iota(entries_.begin(), entries_.end(), 0);
}

// Without levels, entries are the rows whose scattered number is a multiple of a step, which doubles when there are too
// many: those that stay were entries before.
void Graph::enter(uint32_t row) {
    if (scattered(row) % entry_step_) return;
    entries_.push_back(row);
    if (entries_.size() <= kMostEntries) return;
    entry_step_ *= 2;
    std::erase_if(entries_, [&](uint32_t one) { return scattered(one) % entry_step_ != 0; });
}

}  // namespace rag
