// The token vectors of documents, row after row in one codec: what late interaction scores.
#pragma once
#include <string_view>

#include "ragged.h"

namespace rag {

struct TokenParts : RaggedParts {
    std::span<const std::byte> codes, factors;
};

class TokenStore : public RaggedStore {
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

    void attach(const TokenParts& parts, const std::shared_ptr<void>& owner);
    void compact();  // leaves what was removed out for good

    const Tier& tier() const { return tier_; }
    void decode(size_t document, float* tokens) const;

private:
    size_t dim_;
    Learned learned_;  // the codec refers to it
    Tier tier_;
};

}  // namespace rag
