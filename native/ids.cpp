#include "ids.h"

#include <algorithm>
#include <numeric>

namespace rag {

void Ids::attach(std::span<const std::byte> bytes, std::shared_ptr<void> owner) {
    rows_.attach(bytes, std::move(owner));
    sort_from(0);
}

void Ids::reserve(size_t n) {
    rows_.extend(n);
    order_.reserve(size() + n);
}

void Ids::append(std::span<const int64_t> ids) {
    const size_t first = size();
    std::ranges::copy(std::as_bytes(ids), rows_.extend(ids.size()));
    rows_.commit(ids.size());
    sort_from(first);
}

// Takes the rows from `first` on into the order.
void Ids::sort_from(size_t first) {
    const size_t n = size();
    if (order_.empty()) {
        size_t row = std::max<size_t>(first, 1);
        while (row < n && (*this)[row - 1] < (*this)[row]) ++row;
        if (row >= n) return;
        order_.resize(first);
        std::iota(order_.begin(), order_.end(), 0u);
    }
    order_.resize(n);
    std::iota(order_.begin() + first, order_.end(), static_cast<uint32_t>(first));
    const auto before = [this](uint32_t a, uint32_t b) {
        const int64_t x = (*this)[a], y = (*this)[b];
        return x != y ? x < y : a < b;
    };
    std::sort(order_.begin() + first, order_.end(), before);
    std::inplace_merge(order_.begin(), order_.begin() + first, order_.end(), before);
}

size_t Ids::upper_bound(int64_t id, size_t from) const {
    // Galloping: a sorted run of ids is found in steps that grow, so a long filter costs one pass and a short one
    // a few looks each.
    size_t step = 1, low = from, high = from;
    while (high < size() && id_at(high) <= id) {
        low = high + 1;
        high += step;
        step *= 2;
    }
    high = std::min(high, size());
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (id_at(middle) <= id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

std::optional<size_t> Ids::find(int64_t id) const {
    const size_t rank = upper_bound(id, 0);
    if (rank == 0 || id_at(rank - 1) != id) return std::nullopt;
    return row_at(rank - 1);
}

void Ids::find(std::span<const int64_t> ids, Bitmap& found) const {
    size_t rank = 0;
    for (int64_t id : ids) {
        rank = upper_bound(id, rank);
        if (rank > 0 && id_at(rank - 1) == id) found.set(row_at(rank - 1));
        if (rank == size()) return;  // every id that follows is larger than all stored ones
    }
}

}  // namespace rag
