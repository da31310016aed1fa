// Documents under ids, each with a run of rows: what stores of token vectors and of their centroids have in common.
#pragma once
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <vector>

#include "bitmap.h"
#include "ids.h"
#include "memory.h"
#include "store.h"

namespace rag {

struct RaggedParts {  // memory of a store that was opened from a file
    std::span<const std::byte> ids, ends, tombstones;
};

class RaggedStore {
public:
    // Readers hold this shared, writers exclusively; the methods below expect their caller to do so.
    std::shared_mutex& mutex() const { return mutex_; }

    size_t remove(std::span<const int64_t> ids);

    // Documents by number, in the order in which they were added, removed ones included.
    size_t documents() const { return ids_.size(); }
    size_t rows() const { return documents() ? end(documents() - 1) : 0; }  // removed ones included
    size_t live() const { return ids_.size() - dead_count_; }
    size_t live_rows() const { return rows() - dead_rows_; }
    const Ids& ids() const { return ids_; }
    const Bitmap& dead() const { return dead_; }
    const Rows& ends() const { return ends_; }  // uint64 each: where a document's rows end

    size_t first(size_t document) const { return document ? end(document - 1) : 0; }
    size_t end(size_t document) const { return *reinterpret_cast<const uint64_t*>(ends_[document]); }
    size_t length(size_t document) const { return end(document) - first(document); }

    std::optional<size_t> find(int64_t id) const;  // a live document
    RowSet select(std::optional<std::span<const int64_t>> ids) const;  // live documents, of these ids (ascending)

protected:
    // InputError unless offsets go from 0 to n and every document has a row at least.
    static void check_offsets(std::span<const int64_t> ids, size_t n, std::span<const int64_t> offsets);

    // Room for these documents, whose ends count from the rows that there are; `commit_documents` cannot fail then.
    void reserve_documents(std::span<const int64_t> ids, std::span<const int64_t> offsets);
    void commit_documents(std::span<const int64_t> ids);
    void attach_documents(const RaggedParts& parts, size_t rows, const std::shared_ptr<void>& owner);

    // Leaves removed documents out: copies the rows of `from` that remain to `to`, both alike.
    void keep_rows(const Rows& from, Rows& to) const;
    void keep_documents();  // when all rows are copied

    std::mutex adding_;  // one add after the other

private:
    Ids ids_;
    Rows ends_{sizeof(uint64_t)};
    Bitmap dead_;
    size_t dead_count_ = 0, dead_rows_ = 0;
    mutable std::shared_mutex mutex_;
};

// Cuts a set into pieces of much the same number of rows.
std::vector<std::pair<size_t, size_t>> slices(const RaggedStore& store, const RowSet& documents, size_t rows);

// Queries as sets of tokens: query i has the tokens offsets[i] to offsets[i + 1], at least one. What is longer counts
// for more.
struct TokenQueries {
    const float* tokens;
    size_t n;  // tokens
    std::span<const int64_t> offsets;

    size_t count() const { return offsets.size() - 1; }
    void check(size_t dim) const;  // InputError
};

}  // namespace rag
