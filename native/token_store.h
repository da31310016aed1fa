// The token vectors of documents, row after row in one codec: what late interaction scores.
#pragma once
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <vector>

#include "store.h"

namespace rag {

struct TokenParts {  // memory of a store that was opened from a file
    std::span<const std::byte> ids, ends, codes, factors, tombstones;
};

class TokenStore {
public:
    TokenStore(size_t dim, std::string_view codec, Learned learned);

    size_t dim() const { return dim_; }

    // Documents under new ids: document i has the tokens offsets[i] to offsets[i + 1], at least one, which are stored at
    // unit length. All of them, or InputError and none. Takes the lock by itself, and only for moments.
    void add(std::span<const int64_t> ids, const float* tokens, size_t n, std::span<const int64_t> offsets,
             size_t threads, const Interrupt& interrupt);

    // Documents of another store of the same codec, which has learned the same, as they are kept there. NotFoundError;
    // InputError for an id that is here already. Takes the locks of both by itself.
    void append(const TokenStore& other, std::span<const int64_t> ids);

    // Readers hold this shared, writers exclusively; the methods below expect their caller to do so.
    std::shared_mutex& mutex() const { return mutex_; }

    void attach(const TokenParts& parts, const std::shared_ptr<void>& owner);
    size_t remove(std::span<const int64_t> ids);
    void compact();  // leaves what was removed out for good

    // Documents by number, in the order in which they were added, removed ones included.
    size_t documents() const { return ids_.size(); }
    size_t rows() const { return tier_.codes.size(); }  // tokens, removed ones included
    size_t live() const { return ids_.size() - dead_count_; }
    size_t live_tokens() const { return tier_.codes.size() - dead_tokens_; }
    const Ids& ids() const { return ids_; }
    const Bitmap& dead() const { return dead_; }
    const Tier& tier() const { return tier_; }
    const Rows& ends() const { return ends_; }  // uint64 each: where a document's tokens end

    size_t first(size_t document) const { return document ? end(document - 1) : 0; }
    size_t end(size_t document) const { return *reinterpret_cast<const uint64_t*>(ends_[document]); }
    size_t length(size_t document) const { return end(document) - first(document); }

    std::optional<size_t> find(int64_t id) const;  // a live document
    RowSet select(std::optional<std::span<const int64_t>> ids) const;  // live documents, of these ids (ascending)
    void decode(size_t document, float* tokens) const;

private:
    static void copy(const Rows& from, size_t first, size_t n, std::byte* to);

    size_t dim_;
    Learned learned_;  // the codec refers to it
    Tier tier_;
    Ids ids_;
    Rows ends_{sizeof(uint64_t)};
    Bitmap dead_;
    size_t dead_count_ = 0, dead_tokens_ = 0;
    mutable std::shared_mutex mutex_;
    std::mutex adding_;  // one add after the other
};

}  // namespace rag
