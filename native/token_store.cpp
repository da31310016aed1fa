#include "token_store.h"

#include <algorithm>
#include <limits>
#include <string>

#include "errors.h"

namespace rag {

namespace {

constexpr size_t kEncoded = 96;  // tokens that a thread encodes at a time: whole panels, and 0.1 ms at least

}  // namespace

TokenStore::TokenStore(size_t dim, std::string_view codec, Learned learned)
    : dim_(dim), learned_(std::move(learned)), tier_(make_codec(codec, dim, Metric::ip, learned_)) {
    if (!tier_.codec->panels())
        throw InputError("codec '" + std::string(codec) + "' scores no tokens", "use another one");
}

void TokenStore::add(std::span<const int64_t> ids, const float* tokens, size_t n, std::span<const int64_t> offsets,
                     size_t threads, const Interrupt& interrupt) {
    const std::lock_guard alone(adding_);
    check_offsets(ids, n, offsets);
    {
        const std::shared_lock reading(mutex());
        check_new_ids(ids, this->ids(), dead());
    }
    const InputCheck check{"tokens", dim_, std::numeric_limits<float>::max(), true, "leave it out"};
    const std::vector<double> lengths = check.lengths(tokens, n);
    {
        const std::unique_lock writing(mutex());  // what is there may move
        tier_.reserve(n);
    }
    // Searches go on: nobody reads beyond the rows that there are.
    parallel((n + kEncoded - 1) / kEncoded, threads, interrupt, [&](size_t block, size_t) {
        thread_local std::vector<float> unit;
        const size_t first = block * kEncoded, count = std::min(kEncoded, n - first);
        unit.resize(kEncoded * dim_);
        for (size_t i = 0; i < count; ++i)
            for (size_t d = 0; d < dim_; ++d)
                unit[i * dim_ + d] = static_cast<float>(tokens[(first + i) * dim_ + d] / lengths[first + i]);
        tier_.encode(unit.data(), first, count, dim_);
    });
    // Everything that can fail comes before the first commit.
    const std::unique_lock writing(mutex());
    reserve_documents(ids, offsets);
    commit_documents(ids);
    tier_.commit(n);
}

void TokenStore::append(const TokenStore& other, std::span<const int64_t> ids) {
    if (&other == this || other.dim_ != dim_ || other.tier_.codec->name() != tier_.codec->name())
        throw InputError("only documents of another store of the same dimension and codec can be copied", "decode them");
    const std::lock_guard alone(adding_);
    std::unique_lock writing(mutex(), std::defer_lock);
    std::shared_lock reading(other.mutex(), std::defer_lock);
    std::lock(writing, reading);
    check_new_ids(ids, this->ids(), dead());
    std::vector<size_t> documents;
    std::vector<int64_t> offsets{0};
    for (const int64_t id : ids) {
        const auto document = other.find(id);
        if (!document) throw NotFoundError("id " + std::to_string(id) + " is not in the store");
        documents.push_back(*document);
        offsets.push_back(offsets.back() + static_cast<int64_t>(other.length(*document)));
    }
    const auto n = static_cast<size_t>(offsets.back());
    // Everything that can fail comes before the first commit.
    tier_.reserve(n);
    reserve_documents(ids, offsets);
    const auto copy = [&](const Rows& from, Rows& to) {
        for (size_t i = 0; i < documents.size(); ++i) {
            std::byte* at = to.reserved(static_cast<size_t>(offsets[i]));
            for (size_t row = other.first(documents[i]); row < other.end(documents[i]); ++row, at += from.stride())
                std::copy_n(from[row], from.stride(), at);
        }
    };
    copy(other.tier_.codes, tier_.codes);
    if (tier_.codec->factors()) copy(other.tier_.factors, tier_.factors);
    commit_documents(ids);
    tier_.commit(n);
}

void TokenStore::attach(const TokenParts& parts, const std::shared_ptr<void>& owner) {
    attach_documents(parts, parts.codes.size() / tier_.codes.stride(), owner);
    tier_.codes.attach(parts.codes, owner);
    if (tier_.codec->factors()) tier_.factors.attach(parts.factors, owner);
}

void TokenStore::compact() {
    if (live() == documents()) return;
    Tier tier(make_codec(tier_.codec->name(), dim_, Metric::ip, learned_));
    keep_rows(tier_.codes, tier.codes);
    if (tier.codec->factors()) keep_rows(tier_.factors, tier.factors);
    keep_documents();
    tier_ = std::move(tier);
}

void TokenStore::decode(size_t document, float* tokens) const {
    for (size_t row = first(document); row < end(document); ++row, tokens += dim_)
        tier_.codec->decode(tier_.codes[row], tier_.factors_of(row), tokens);
}

}  // namespace rag
