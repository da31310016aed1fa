#include "store.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "errors.h"

namespace rag {

namespace {

// Scores of vectors below this length stay finite in float, squared distances included.
constexpr double kLargestNorm = 1e18;

// In sums side by side, which do not wait for each other.
double squared_length(const float* vector, size_t dim) {
    constexpr size_t kSums = 8;
    double sums[kSums] = {};
    const size_t whole = dim / kSums * kSums;
    for (size_t d = 0; d < whole; d += kSums)
        for (size_t i = 0; i < kSums; ++i) sums[i] += static_cast<double>(vector[d + i]) * vector[d + i];
    for (size_t d = whole; d < dim; ++d) sums[0] += static_cast<double>(vector[d]) * vector[d];
    return std::accumulate(sums, sums + kSums, 0.0);
}

std::string at(const char* what, size_t row) { return std::string(what) + "[" + std::to_string(row) + "]"; }

[[noreturn]] void refuse_component(const float* vector, size_t dim, float limit, const std::string& where) {
    for (size_t d = 0; d < dim; ++d) {
        const std::string place = where + " holds " + std::to_string(vector[d]) + " at position " + std::to_string(d);
        if (!std::isfinite(vector[d])) throw InputError(place, "vectors must be finite; check what made them");
        if (std::abs(vector[d]) > limit)
            throw InputError(place + ", beyond what the codec can hold (" + std::to_string(limit) + ")",
                             "scale the vectors down, or use codec float32");
    }
    throw InputError(where + " is longer than 1e18", "scale the vectors down");
}

constexpr size_t kEncoded = 96;  // vectors that a thread encodes at a time: whole panels, and 0.1 ms at least

void reserve(Tier& tier, size_t n) {
    tier.codes.extend(n);
    if (tier.codec->factors()) tier.factors.extend(n);
}

// Into the rows from number `first` on of those that were reserved.
void encode(Tier& tier, const float* vectors, size_t first, size_t n, size_t dim) {
    float* factors = nullptr;
    if (tier.codec->factors()) factors = reinterpret_cast<float*>(tier.factors.reserved(first));
    tier.codec->encode_all(vectors, n, dim, tier.codes.reserved(first), factors);
}

void commit(Tier& tier, size_t n) {
    tier.codes.commit(n);
    if (tier.codec->factors()) tier.factors.commit(n);
}

}  // namespace

VectorStore::VectorStore(size_t dim, Metric metric, std::string_view codec, Learned learned)
    : dim_(dim), metric_(metric), learned_(std::move(learned)), primary_(make_codec(codec, dim, metric, learned_)) {
    if (const std::string_view exact = primary_.codec->exact(); !exact.empty())
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
    const std::vector<double> lengths = checked(queries, n, std::numeric_limits<float>::max(), "queries");
    std::vector<float> result(n * dim_);
    for (size_t i = 0; i < n; ++i) scaled(queries + i * dim_, lengths[i], result.data() + i * dim_);
    return result;
}

// What to divide the vectors by.
std::vector<double> VectorStore::checked(const float* vectors, size_t n, float limit, const char* what) const {
    const bool unit = metric_ == Metric::cosine;
    const float largest = unit ? std::numeric_limits<float>::max() : limit;
    std::vector<double> lengths(n);
    for (size_t i = 0; i < n; ++i) {
        const float* vector = vectors + i * dim_;
        const double norm = std::sqrt(squared_length(vector, dim_));
        // No squares of finite floats, however many, are beyond a double.
        const bool within = std::isfinite(norm) && (largest == std::numeric_limits<float>::max() ||
                                                    std::all_of(vector, vector + dim_, [&](float x) { return std::abs(x) <= largest; }));
        if (!within || (!unit && norm > kLargestNorm)) refuse_component(vector, dim_, largest, at(what, i));
        if (unit && norm == 0)
            throw InputError(at(what, i) + " is all zeros, which has no direction",
                             "leave it out, or use metric ip or l2");
        lengths[i] = unit ? norm : 1;
    }
    return lengths;
}

void VectorStore::scaled(const float* vector, double length, float* to) const {
    if (metric_ != Metric::cosine) {
        std::copy_n(vector, dim_, to);
        return;
    }
    const double inverse = 1 / length;  // finite: the shortest length of floats is no less than their smallest number
    for (size_t d = 0; d < dim_; ++d) to[d] = static_cast<float>(vector[d] * inverse);
}

void VectorStore::check_new(std::span<const int64_t> ids) const {
    if (rows() + ids.size() > std::numeric_limits<uint32_t>::max())
        throw InputError("an index holds at most 4294967295 vectors", "split them over several indexes");
    std::vector<int64_t> sorted(ids.begin(), ids.end());
    std::sort(sorted.begin(), sorted.end());
    if (!sorted.empty() && sorted.front() < 0)
        throw InputError("id " + std::to_string(sorted.front()) + " is negative", "ids start at 0");
    if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
        throw InputError("id " + std::to_string(*twice) + " is given twice", "each vector needs its own id");
    Bitmap found(rows());
    ids_.find(sorted, found);
    found.each([&](size_t row) {
        if (!dead_[row])
            throw InputError("id " + std::to_string(ids_[row]) + " is there already", "delete it first to replace it");
    });
}

void VectorStore::add(std::span<const int64_t> ids, const float* vectors, size_t threads, const Interrupt& interrupt) {
    const std::lock_guard alone(adding_);
    const size_t n = ids.size();
    {
        const std::shared_lock reading(mutex_);
        check_new(ids);
    }
    const std::vector<double> lengths = checked(vectors, n, limit(), "vectors");
    {
        const std::unique_lock writing(mutex_);  // what is there may move
        reserve(primary_, n);
        if (secondary_) reserve(*secondary_, n);
    }
    // Searches go on: nobody reads beyond the rows that there are.
    parallel((n + kEncoded - 1) / kEncoded, threads, interrupt, [&](size_t block, size_t) {
        thread_local std::vector<float> ready;
        const size_t first = block * kEncoded, count = std::min(kEncoded, n - first);
        ready.resize(kEncoded * dim_);
        for (size_t i = 0; i < count; ++i)
            scaled(vectors + (first + i) * dim_, lengths[first + i], ready.data() + i * dim_);
        encode(primary_, ready.data(), first, count, dim_);
        if (secondary_) encode(*secondary_, ready.data(), first, count, dim_);
    });
    // Everything that can fail comes before the first commit.
    const std::unique_lock writing(mutex_);
    ids_.reserve(n);
    dead_.resize(rows() + n);
    ids_.append(ids);
    commit(primary_, n);
    if (secondary_) commit(*secondary_, n);
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
