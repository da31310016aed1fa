#include "graph.h"

#include <algorithm>
#include <mutex>

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

}  // namespace

void Graph::extend(size_t rows, size_t room) {
    if (foreign_ || room != room_) {
        Buffer wider;
        wider.reserve(rows * room * sizeof(uint32_t));
        auto* to = reinterpret_cast<uint32_t*>(wider.data());
        std::fill_n(to, rows * room, kNoRow);
        for (size_t row = 0; row < rows_; ++row) std::copy_n(links(row), std::min(room, room_), to + row * room);
        own_.swap(wider);
        foreign_ = nullptr;
        owner_.reset();
        room_ = room;
    } else if (rows > rows_) {
        own_.reserve(rows * row_bytes());
        std::fill_n(own_links() + rows_ * room_, (rows - rows_) * room_, kNoRow);
    }
    rows_ = rows;
}

void Graph::attach(std::span<const std::byte> bytes, double longest, const std::shared_ptr<void>& owner) {
    const std::unique_lock writing(store_.mutex());
    if (rows_ || bytes.size() != store_.rows() * row_bytes())
        throw InputError("links for another number of rows", "the file is damaged");
    const std::span links(reinterpret_cast<const uint32_t*>(bytes.data()), bytes.size() / sizeof(uint32_t));
    uint32_t wrong = 0;
    for (const uint32_t link : links) wrong |= (link >= store_.rows()) & (link != kNoRow);
    if (wrong) throw InputError("links lead to rows that are not there", "the file is damaged");
    longest_ = longest;
    foreign_ = reinterpret_cast<const uint32_t*>(bytes.data());
    rows_ = bytes.size() / row_bytes();
    owner_ = owner;
    for (size_t row = 0; row < rows_; ++row) enter(static_cast<uint32_t>(row));
}

// Entries are the rows whose scattered number is a multiple of a step, which doubles when there are too many: those that
// stay were entries before.
void Graph::enter(uint32_t row) {
    if (scattered(row) % entry_step_) return;
    entries_.push_back(row);
    if (entries_.size() <= kMostEntries) return;
    entry_step_ *= 2;
    std::erase_if(entries_, [&](uint32_t one) { return scattered(one) % entry_step_ != 0; });
}

}  // namespace rag
