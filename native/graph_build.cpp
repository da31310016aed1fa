// How rows get their links. A batch of rows is searched for in the graph as it is, all links of the batch are worked out,
// and then they are stored together: threads need no locks, and the result does not depend on them.
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>

#include "graph.h"
#include "walk.h"

namespace rag {

namespace {

constexpr size_t kFirstBatch = 64;     // the first rows are compared with one another, all of them
constexpr size_t kLargestBatch = 2048;
constexpr size_t kBatchShare = 16;     // a batch is at most one row for so many that are linked
constexpr size_t kChunk = 16;          // rows that a thread takes at a time
constexpr float kSlack = 0.125f;       // share of its links that a full row gives up, so that it is not full again at once

// Vectors spread out for comparing them with one another by Euclidean distance. Under inner product a component is
// added in thought that makes all vectors equally long, as far as the longest: then the nearest are those with the
// largest inner product (Bachrach et al. 2014).
class Spread {
public:
    explicit Spread(const VectorStore& store) : store_(store), width_(round_up(store.dim(), 16)) {}

    void load(size_t slot, uint32_t row, double longest) {
        if (slot >= added_.size()) {
            const size_t room = 2 * slot + 64;
            values_.resize(room * width_);
            added_.resize(room);
            pointers_.resize(room + kMaxTile);
        }
        float* to = values_.data() + slot * width_;
        const Tier& tier = store_.finest();
        tier.codec->decode(tier.codes[row], tier.factors_of(row), to);
        if (store_.metric() != Metric::ip) return;
        const double squares = std::inner_product(to, to + store_.dim(), to, 0.0);
        added_[slot] = static_cast<float>(std::sqrt(std::max(longest - squares, 0.0)));
    }
    const float* operator[](size_t slot) const { return values_.data() + slot * width_; }

    // Squared distances of one to others.
    void distances(size_t from, std::span<const uint32_t> to, float* out) {
        for (size_t i = 0; i < to.size(); ++i) pointers_[i] = reinterpret_cast<const std::byte*>((*this)[to[i]]);
        std::fill_n(pointers_.begin() + to.size(), kMaxTile, reinterpret_cast<const std::byte*>((*this)[from]));
        kernels().l2_f32(pointers_.data(), to.size(), (*this)[from], width_, out);
        for (size_t i = 0; i < to.size(); ++i) {
            const float apart = added_[from] - added_[to[i]];
            out[i] = apart * apart - out[i];
        }
    }

private:
    const VectorStore& store_;
    size_t width_;
    std::vector<float> values_, added_;
    std::vector<const std::byte*> pointers_;
};

}  // namespace

class GraphBuilder {
public:
    GraphBuilder(Graph& graph, size_t threads, const Interrupt& interrupt)
        : graph_(graph), store_(graph.store_), degree_(graph.form_.degree), threads_(threads), interrupt_(interrupt),
          workers_(threads) {}

    void grow() {
        while (graph_.rows_ < store_.rows()) {
            const size_t first = graph_.rows_, left = store_.rows() - first;
            const size_t most = first ? std::clamp(first / kBatchShare, size_t{1}, kLargestBatch) : kFirstBatch;
            std::vector<uint32_t> rows(std::min(left, most));
            std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(first));
            batch(rows);
        }
    }

    void refine() {
        for (size_t first = 0; first < graph_.rows_; first += kLargestBatch) {
            std::vector<uint32_t> rows(std::min(kLargestBatch, graph_.rows_ - first));
            std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(first));
            batch(rows);
        }
    }

    void consolidate() {
        std::shared_lock lock(store_.mutex());
        const Bitmap& dead = store_.dead();
        std::vector<uint32_t> touched;
        for (uint32_t row = 0; row < graph_.rows_; ++row) {
            const auto own = linked(row);
            if (!dead[row] && std::any_of(own.begin(), own.end(), [&](uint32_t to) { return dead[to]; }))
                touched.push_back(row);
        }
        std::vector<uint32_t> links(touched.size() * degree_, kNoRow);
        each(touched.size(), [&](Worker& worker, size_t i) {
            worker.candidates.clear();
            for (const uint32_t to : linked(touched[i])) {
                if (!dead[to]) {
                    worker.candidates.push_back(to);
                    continue;
                }
                for (const uint32_t beyond : linked(to))
                    if (!dead[beyond] && beyond != touched[i]) worker.candidates.push_back(beyond);
            }
            prune(worker, touched[i], degree_, links.data() + i * degree_);
        });
        store_changed(lock, touched, links, graph_.rows_);
    }

private:
    struct Worker {  // what one thread needs for itself
        explicit Worker(const Graph& graph) : spread(graph.store()), walk(graph, graph.store().primary()) {}
        Spread spread;
        Walk walk;
        std::vector<uint32_t> candidates, open;
        std::vector<float> distances, between, needless;
    };

    std::span<const uint32_t> linked(size_t row) const {
        const uint32_t* links = graph_.links(row);
        return {links, static_cast<size_t>(std::find(links, links + degree_, kNoRow) - links)};
    }

    template <class Work>
    void each(size_t n, Work work) {
        parallel((n + kChunk - 1) / kChunk, threads_, interrupt_, [&](size_t chunk, size_t thread) {
            std::unique_ptr<Worker>& worker = workers_[thread];
            if (!worker) worker = std::make_unique<Worker>(graph_);
            for (size_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) work(*worker, i);
        });
    }

    void batch(const std::vector<uint32_t>& rows) {
        std::shared_lock lock(store_.mutex());
        measure(rows);
        std::vector<uint32_t> links(rows.size() * degree_, kNoRow);
        each(rows.size(), [&](Worker& worker, size_t i) {
            worker.candidates.clear();
            if (graph_.rows_ == 0)
                worker.candidates = rows;
            else
                near(worker, rows[i]);
            std::erase(worker.candidates, rows[i]);
            prune(worker, rows[i], degree_, links.data() + i * degree_);
        });

        // The way back: every row learns who links to it, and chooses anew when there is no room.
        std::vector<std::pair<uint32_t, uint32_t>> back;
        for (size_t i = 0; i < rows.size(); ++i)
            for (size_t j = 0; j < degree_ && links[i * degree_ + j] != kNoRow; ++j)
                back.emplace_back(links[i * degree_ + j], rows[i]);
        std::sort(back.begin(), back.end());
        std::vector<size_t> starts;
        for (size_t i = 0; i < back.size(); ++i)
            if (i == 0 || back[i].first != back[i - 1].first) starts.push_back(i);
        std::vector<uint32_t> targets(starts.size()), target_links(starts.size() * degree_, kNoRow);
        const size_t known = graph_.rows_, from = rows.front();
        each(starts.size(), [&](Worker& worker, size_t i) {
            const uint32_t target = targets[i] = back[starts[i]].first;
            const size_t end = i + 1 < starts.size() ? starts[i + 1] : back.size();
            const bool own_new = target >= from && target < from + rows.size();
            std::span<const uint32_t> before;
            if (own_new) {
                const uint32_t* own = links.data() + (target - from) * degree_;
                before = {own, static_cast<size_t>(std::find(own, own + degree_, kNoRow) - own)};
            } else if (target < known) {
                before = linked(target);
            }
            worker.candidates.assign(before.begin(), before.end());
            for (size_t j = starts[i]; j < end; ++j) worker.candidates.push_back(back[j].second);
            std::sort(worker.candidates.begin(), worker.candidates.end());
            worker.candidates.erase(std::unique(worker.candidates.begin(), worker.candidates.end()), worker.candidates.end());
            uint32_t* to = target_links.data() + i * degree_;
            if (worker.candidates.size() <= degree_)
                std::copy(worker.candidates.begin(), worker.candidates.end(), to);
            else
                prune(worker, target, degree_ - static_cast<size_t>(kSlack * static_cast<float>(degree_)), to);
        });
        std::vector<uint32_t> changed = rows;
        changed.insert(changed.end(), targets.begin(), targets.end());
        links.insert(links.end(), target_links.begin(), target_links.end());
        store_changed(lock, changed, links, std::max<size_t>(known, rows.back() + 1));
    }

    // Rows near one, as a search finds them.
    void near(Worker& worker, uint32_t row) {
        worker.spread.load(0, row, graph_.longest_);
        const auto queries = store_.primary().codec->prepare(worker.spread[0], 1, false);
        const size_t window = graph_.form_.window;
        worker.walk.start(*queries, 0, graph_.entries_, {window, window}, nullptr);
        while (worker.walk.step()) {}
        const Pool& found = worker.walk.found();
        for (size_t i = 0; i < found.size(); ++i) worker.candidates.push_back(found.row(i));
        const auto own = row < graph_.rows_ ? linked(row) : std::span<const uint32_t>();
        for (const uint32_t to : own)
            if (std::find(worker.candidates.begin(), worker.candidates.end(), to) == worker.candidates.end())
                worker.candidates.push_back(to);
    }

    // Of the candidates, nearest first, those that no chosen one makes needless: none that is nearer to them than `row`
    // is. Places that are left go to those that come nearest to that, by up to `alpha`.
    void prune(Worker& worker, uint32_t row, size_t most, uint32_t* links) {
        auto& [spread, walk, candidates, open, distances, between, needless] = worker;
        const size_t n = candidates.size();
        spread.load(0, row, graph_.longest_);
        open.resize(n);
        for (size_t i = 0; i < n; ++i) {
            spread.load(i + 1, candidates[i], graph_.longest_);
            open[i] = static_cast<uint32_t>(i + 1);
        }
        distances.resize(n + 1);
        between.resize(n + 1);
        needless.assign(n + 1, 0);
        spread.distances(0, open, between.data());
        for (size_t i = 0; i < n; ++i) distances[i + 1] = between[i];
        std::sort(open.begin(), open.end(), [&](uint32_t a, uint32_t b) {
            return distances[a] != distances[b] ? distances[a] < distances[b] : candidates[a - 1] < candidates[b - 1];
        });
        const float widest = graph_.form_.alpha * graph_.form_.alpha;
        size_t kept = 0;
        for (float factor = 1; kept < most && factor <= widest; factor = factor < widest ? std::min(factor * 1.1f, widest) : 2 * widest) {
            for (size_t i = 0; i < open.size() && kept < most;) {
                const uint32_t one = open[i];
                if (needless[one] >= factor) {
                    ++i;
                    continue;
                }
                links[kept++] = candidates[one - 1];
                open.erase(open.begin() + i);
                spread.distances(one, open, between.data());
                for (size_t j = 0; j < open.size(); ++j)
                    needless[open[j]] = std::max(needless[open[j]], distances[open[j]] / between[j]);
            }
        }
    }

    // The longest vector so far, squared.
    void measure(const std::vector<uint32_t>& rows) {
        if (store_.metric() != Metric::ip) return;
        std::vector<float> vector(store_.dim());
        const Tier& tier = store_.finest();
        for (const uint32_t row : rows) {
            tier.codec->decode(tier.codes[row], tier.factors_of(row), vector.data());
            graph_.longest_ = std::max(graph_.longest_, std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0));
        }
    }

    void store_changed(std::shared_lock<std::shared_mutex>& reading, const std::vector<uint32_t>& rows,
                       const std::vector<uint32_t>& links, size_t size) {
        reading.unlock();
        const std::unique_lock writing(store_.mutex());
        uint32_t* all = graph_.own_links(size);
        for (size_t i = 0; i < rows.size(); ++i)
            std::copy_n(links.data() + i * degree_, degree_, all + rows[i] * degree_);
        if (size == graph_.rows_) return;
        graph_.rows_ = size;
        graph_.choose_entries();
    }

    Graph& graph_;
    const VectorStore& store_;
    size_t degree_, threads_;
    const Interrupt& interrupt_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

void Graph::grow(size_t threads, const Interrupt& interrupt) { GraphBuilder(*this, threads, interrupt).grow(); }
void Graph::refine(size_t threads, const Interrupt& interrupt) { GraphBuilder(*this, threads, interrupt).refine(); }
void Graph::consolidate(size_t threads, const Interrupt& interrupt) {
    GraphBuilder(*this, threads, interrupt).consolidate();
}

}  // namespace rag
