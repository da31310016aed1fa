// Which row holds which id.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bitmap.h"
#include "memory.h"

namespace rag {

// Rows keep the order in which they were added. While ids ascend with the rows, as they mostly do, the rows themselves
// are the lookup; otherwise a permutation of the rows sorted by id is kept beside them.
class Ids {
public:
    int64_t operator[](size_t row) const { return *reinterpret_cast<const int64_t*>(rows_[row]); }
    size_t size() const { return rows_.size(); }
    const Rows& rows() const { return rows_; }

    void attach(std::span<const std::byte> bytes, std::shared_ptr<void> owner);
    void reserve(size_t n);  // room for n more, so that `append` cannot fail
    void append(std::span<const int64_t> ids);

    // The newest row with this id (older ones with the same id were deleted).
    std::optional<size_t> find(int64_t id) const;
    // Sets in `found` the newest row of each of these ids, which ascend; ids that no row holds are passed over.
    void find(std::span<const int64_t> ids, Bitmap& found) const;

private:
    size_t row_at(size_t rank) const { return order_.empty() ? rank : order_[rank]; }
    int64_t id_at(size_t rank) const { return (*this)[row_at(rank)]; }
    size_t upper_bound(int64_t id, size_t from) const;  // first rank with a larger id
    void sort_from(size_t first);

    Rows rows_{sizeof(int64_t)};
    std::vector<uint32_t> order_;  // rows by (id, row); empty while that is 0, 1, 2, ...
};

}  // namespace rag
