#include "centroids.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "errors.h"
#include "topk.h"

namespace rag {

namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();
constexpr size_t kTokens = 96;        // tokens whose centroids a thread looks for at a time
constexpr size_t kBlock = 120;        // centroids scored at a time: a multiple of every tile_rows
constexpr size_t kUnitLanes = 16;     // bytes in a register of any processor
constexpr size_t kGroupLanes = 64;    // query tokens in a table: as many registers as the inner loop holds
constexpr size_t kTables = 64;        // kept at a time, and 16 MB at most
constexpr size_t kSlice = 1 << 16;    // centroids of documents that a thread looks up at a time
constexpr size_t kFetched = 8;        // candidates ahead, of which the memory is asked for

using Lanes = uint8_t __attribute__((vector_size(kUnitLanes)));
using Floats = float __attribute__((vector_size(16)));
using Numbers = int32_t __attribute__((vector_size(16)));

Floats load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

uint32_t sum(Lanes x) {
    uint64_t halves[2], total = 0;
    std::memcpy(halves, &x, sizeof x);
    constexpr uint64_t even = 0x00ff00ff00ff00ff;
    for (const uint64_t half : halves) total += (half & even) + (half >> 8 & even);
    return static_cast<uint32_t>(total * 0x0001000100010001 >> 48);
}

// The sum, over N registers of query tokens, of the largest byte in the rows of these numbers.
template <size_t N>
uint32_t largest(const uint8_t* table, std::span<const uint16_t> numbers) {
    Lanes best[N] = {};
    for (const uint16_t number : numbers)
        for (size_t i = 0; i < N; ++i) {
            Lanes x;
            std::memcpy(&x, table + (number * N + i) * kUnitLanes, sizeof x);
            best[i] = x > best[i] ? x : best[i];
        }
    uint32_t total = 0;
    for (const Lanes& x : best) total += sum(x);
    return total;
}

// The inner products of up to 64 query tokens with all centroids, in bytes: low + step * byte, where each token has its own
// `low`, and these are summed up.
class Table {
public:
    Table(const Centroids& centroids, const float* tokens, size_t n)
        : registers_((n + kUnitLanes - 1) / kUnitLanes), bytes_(centroids.size() * registers_ * kUnitLanes) {
        thread_local std::vector<float> scores;
        const size_t ld = centroids.products(tokens, n, scores), width = registers_ * kUnitLanes;
        // Queries are padded with zeros to whole registers: so are the table's columns.
        Floats low[kGroupLanes / 4], high[kGroupLanes / 4];
        for (size_t i = 0; i < ld; i += 4) low[i / 4] = high[i / 4] = load(&scores[i]);
        for (size_t c = 1; c < centroids.size(); ++c)
            for (size_t i = 0; i < ld; i += 4) {
                const Floats x = load(&scores[c * ld + i]);
                low[i / 4] = x < low[i / 4] ? x : low[i / 4];
                high[i / 4] = x > high[i / 4] ? x : high[i / 4];
            }
        float range = 0;
        for (size_t i = 0; i < n; ++i) {
            low_ += low[i / 4][i % 4];
            range = std::max(range, high[i / 4][i % 4] - low[i / 4][i % 4]);
        }
        step_ = range / 255;
        const float inverse = range > 0 && std::isfinite(255 / range) ? 255 / range : 0;
        for (size_t c = 0; c < centroids.size(); ++c)
            for (size_t i = 0; i < ld; i += 4) {
                const Floats x = (load(&scores[c * ld + i]) - low[i / 4]) * inverse + 0.5f;
                const auto code = __builtin_convertvector(x, Numbers);
                for (size_t l = 0; l < 4; ++l) bytes_[c * width + i + l] = static_cast<uint8_t>(code[l]);
            }
    }

    double score(std::span<const uint16_t> numbers) const {
        switch (registers_) {
            case 1: return low_ + step_ * largest<1>(bytes_.data(), numbers);
            case 2: return low_ + step_ * largest<2>(bytes_.data(), numbers);
            case 3: return low_ + step_ * largest<3>(bytes_.data(), numbers);
            default: return low_ + step_ * largest<4>(bytes_.data(), numbers);
        }
    }

private:
    size_t registers_;
    double low_ = 0, step_ = 0;
    std::vector<uint8_t> bytes_;
};

// Those of neighbouring queries.
class Tables {
public:
    // As many queries from `first` on as 64 tables hold, and one at least.
    Tables(const Centroids& centroids, const TokenQueries& queries, size_t first, size_t threads,
           const Interrupt& interrupt)
        : first_(first), starts_{0} {
        std::vector<std::pair<size_t, size_t>> parts;  // tokens
        do {
            const auto begin = static_cast<size_t>(queries.offsets[last()]);
            const auto end = static_cast<size_t>(queries.offsets[last() + 1]);
            for (size_t at = begin; at < end; at += kGroupLanes) parts.emplace_back(at, std::min(kGroupLanes, end - at));
            starts_.push_back(parts.size());
        } while (last() < queries.count() && parts.size() < kTables);
        tables_.resize(parts.size());
        parallel(parts.size(), threads, interrupt, [&](size_t i, size_t) {
            const auto& [at, n] = parts[i];
            tables_[i] = std::make_unique<Table>(centroids, queries.tokens + at * centroids.dim(), n);
        });
    }

    size_t first() const { return first_; }
    size_t last() const { return first_ + starts_.size() - 1; }  // the query after these

    float score(size_t query, std::span<const uint16_t> numbers) const {
        double total = 0;
        for (size_t i = starts_[query - first_]; i < starts_[query - first_ + 1]; ++i)
            total += tables_[i]->score(numbers);
        return static_cast<float>(total);
    }

private:
    size_t first_;
    std::vector<size_t> starts_;  // of each query's tables
    std::vector<std::unique_ptr<const Table>> tables_;
};

}  // namespace

Centroids::Centroids(const float* centroids, size_t n, size_t dim)
    : dim_(dim), codec_(make_codec("int8", dim, Metric::ip, {})), codes_(n * codec_->code_bytes()),
      factors_((n + kMaxTile) * codec_->factors()) {
    if (n < 1 || n > 65536 || dim < 1)
        throw InputError("there are " + std::to_string(n) + " centroids", "from 1 to 65536 can be");
    const float any = std::numeric_limits<float>::max();
    InputCheck{"centroids", dim, any, false, ""}.lengths(centroids, n);
    for (size_t c = 0; c < n; ++c) {
        const float* own = centroids + c * dim;
        codec_->encode(own, codes_.data() + c * codec_->code_bytes(), factors_.data() + c * codec_->factors());
        halves_.push_back(std::inner_product(own, own + dim, own, 0.0f) / 2);
    }
    for (size_t c = 0; c < n + kMaxTile; ++c)
        rows_.push_back(codes_.data() + std::min(c, n - 1) * codec_->code_bytes());
}

template <class At>
void Centroids::blocks(const Queries& tokens, size_t vectors, float* scores, bool whole, At at) const {
    const size_t ld = vectors * kernels().lanes;
    for (size_t first = 0; first < size(); first += kBlock) {
        const size_t count = std::min(kBlock, size() - first);
        float* to = scores + (whole ? first * ld : 0);
        tokens.panel(0, vectors, {rows_.data() + first, factors_.data() + first * codec_->factors(), count}, to, ld);
        at(first, count, to);
    }
}

void Centroids::nearest(const float* tokens, size_t n, const double* lengths, size_t threads,
                        const Interrupt& interrupt, uint16_t* numbers) const {
    parallel((n + kTokens - 1) / kTokens, threads, interrupt, [&](size_t task, size_t) {
        thread_local std::vector<float> scores;
        const size_t begin = task * kTokens, count = std::min(kTokens, n - begin);
        const size_t vectors = (count + kernels().lanes - 1) / kernels().lanes, ld = vectors * kernels().lanes;
        scores.resize(round_up(kBlock, kMaxTile) * ld);
        float best[kTokens], length[kTokens];
        int32_t number[kTokens] = {};
        for (size_t i = 0; i < count; ++i) length[i] = lengths ? static_cast<float>(lengths[begin + i]) : 1;
        std::fill_n(best, kTokens, kLeast);
        const auto some = codec_->prepare(tokens + begin * dim_, count, true);
        blocks(*some, vectors, scores.data(), false, [&](size_t first, size_t rows, const float* own) {
            for (size_t r = 0; r < rows; ++r, own += ld) {
                const float half = halves_[first + r];
                const auto name = static_cast<int32_t>(first + r);
                for (size_t i = 0; i < count; ++i) {
                    const float x = own[i] - half * length[i];
                    number[i] = x > best[i] ? name : number[i];
                    best[i] = x > best[i] ? x : best[i];
                }
            }
        });
        for (size_t i = 0; i < count; ++i) numbers[begin + i] = static_cast<uint16_t>(number[i]);
    });
}

size_t Centroids::products(const float* tokens, size_t n, std::vector<float>& scores) const {
    const size_t vectors = (n + kernels().lanes - 1) / kernels().lanes, ld = vectors * kernels().lanes;
    scores.resize((size() + kMaxTile) * ld);
    blocks(*codec_->prepare(tokens, n, true), vectors, scores.data(), true, [](size_t, size_t, const float*) {});
    return ld;
}

void CentroidIndex::add(std::span<const int64_t> ids, const float* tokens, size_t n, std::span<const int64_t> offsets,
                        size_t threads, const Interrupt& interrupt) {
    const std::lock_guard alone(adding_);
    check_offsets(ids, n, offsets);
    {
        const std::shared_lock reading(mutex());
        check_new_ids(ids, this->ids(), dead());
    }
    const float any = std::numeric_limits<float>::max();
    const InputCheck check{"tokens", centroids_.dim(), any, true, "leave it out"};
    const std::vector<double> lengths = check.lengths(tokens, n);
    std::vector<uint16_t> numbers(n);
    centroids_.nearest(tokens, n, lengths.data(), threads, interrupt, numbers.data());
    std::vector<int64_t> kept{0};
    size_t size = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto begin = numbers.begin() + offsets[i], end = numbers.begin() + offsets[i + 1];
        std::sort(begin, end);
        size = std::copy(begin, std::unique(begin, end), numbers.begin() + size) - numbers.begin();
        kept.push_back(static_cast<int64_t>(size));
    }
    const std::unique_lock writing(mutex());
    std::memcpy(numbers_.extend(size), numbers.data(), size * sizeof(uint16_t));
    reserve_documents(ids, kept);
    commit_documents(ids);
    numbers_.commit(size);
}

void CentroidIndex::attach(const CentroidParts& parts, const std::shared_ptr<void>& owner) {
    const size_t n = parts.numbers.size() / sizeof(uint16_t);
    for (const uint16_t number : std::span(reinterpret_cast<const uint16_t*>(parts.numbers.data()), n))
        if (number >= centroids_.size()) throw InputError("section numbers names no centroid", "the file is damaged");
    attach_documents(parts, n, owner);
    numbers_.attach(parts.numbers, owner);
}

void CentroidIndex::compact() {
    if (live() == documents()) return;
    Rows kept(sizeof(uint16_t));
    keep_rows(numbers_, kept);
    keep_documents();
    numbers_ = std::move(kept);
}

void CentroidIndex::search(const TokenQueries& queries, size_t k, std::optional<std::span<const int64_t>> filter,
                           size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores) const {
    queries.check(centroids_.dim());
    std::fill_n(ids, queries.count() * k, int64_t{-1});
    std::fill_n(scores, queries.count() * k, kLeast);
    const std::shared_lock lock(mutex());
    const RowSet documents = select(filter);
    const auto cut = slices(*this, documents, kSlice);
    for (size_t next = 0; next < queries.count() && !cut.empty();) {
        const Tables tables(centroids_, queries, next, threads, interrupt);
        const size_t count = tables.last() - tables.first();
        std::vector<std::vector<TopK>> best(threads);
        parallel(count * cut.size(), threads, interrupt, [&](size_t task, size_t thread) {
            if (best[thread].empty()) best[thread].assign(count, TopK(k));
            const size_t query = task / cut.size();
            TopK& own = best[thread][query];
            const auto& [from, to] = cut[task % cut.size()];
            for (size_t i = from; i < to; ++i) {
                const uint32_t document = documents[i];
                const float score = tables.score(tables.first() + query, of(document));
                if (score >= own.threshold()) own.push({score, document, this->ids()[document]});
            }
        });
        for (size_t query = 0; query < count; ++query) {
            TopK all(k);
            for (const auto& some : best)
                if (!some.empty()) all.merge(some[query]);
            const std::vector<Candidate> found = all.take();
            for (size_t i = 0; i < std::min(k, found.size()); ++i) {
                ids[(tables.first() + query) * k + i] = found[i].id;
                scores[(tables.first() + query) * k + i] = found[i].score;
            }
        }
        next = tables.last();
    }
}

void CentroidIndex::score(const TokenQueries& queries, const CandidateIds& candidates, size_t threads,
                          const Interrupt& interrupt, float* scores) const {
    queries.check(centroids_.dim());
    const std::shared_lock lock(mutex());
    for (size_t next = 0; next < queries.count();) {
        const Tables tables(centroids_, queries, next, threads, interrupt);
        parallel(tables.last() - next, threads, interrupt, [&](size_t task, size_t) {
            const size_t query = tables.first() + task, width = candidates.width;
            std::vector<std::optional<size_t>> found(width);
            const auto ask = [&](size_t i) {
                found[i] = find(candidates.ids[query * width + i]);
                if (found[i]) __builtin_prefetch(of(*found[i]).data());
            };
            for (size_t i = 0; i < std::min(kFetched, width); ++i) ask(i);
            for (size_t i = 0; i < width; ++i) {
                if (i + kFetched < width) ask(i + kFetched);
                scores[query * width + i] = found[i] ? tables.score(query, of(*found[i])) : kLeast;
            }
        });
        next = tables.last();
    }
}

}  // namespace rag
