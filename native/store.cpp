#include "store.h"

#include <algorithm>
#include <limits>

#include "errors.h"

namespace rag {

namespace {

constexpr size_t kEncoded = 96;  // vectors that a thread encodes at a time: whole panels, and 0.1 ms at least

}  // namespace

VectorStore::VectorStore(size_t dim, Metric metric, std::string_view codec, Learned learned, bool finer)
    : dim_(dim), metric_(metric), learned_(std::move(learned)), primary_(make_codec(codec, dim, metric, learned_)) {
    if (const std::string_view exact = primary_.codec->exact(); finer && !exact.empty())
        secondary_.emplace(make_codec(exact, dim, metric, learned_));
}

void VectorStore::attach(const Parts& parts, size_t n, const std::shared_ptr<void>& owner) {
    ids_.attach(parts.ids, owner);
    primary_.codes.attach(parts.codes, owner);
    if (primary_.codec->factors()) primary_.factors.attach(parts.factors, owner);
    if (secondary_) secondary_->codes.attach(parts.secondary, owner);
    dead_.resize(n);
    std::ranges::copy(parts.tombstones, std::as_writable_bytes(dead_.words()).begin());
    dead_count_ = dead_.count();
    changed();
}

float VectorStore::limit() const {
    const float primary = primary_.codec->limit();
    return secondary_ ? std::min(primary, secondary_->codec->limit()) : primary;
}

std::vector<float> VectorStore::checked_queries(const float* queries, size_t n) const {
    const std::vector<double> lengths = check(std::numeric_limits<float>::max(), "queries").lengths(queries, n);
    std::vector<float> result(n * dim_);
    for (size_t i = 0; i < n; ++i) scaled(queries + i * dim_, lengths[i], result.data() + i * dim_);
    return result;
}

InputCheck VectorStore::check(float limit, const char* what) const {
    const bool unit = metric_ == Metric::cosine;
    return {what, dim_, unit ? std::numeric_limits<float>::max() : limit, unit, "leave it out, or use metric ip or l2"};
}

void VectorStore::scaled(const float* vector, double length, float* to) const {
    if (metric_ != Metric::cosine) {
        std::copy_n(vector, dim_, to);
        return;
    }
    const double inverse = 1 / length;  // finite: the shortest length of floats is no less than their smallest number
    for (size_t d = 0; d < dim_; ++d) to[d] = static_cast<float>(vector[d] * inverse);
}

void VectorStore::add(std::span<const int64_t> ids, const float* vectors, size_t threads, const Interrupt& interrupt) {
    const std::lock_guard alone(adding_);
    const size_t n = ids.size();
    {
        const std::shared_lock reading(mutex_);
        check_new_ids(ids, ids_, dead_);
    }
    const std::vector<double> lengths = check(limit(), "vectors").lengths(vectors, n);
    {
        const std::unique_lock writing(mutex_);  // what is there may move
        primary_.reserve(n);
        if (secondary_) secondary_->reserve(n);
    }
    // Searches go on: nobody reads beyond the rows that there are.
    parallel((n + kEncoded - 1) / kEncoded, threads, interrupt, [&](size_t block, size_t) {
        thread_local std::vector<float> ready;
        const size_t first = block * kEncoded, count = std::min(kEncoded, n - first);
        ready.resize(kEncoded * dim_);
        for (size_t i = 0; i < count; ++i)
            scaled(vectors + (first + i) * dim_, lengths[first + i], ready.data() + i * dim_);
        primary_.encode(ready.data(), first, count, dim_);
        if (secondary_) secondary_->encode(ready.data(), first, count, dim_);
    });
    // Everything that can fail comes before the first commit.
    const std::unique_lock writing(mutex_);
    ids_.reserve(n);
    dead_.resize(rows() + n);
    ids_.append(ids);
    primary_.commit(n);
    if (secondary_) secondary_->commit(n);
    changed();
}

size_t VectorStore::remove(std::span<const int64_t> ids) {
    size_t removed = 0;
    for (int64_t id : ids) {
        const auto row = ids_.find(id);
        if (!row || dead_[*row]) continue;
        dead_.set(*row);
        ++removed;
    }
    dead_count_ += removed;
    if (removed) changed();
    return removed;
}

void VectorStore::decode(std::span<const int64_t> ids, float* vectors) const {
    const Tier& tier = finest();
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto row = ids_.find(ids[i]);
        if (!row || dead_[*row]) throw NotFoundError("id " + std::to_string(ids[i]) + " is not in the index");
        tier.codec->decode(tier.codes[*row], tier.factors_of(*row), vectors + i * dim_);
    }
}

std::shared_ptr<const Selection> VectorStore::select() const {
    const std::lock_guard lock(keeping_);
    if (!live_) live_ = std::make_shared<const Selection>(select(std::nullopt));
    return live_;
}

Selection VectorStore::select(std::optional<std::span<const int64_t>> ids) const {
    if (!ids && dead_count_ == 0) return {RowSet(rows()), Bitmap()};
    Bitmap chosen(rows());
    if (ids) ids_.find(*ids, chosen);
    std::vector<uint32_t> list;
    list.reserve(ids ? std::min(ids->size(), live()) : live());
    const std::span<const uint64_t> dead = dead_.words();
    for (size_t w = 0; w < dead.size(); ++w) {
        const size_t left = rows() - w * 64;
        const uint64_t all = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
        uint64_t& word = chosen.words()[w];
        word = (ids ? word : all) & ~dead[w];
        for (uint64_t bits = word; bits; bits &= bits - 1)
            list.push_back(static_cast<uint32_t>(w * 64 + std::countr_zero(bits)));
    }
    if (list.size() == rows()) return {RowSet(rows()), Bitmap()};
    return {RowSet(std::move(list)), std::move(chosen)};
}

std::shared_ptr<const Selection> Filter::in(const VectorStore& store) const {
    const std::lock_guard lock(keeping_);
    if (!kept_ || store_ != &store || version_ != store.version()) {
        kept_ = std::make_shared<const Selection>(store.select(ids_));
        store_ = &store;
        version_ = store.version();
    }
    return kept_;
}

}  // namespace rag
