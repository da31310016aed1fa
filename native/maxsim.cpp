#include "maxsim.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "errors.h"
#include "topk.h"

namespace rag {

namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();
constexpr size_t kGroupTokens = 96;  // tokens of queries that are scored together
constexpr size_t kGroups = 64;       // of queries whose work is handed out at once
constexpr size_t kBlockRows = 120;   // tokens scored at a time, at most: a multiple of every tile_rows
constexpr size_t kBlockBytes = size_t{32} << 10;  // and their size, at most: their scores stay in the caches
constexpr size_t kSliceRows = 4096;               // tokens of documents that a thread takes at a time
constexpr size_t kPatience = size_t{1} << 28;     // multiplications between two looks at interrupts, within a document

// Tokens of neighbouring queries made ready together.
struct Group {
    Group(const TokenStore& store, const TokenQueries& queries, size_t first_, size_t last_)
        : first(first_), last(last_), begin(static_cast<size_t>(queries.offsets[first])),
          tokens(static_cast<size_t>(queries.offsets[last]) - begin),
          vectors((tokens + kernels().lanes - 1) / kernels().lanes),
          prepared(store.tier().codec->prepare(queries.tokens + begin * store.dim(), tokens, true)) {}

    size_t first, last;  // queries
    size_t begin, tokens, vectors;
    std::unique_ptr<Queries> prepared;
};

// Scores the tokens of documents in blocks, one document after the other.
class Stream {
public:
    explicit Stream(const TokenStore& store) : store_(store), tier_(store.tier()), kept_(tier_.codec->factors()) {
        const size_t unit = kernels().tile_rows;
        block_rows_ = std::clamp(kBlockBytes / tier_.codes.stride() / unit, size_t{1}, kBlockRows / unit) * unit;
        rows_.resize(block_rows_ + kMaxTile);
        factors_.resize(rows_.size() * kept_);
    }

    // Calls at(document, position of its token, scores [n, ld], n, ld, whether these are the last ones) for documents
    // number `from` to `to` of a set, block by block; interrupt() now and then.
    template <class At>
    void run(const Group& group, const RowSet& documents, size_t from, size_t to, const Interrupt* interrupt, At at) {
        const size_t work = block_rows_ * group.tokens * store_.dim();
        size_t since = 0;
        for (size_t i = from; i < to; ++i) {
            const size_t document = documents[i], end = store_.end(document);
            size_t row = store_.first(document);
            runs_.push_back({document, end - row, 0});
            while (row < end) {
                row += load(row, end - row);
                if (filled_ < rows_.size()) break;
                score(group, block_rows_, at);
                if ((since += work) < kPatience || !interrupt) continue;
                (*interrupt)();
                since = 0;
            }
        }
        while (filled_) score(group, std::min(filled_, block_rows_), at);
    }

private:
    struct Run {  // the tokens of a document, some of which are scored
        size_t document, length, done;
    };

    // The next tokens of a document, as many of n as there is room for.
    size_t load(size_t row, size_t n) {
        n = std::min(n, rows_.size() - filled_);
        for (size_t i = 0; i < n; ++i) rows_[filled_ + i] = tier_.codes[row + i];
        for (size_t i = 0; i < n && kept_; ++i)
            std::copy_n(tier_.factors_of(row + i), kept_, factors_.data() + (filled_ + i) * kept_);
        filled_ += n;
        return n;
    }

    // The first n of what was loaded. What follows them stays, and is what kernels may ask the memory for.
    template <class At>
    void score(const Group& group, size_t n, At at) {
        std::fill(rows_.begin() + filled_, rows_.end(), rows_[filled_ - 1]);
        std::fill(factors_.begin() + filled_ * kept_, factors_.end(), 0.0f);
        const size_t ld = group.vectors * kernels().lanes;
        scores_.resize(block_rows_ * ld);
        group.prepared->panel(0, group.vectors, {rows_.data(), factors_.data(), n}, scores_.data(), ld);

        const float* scores = scores_.data();
        auto run = runs_.begin();
        for (size_t left = n; left;) {
            const size_t taken = std::min(left, run->length - run->done), position = run->done;
            run->done += taken;
            at(run->document, position, scores, taken, ld, run->done == run->length);
            scores += taken * ld;
            left -= taken;
            if (run->done == run->length) ++run;
        }
        runs_.erase(runs_.begin(), run);
        std::copy(rows_.begin() + n, rows_.begin() + filled_, rows_.begin());
        std::copy(factors_.begin() + n * kept_, factors_.begin() + filled_ * kept_, factors_.begin());
        filled_ -= n;
    }

    const TokenStore& store_;
    const Tier& tier_;
    size_t kept_, block_rows_, filled_ = 0;
    std::vector<const std::byte*> rows_;
    std::vector<float> factors_, scores_;
    std::vector<Run> runs_;
};

// What a thread does at a time: documents of a set for a group.
struct Job {
    size_t group;
    const RowSet* documents;
    size_t from, to;
};

class Search {
public:
    Search(const TokenStore& store, const TokenQueries& queries, size_t k, size_t threads, const Interrupt& interrupt)
        : store_(store), queries_(queries), k_(k), threads_(threads), interrupt_(interrupt) {}

    // Documents of `sets`: one for all queries, or one for each.
    void run(const std::vector<RowSet>& sets, int64_t* ids, float* scores) const {
        const bool shared = sets.size() == 1 && queries_.count() > 1;
        size_t next = 0;
        while (next < queries_.count()) {
            const size_t start = next;
            std::vector<Group> groups;
            std::vector<Job> jobs;
            std::vector<std::pair<size_t, size_t>> cut;
            if (shared) cut = slices(store_, sets[0], kSliceRows);
            while (next < queries_.count() && groups.size() < kGroups) {
                const size_t last = shared ? together(next) : next + 1;
                const RowSet& documents = sets[shared ? 0 : next];
                if (!shared) cut = slices(store_, documents, kSliceRows);
                for (const auto& [from, to] : cut) jobs.push_back({groups.size(), &documents, from, to});
                groups.emplace_back(store_, queries_, next, last);
                next = last;
            }
            std::vector<TopK> best = score(groups, jobs, start, next);
            for (size_t q = start; q < next; ++q) {
                const std::vector<Candidate> found = best[q - start].take();
                for (size_t i = 0; i < std::min(k_, found.size()); ++i) {
                    ids[q * k_ + i] = found[i].id;
                    scores[q * k_ + i] = found[i].score;
                }
            }
        }
    }

private:
    // The end of the queries from `first` on that are scored together.
    size_t together(size_t first) const {
        size_t last = first + 1;
        while (last < queries_.count() &&
               static_cast<size_t>(queries_.offsets[last + 1] - queries_.offsets[first]) <= kGroupTokens)
            ++last;
        return last;
    }

    // The best of queries `start` to `end`.
    std::vector<TopK> score(const std::vector<Group>& groups, const std::vector<Job>& jobs, size_t start,
                            size_t end) const {
        struct Worker {
            std::unique_ptr<Stream> stream;
            std::vector<TopK> best;  // by query
            std::vector<float> maxima;
        };
        std::vector<Worker> workers(threads_);
        parallel(jobs.size(), threads_, interrupt_, [&](size_t number, size_t thread) {
            Worker& worker = workers[thread];
            if (!worker.stream) {
                worker.stream = std::make_unique<Stream>(store_);
                worker.best.assign(end - start, TopK(k_));
            }
            const Job& job = jobs[number];
            const Group& group = groups[job.group];
            worker.maxima.assign(group.vectors * kernels().lanes, kLeast);
            const auto at = [&](size_t document, size_t, const float* scores, size_t n, size_t ld, bool last) {
                kernels().maxima(scores, n, ld, ld, worker.maxima.data());
                if (!last) return;
                enter(group, document, worker.maxima.data(), worker.best.data() - start);
                std::ranges::fill(worker.maxima, kLeast);
            };
            worker.stream->run(group, *job.documents, job.from, job.to, thread ? nullptr : &interrupt_, at);
        });
        std::vector<TopK> best(end - start, TopK(k_));
        for (const Worker& worker : workers)
            for (size_t q = 0; q < worker.best.size(); ++q) best[q].merge(worker.best[q]);
        return best;
    }

    void enter(const Group& group, size_t document, const float* maxima, TopK* best) const {
        for (size_t q = group.first; q < group.last; ++q) {
            double sum = 0;
            const auto begin = static_cast<size_t>(queries_.offsets[q]) - group.begin;
            const auto end = static_cast<size_t>(queries_.offsets[q + 1]) - group.begin;
            for (size_t i = begin; i < end; ++i) sum += maxima[i];
            // NaN, which only a forged file leads to, has no place in an order; it comes last.
            const float score = std::isnan(sum) ? kLeast : static_cast<float>(sum);
            if (score >= best[q].threshold())
                best[q].push({score, static_cast<uint32_t>(document), store_.ids()[document]});
        }
    }

    const TokenStore& store_;
    const TokenQueries& queries_;
    size_t k_, threads_;
    const Interrupt& interrupt_;
};

}  // namespace

void maxsim(const TokenStore& store, const TokenQueries& queries, size_t k, const CandidateIds* candidates,
            std::optional<std::span<const int64_t>> filter, size_t threads, const Interrupt& interrupt, int64_t* ids,
            float* scores) {
    queries.check(store.dim());
    std::fill_n(ids, queries.count() * k, int64_t{-1});
    std::fill_n(scores, queries.count() * k, kLeast);

    const std::shared_lock lock(store.mutex());
    std::vector<RowSet> sets;
    if (!candidates) {
        sets.push_back(store.select(filter));
    } else {
        for (size_t q = 0; q < queries.count(); ++q) {
            std::vector<uint32_t> list;
            for (const int64_t id : std::span(candidates->ids + q * candidates->width, candidates->width)) {
                if (id < 0 || (filter && !std::ranges::binary_search(*filter, id))) continue;
                if (const auto document = store.find(id)) list.push_back(static_cast<uint32_t>(*document));
            }
            std::ranges::sort(list);
            list.erase(std::unique(list.begin(), list.end()), list.end());
            sets.emplace_back(std::move(list));
        }
    }
    Search(store, queries, k, threads, interrupt).run(sets, ids, scores);
}

void best_tokens(const TokenStore& store, int64_t id, const float* tokens, size_t n, int64_t* best, float* scores) {
    const int64_t offsets[2] = {0, static_cast<int64_t>(n)};
    const TokenQueries query{tokens, n, offsets};
    query.check(store.dim());
    std::fill_n(best, n, int64_t{0});
    std::fill_n(scores, n, kLeast);

    const std::shared_lock lock(store.mutex());
    const auto document = store.find(id);
    if (!document) throw NotFoundError("id " + std::to_string(id) + " is not in the store");
    const RowSet one(std::vector<uint32_t>{static_cast<uint32_t>(*document)});
    const auto at = [&](size_t, size_t position, const float* found, size_t rows, size_t ld, bool) {
        for (size_t r = 0; r < rows; ++r, found += ld)
            for (size_t q = 0; q < n; ++q)
                if (found[q] > scores[q]) {
                    scores[q] = found[q];
                    best[q] = static_cast<int64_t>(position + r);
                }
    };
    Stream(store).run(Group(store, query, 0, 1), one, 0, 1, nullptr, at);
}

}  // namespace rag
