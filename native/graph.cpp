#include "graph.h"

#include <cstring>

namespace rag {

namespace {

constexpr size_t kMostEntries = 128;

// Spreads row numbers evenly, whatever order the rows came in.
uint32_t scattered(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

}  // namespace

Graph::Graph(const VectorStore& store, const GraphForm& form) : store_(store), form_(form) {}

uint32_t* Graph::own_links(size_t rows) {
    own_.reserve(rows * row_bytes());
    if (foreign_) {
        std::memcpy(own_.data(), foreign_, rows_ * row_bytes());
        foreign_ = nullptr;
        owner_.reset();
    }
    return reinterpret_cast<uint32_t*>(own_.data());
}

void Graph::attach(std::span<const std::byte> bytes, const std::shared_ptr<void>& owner) {
    foreign_ = reinterpret_cast<const uint32_t*>(bytes.data());
    rows_ = bytes.size() / row_bytes();
    owner_ = owner;
    choose_entries();
}

// Every row whose scattered number is a multiple of a step, which doubles when there are too many: those that stay were
// entries before.
void Graph::choose_entries() {
    while (rows_ / entry_step_ >= kMostEntries) entry_step_ *= 2;
    entries_.clear();
    for (size_t row = 0; row < rows_; ++row)
        if (scattered(static_cast<uint32_t>(row)) % entry_step_ == 0) entries_.push_back(static_cast<uint32_t>(row));
}

}  // namespace rag
