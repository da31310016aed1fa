#include "token_store.h"

#include <algorithm>
#include <limits>
#include <string>

#include "errors.h"

namespace rag {

namespace {

constexpr size_t kEncoded = 96;  // tokens that a thread encodes at a time: whole panels, and 0.1 ms at least

void check_offsets(std::span<const int64_t> ids, size_t tokens, std::span<const int64_t> offsets) {
    for (size_t i = 0; i < ids.size(); ++i) {
        if (offsets[i + 1] > offsets[i]) continue;
        const std::string which = "document " + std::to_string(i) + " (id " + std::to_string(ids[i]) + ")";
        if (offsets[i + 1] == offsets[i])
            throw InputError(which + " has no tokens", "leave out documents without text");
        throw InputError(which + " ends at token " + std::to_string(offsets[i + 1]) + ", before it begins, at " +
                             std::to_string(offsets[i]), "offsets must ascend");
    }
    if (offsets.front() != 0 || offsets.back() != static_cast<int64_t>(tokens))
        throw InputError("offsets go from " + std::to_string(offsets.front()) + " to " + std::to_string(offsets.back()),
                         "they must go from 0 to the number of tokens, " + std::to_string(tokens));
}

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
        const std::shared_lock reading(mutex_);
        check_new_ids(ids, ids_, dead_);
    }
    const InputCheck check{"tokens", dim_, std::numeric_limits<float>::max(), true, "leave it out"};
    const std::vector<double> lengths = check.lengths(tokens, n);
    {
        const std::unique_lock writing(mutex_);  // what is there may move
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
    const std::unique_lock writing(mutex_);
    const uint64_t before = tier_.codes.size();
    auto* ends = reinterpret_cast<uint64_t*>(ends_.extend(ids.size()));
    ids_.reserve(ids.size());
    dead_.resize(documents() + ids.size());
    for (size_t i = 0; i < ids.size(); ++i) ends[i] = before + static_cast<uint64_t>(offsets[i + 1]);
    ids_.append(ids);
    ends_.commit(ids.size());
    tier_.commit(n);
}

void TokenStore::append(const TokenStore& other, std::span<const int64_t> ids) {
    if (&other == this || other.dim_ != dim_ || other.tier_.codec->name() != tier_.codec->name())
        throw InputError("only documents of another store of the same dimension and codec can be copied", "decode them");
    const std::lock_guard alone(adding_);
    std::unique_lock writing(mutex_, std::defer_lock);
    std::shared_lock reading(other.mutex_, std::defer_lock);
    std::lock(writing, reading);
    check_new_ids(ids, ids_, dead_);
    std::vector<size_t> documents;
    size_t n = 0;
    for (const int64_t id : ids) {
        const auto document = other.find(id);
        if (!document) throw NotFoundError("id " + std::to_string(id) + " is not in the store");
        documents.push_back(*document);
        n += other.length(*document);
    }
    // Everything that can fail comes before the first commit.
    tier_.reserve(n);
    auto* ends = reinterpret_cast<uint64_t*>(ends_.extend(ids.size()));
    ids_.reserve(ids.size());
    dead_.resize(this->documents() + ids.size());
    uint64_t end = tier_.codes.size();
    for (size_t i = 0, at = 0; i < ids.size(); ++i) {
        const size_t first = other.first(documents[i]), length = other.length(documents[i]);
        copy(other.tier_.codes, first, length, tier_.codes.reserved(at));
        if (tier_.codec->factors()) copy(other.tier_.factors, first, length, tier_.factors.reserved(at));
        at += length;
        ends[i] = end += length;
    }
    ids_.append(ids);
    ends_.commit(ids.size());
    tier_.commit(n);
}

void TokenStore::copy(const Rows& from, size_t first, size_t n, std::byte* to) {
    for (size_t i = 0; i < n; ++i, to += from.stride()) std::copy_n(from[first + i], from.stride(), to);
}

void TokenStore::attach(const TokenParts& parts, const std::shared_ptr<void>& owner) {
    const size_t n = parts.ids.size() / sizeof(int64_t);
    const size_t tokens = parts.codes.size() / tier_.codes.stride();
    const std::span ends(reinterpret_cast<const uint64_t*>(parts.ends.data()), n);
    uint64_t before = 0;
    for (const uint64_t end : ends) {
        if (end <= before || end > tokens) throw InputError("section ends does not ascend", "the file is damaged");
        before = end;
    }
    if (before != tokens) throw InputError("section ends does not end with the last token", "the file is damaged");
    ids_.attach(parts.ids, owner);
    ends_.attach(parts.ends, owner);
    tier_.codes.attach(parts.codes, owner);
    if (tier_.codec->factors()) tier_.factors.attach(parts.factors, owner);
    dead_.resize(n);
    std::ranges::copy(parts.tombstones, std::as_writable_bytes(dead_.words()).begin());
    dead_count_ = dead_.count();
    dead_.each([&](size_t document) { dead_tokens_ += length(document); });
}

size_t TokenStore::remove(std::span<const int64_t> ids) {
    size_t removed = 0;
    for (int64_t id : ids) {
        const auto document = find(id);
        if (!document) continue;
        dead_.set(*document);
        dead_tokens_ += length(*document);
        ++removed;
    }
    dead_count_ += removed;
    return removed;
}

void TokenStore::compact() {
    if (!dead_count_) return;
    Tier tier(make_codec(tier_.codec->name(), dim_, Metric::ip, learned_));
    Rows ends(sizeof(uint64_t));
    Ids ids;
    std::vector<int64_t> kept;
    for (size_t document = 0; document < documents(); ++document) {
        if (dead_[document]) continue;
        const size_t first = this->first(document), length = this->length(document);
        tier.reserve(length);
        copy(tier_.codes, first, length, tier.codes.reserved(0));
        if (tier.codec->factors()) copy(tier_.factors, first, length, tier.factors.reserved(0));
        tier.commit(length);
        const uint64_t end = tier.codes.size();
        std::copy_n(reinterpret_cast<const std::byte*>(&end), sizeof end, ends.extend(1));
        ends.commit(1);
        kept.push_back(ids_[document]);
    }
    ids.reserve(kept.size());
    ids.append(kept);
    tier_ = std::move(tier);
    ends_ = std::move(ends);
    ids_ = std::move(ids);
    dead_ = Bitmap(documents());
    dead_count_ = dead_tokens_ = 0;
}

std::optional<size_t> TokenStore::find(int64_t id) const {
    const auto document = ids_.find(id);
    return document && !dead_[*document] ? document : std::nullopt;
}

RowSet TokenStore::select(std::optional<std::span<const int64_t>> ids) const {
    if (!ids && dead_count_ == 0) return RowSet(documents());
    std::vector<uint32_t> list;
    Bitmap chosen(documents(), !ids);
    if (ids) ids_.find(*ids, chosen);
    chosen.each([&](size_t document) {
        if (!dead_[document]) list.push_back(static_cast<uint32_t>(document));
    });
    return RowSet(std::move(list));
}

void TokenStore::decode(size_t document, float* tokens) const {
    for (size_t row = first(document); row < end(document); ++row, tokens += dim_)
        tier_.codec->decode(tier_.codes[row], tier_.factors_of(row), tokens);
}

}  // namespace rag
