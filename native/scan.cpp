#include "scan.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <vector>

#include "rank.h"

namespace rag {

namespace {

constexpr size_t kGroup = 512;                     // queries that share one pass over the vectors
constexpr size_t kBlockRows = 120;                 // rows scored at a time by panels: a multiple of every tile_rows
constexpr size_t kLongBlockRows = 1920;            // and by single queries, at most
constexpr size_t kBlockBytes = size_t{128} << 10;  // their size, so that they stay in the second-level cache
constexpr size_t kPanelBytes = size_t{256} << 10;  // packed queries that stay there beside them
constexpr size_t kWorthAThread = size_t{1} << 22;  // multiplications that repay the start of a thread

// Panels sum in another order than single queries do: so many more than k come out of them, to be ranked again.
constexpr size_t kPanelSpare = 8;

// Scores the rows of one tier for a group of queries, one block of rows at a time, and keeps the best.
class Pass {
public:
    Pass(const VectorStore& store, const Tier& tier, const RowSet& rows, const float* queries, size_t n, size_t keep,
         bool panels)
        : store_(store), tier_(tier), rows_(rows), kernels_(kernels()), n_(n), keep_(keep),
          kept_(tier.codec->factors()), panels_(panels), runs_(!panels && rows.all() && tier.codec->runs()), prepared_(tier.codec->prepare(queries, n, panels)) {
        const size_t unit = kernels_.tile_rows, most = panels ? kBlockRows : kLongBlockRows;
        block_rows_ = std::clamp(kBlockBytes / tier.codes.stride() / unit * unit, unit, most / unit * unit);
    }

    std::vector<TopK> run(size_t threads, const Interrupt& interrupt) {
        std::vector<Worker> workers(threads);
        const size_t blocks = (rows_.size() + block_rows_ - 1) / block_rows_;
        parallel(blocks, threads, interrupt, [&](size_t block, size_t thread) {
            Worker& worker = workers[thread];
            if (worker.best.empty()) start(worker);
            score(worker, block * block_rows_);
        });
        std::vector<TopK> best(n_, TopK(keep_));
        for (const Worker& worker : workers)
            for (size_t q = 0; q < worker.best.size(); ++q) best[q].merge(worker.best[q]);
        return best;
    }

private:
    struct Worker {                     // what one thread needs for itself
        std::vector<TopK> best;         // by query
        std::vector<float> thresholds;  // by query, of `best`; the padding of the last register lets nothing through
        std::vector<float> scores;
        std::vector<const std::byte*> rows;
        std::vector<float> factors;
    };

    void start(Worker& worker) const {
        const size_t width = round_up(n_, kernels_.lanes);
        worker.best.assign(n_, TopK(keep_));
        worker.thresholds.assign(width, std::numeric_limits<float>::infinity());
        std::fill_n(worker.thresholds.begin(), n_, -std::numeric_limits<float>::infinity());
        worker.scores.resize(round_up(block_rows_, 64) * (panels_ ? width : 1));
        worker.rows.resize(block_rows_ + kMaxTile);
        worker.factors.resize(worker.rows.size() * kept_);
    }

    void score(Worker& worker, size_t first) const {
        const Block block = load(worker, first);
        if (panels_) {
            score_panels(worker, block, first);
            return;
        }
        for (size_t q = 0; q < n_; ++q) {
            prepared_->rows(q, block, worker.scores.data());
            for (size_t r = 0; r < block.n; r += 64) {
                const float* scores = worker.scores.data() + r;
                uint64_t bits = kernels_.above_one(scores, worker.thresholds[q], std::min<size_t>(64, block.n - r));
                for (; bits; bits &= bits - 1) {
                    const int i = std::countr_zero(bits);
                    enter(worker, q, scores[i], rows_[first + r + i]);
                }
            }
        }
    }

    void score_panels(Worker& worker, const Block& block, size_t first) const {
        const size_t lanes = kernels_.lanes, vectors = round_up(n_, lanes) / lanes, ld = vectors * lanes;
        const size_t fit = kPanelBytes / (tier_.codes.stride() * lanes) / kernels_.panel_vectors;
        const size_t step = std::max<size_t>(fit, 1) * kernels_.panel_vectors;
        for (size_t v = 0; v < vectors; v += step)
            prepared_->panel(v, std::min(step, vectors - v), block, worker.scores.data() + v * lanes, ld);
        for (size_t r = 0; r < block.n; ++r)
            for (size_t q = 0; q < ld; q += 64) {
                const float* scores = worker.scores.data() + r * ld + q;
                uint64_t bits = kernels_.above(scores, worker.thresholds.data() + q, std::min<size_t>(64, ld - q));
                for (; bits; bits &= bits - 1) {
                    const int i = std::countr_zero(bits);
                    enter(worker, q + i, scores[i], rows_[first + r]);
                }
            }
    }

    void enter(Worker& worker, size_t q, float score, uint32_t row) const {
        worker.best[q].push({score, row, store_.ids()[row]});
        worker.thresholds[q] = worker.best[q].threshold();
    }

    // The block of rows from number `first` of the row set on, and the rows that follow it.
    Block load(Worker& worker, size_t first) const {
        const size_t n = std::min(block_rows_, rows_.size() - first);
        if (runs_ && tier_.codes.adjacent(first, n)) return {nullptr, nullptr, n, tier_.codes[first]};
        const size_t there = std::min(n + kMaxTile, rows_.size() - first), wanted = n + kMaxTile;
        if (rows_.all() && tier_.codes.adjacent(first, there)) {
            const std::byte* code = tier_.codes[first];
            for (size_t i = 0; i < there; ++i, code += tier_.codes.stride()) worker.rows[i] = code;
            if (kept_) std::copy_n(tier_.factors_of(first), there * kept_, worker.factors.data());
        } else {
            for (size_t i = 0; i < there; ++i) {
                worker.rows[i] = tier_.codes[rows_[first + i]];
                if (kept_) std::copy_n(tier_.factors_of(rows_[first + i]), kept_, worker.factors.data() + i * kept_);
            }
        }
        std::fill(worker.rows.begin() + there, worker.rows.begin() + wanted, worker.rows[there - 1]);
        return {worker.rows.data(), worker.factors.data(), n};
    }

    const VectorStore& store_;
    const Tier& tier_;
    const RowSet& rows_;
    const Kernels& kernels_;
    size_t n_, keep_;
    size_t kept_;  // factors beside each code
    bool panels_, runs_;
    size_t block_rows_;
    std::unique_ptr<Queries> prepared_;
};

void scan_group(const VectorStore& store, const RowSet& rows, const float* queries, size_t n, size_t k, size_t rerank,
                size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores) {
    const Tier& finest = store.finest();
    const size_t candidates = rerank ? std::max(rerank, k) : store.primary().codec->candidates(k);
    // Few rows are cheaper to score exactly at once.
    const bool approximate = store.secondary() && rows.size() > 2 * candidates;
    const Tier& tier = approximate ? store.primary() : finest;
    const bool panels = tier.codec->panels() && n >= std::max<size_t>(kernels().lanes / 2, 2);
    const size_t keep = std::min(rows.size(), approximate ? candidates : panels ? k + kPanelSpare : k);
    if (keep == 0) return;

    std::vector<TopK> best = Pass(store, tier, rows, queries, n, keep, panels).run(threads, interrupt);
    const bool again = approximate || panels;
    const std::unique_ptr<Queries> exact = again ? finest.codec->prepare(queries, n, false) : nullptr;
    parallel(n, again ? threads : 1, interrupt, [&](size_t q, size_t) {
        std::vector<Candidate> found = again ? best[q].take_any() : best[q].take();
        if (again) rescore(finest, *exact, q, found);
        for (size_t i = 0; i < std::min(k, found.size()); ++i) {
            ids[q * k + i] = found[i].id;
            scores[q * k + i] = found[i].score;
        }
    });
}

}  // namespace

void scan_rows(const VectorStore& store, const RowSet& rows, const float* queries, size_t n, size_t k, size_t rerank,
               size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores) {
    for (size_t first = 0; first < n; first += kGroup) {
        const size_t count = std::min(kGroup, n - first);
        const size_t useful = std::max<size_t>(rows.size() * count * store.dim() / kWorthAThread, 1);
        scan_group(store, rows, queries + first * store.dim(), count, k, rerank, std::min(threads, useful), interrupt,
                   ids + first * k, scores + first * k);
    }
}

void scan(const VectorStore& store, const float* queries, size_t n, size_t k, const Filter* filter, size_t rerank,
          size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores) {
    const std::vector<float> ready = store.checked_queries(queries, n);
    std::fill_n(ids, n * k, int64_t{-1});
    std::fill_n(scores, n * k, -std::numeric_limits<float>::infinity());

    const std::shared_lock lock(store.mutex());
    const std::shared_ptr<const Selection> selected = filter ? filter->in(store) : store.select();
    scan_rows(store, selected->rows, ready.data(), n, k, rerank, threads, interrupt, ids, scores);
}

}  // namespace rag
