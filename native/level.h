// Rows with links to one another: one level of a graph.
#pragma once
#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "memory.h"

namespace rag {

inline constexpr uint32_t kNoRow = ~uint32_t{0};

// A row has a place on a level, and links lead to places. On the ground level, where all rows are, the place is the
// row itself; the few rows of a level above have the places in which they came there.
class Level {
public:
    Level(size_t degree, bool ground) : degree_(degree), room_(degree), ground_(ground) {}

    size_t size() const { return size_; }
    size_t degree() const { return degree_; }  // links that are kept for a place, at most
    size_t room() const { return room_; }      // links that there is memory for, more once rows came one after the other
    size_t row_bytes() const { return room_ * sizeof(uint32_t); }
    // The links of a place, or of all; kNoRow ends those of a place where they are fewer than `room`.
    const uint32_t* links(size_t place) const { return links() + place * room_; }
    std::span<const uint32_t> linked(size_t place) const {
        const uint32_t* first = links(place);
        return {first, static_cast<size_t>(std::find(first, first + room_, kNoRow) - first)};
    }
    const uint32_t* links() const { return foreign_ ? foreign_ : reinterpret_cast<const uint32_t*>(own_.data()); }

    bool ground() const { return ground_; }
    uint32_t row(uint32_t place) const { return ground_ ? place : rows_[place]; }
    uint32_t below(uint32_t place) const { return below_[place]; }  // where the row is one level down
    std::span<const uint32_t> rows() const { return rows_; }        // by place; none on the ground level

    // Writers hold the store's lock.
    void extend(size_t places, size_t room);  // new places have no links
    void name(uint32_t row, uint32_t below) {  // of the next place, for which `extend` or `attach` is to bring links
        rows_.push_back(row);
        below_.push_back(below);
    }
    void set(size_t place, const uint32_t* links) {
        if (foreign_) extend(size_, room_);  // what is mapped from a file cannot be written to
        std::copy_n(links, room_, own_links() + place * room_);
    }
    // Links [places, room] in memory that `owner` keeps. Throws InputError for one that leads nowhere.
    void attach(std::span<const uint32_t> links, size_t room, const std::shared_ptr<void>& owner);

private:
    uint32_t* own_links() { return reinterpret_cast<uint32_t*>(own_.data()); }

    size_t degree_, room_, size_ = 0;
    bool ground_;
    std::vector<uint32_t> rows_, below_;
    const uint32_t* foreign_ = nullptr;  // mapped from a file, until something is to be changed
    std::shared_ptr<void> owner_;
    Buffer own_;
};

}  // namespace rag
