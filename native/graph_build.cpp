// How rows get their links. A batch of rows is searched for in the graph as it is, all links of the batch are worked out,
// and then they are stored together: threads need no locks, and the result does not depend on them.
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <utility>

#include "graph.h"
#include "walk.h"

namespace rag {

namespace {

constexpr size_t kFirstBatch = 64;  // the first rows are compared with one another, all of them
constexpr size_t kLargestBatch = 2048;
constexpr size_t kBatchShare = 16;  // a batch is at most one row for so many that are linked
constexpr size_t kChunk = 16;       // rows that a thread takes at a time

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

    void grow(size_t hold_back) {
        const size_t known = graph_.rows_ - graph_.waiting_.size(), total = store_.rows();
        std::vector<uint32_t> order = std::exchange(graph_.waiting_, {});
        for (size_t row = graph_.rows_; row < total; ++row) order.push_back(static_cast<uint32_t>(row));
        // Rows that come sorted, by topic say, would find none of their neighbours there yet, or nothing else.
        std::shuffle(order.begin(), order.end(), std::mt19937_64(graph_.form_.seed + known));
        hold_back = std::min(hold_back, order.size());
        graph_.waiting_.assign(order.end() - hold_back, order.end());
        order.resize(order.size() - hold_back);
        // While there is much to do a row takes more links than it may keep: it chooses among them more seldom.
        const bool bulk = order.size() > known;
        extend(total, bulk ? degree_ + degree_ / 2 : degree_);
        linked_ = known;
        try {
            for (size_t pass = 0; pass < (bulk ? graph_.form_.passes : 1); ++pass)
                for (size_t first = 0; first < order.size();) {
                    const size_t most = linked_ ? std::clamp(linked_ / kBatchShare, size_t{1}, kLargestBatch) : kFirstBatch;
                    const size_t n = std::min(most, order.size() - first);
                    batch(std::span(order).subspan(first, n), pass == 0);
                    first += n;
                }
            if (bulk) settle();
        } catch (...) {
            extend(total, degree_);
            throw;
        }
    }

    void consolidate() {
        std::shared_lock lock(store_.mutex());
        const Bitmap& dead = store_.dead();
        std::vector<uint32_t> touched;
        const size_t room = graph_.room_;
        for (uint32_t row = 0; row < graph_.rows_; ++row) {
            const auto own = linked(row);
            if (!dead[row] && std::any_of(own.begin(), own.end(), [&](uint32_t to) { return dead[to]; }))
                touched.push_back(row);
        }
        std::vector<uint32_t> links(touched.size() * room, kNoRow);
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
            prune(worker, touched[i], degree_, links.data() + i * room);
        });
        lock.unlock();
        commit(touched, links);
    }

private:
    struct Worker {  // what one thread needs for itself
        explicit Worker(const Graph& graph) : spread(graph.store()) {}
        Spread spread;
        Walk walk;
        std::vector<uint32_t> candidates, open;
        std::vector<float> distances, between, needless;
    };

    std::span<const uint32_t> linked(size_t row) const {
        const uint32_t* links = graph_.links(row);
        return {links, static_cast<size_t>(std::find(links, links + graph_.room_, kNoRow) - links)};
    }

    template <class Work>
    void each(size_t n, Work work) {
        parallel((n + kChunk - 1) / kChunk, threads_, interrupt_, [&](size_t chunk, size_t thread) {
            std::unique_ptr<Worker>& worker = workers_[thread];
            if (!worker) worker = std::make_unique<Worker>(graph_);
            for (size_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) work(*worker, i);
        });
    }

    void batch(std::span<const uint32_t> rows, bool first_time) {
        std::shared_lock lock(store_.mutex());
        measure(rows);
        const size_t room = graph_.room_;
        std::vector<uint32_t> links(rows.size() * room, kNoRow);
        each(rows.size(), [&](Worker& worker, size_t i) {
            worker.candidates.clear();
            if (linked_ == 0)
                worker.candidates.assign(rows.begin(), rows.end());
            else
                near(worker, rows[i]);
            std::erase(worker.candidates, rows[i]);
            prune(worker, rows[i], degree_, links.data() + i * room);
        });
        lock.unlock();
        commit(rows, links);

        // The way back: every row learns who links to it, and chooses anew when there is no room.
        std::vector<std::pair<uint32_t, uint32_t>> back;
        for (size_t i = 0; i < rows.size(); ++i)
            for (size_t j = 0; j < room && links[i * room + j] != kNoRow; ++j)
                back.emplace_back(links[i * room + j], rows[i]);
        std::sort(back.begin(), back.end());
        std::vector<size_t> starts;
        for (size_t i = 0; i < back.size(); ++i)
            if (i == 0 || back[i].first != back[i - 1].first) starts.push_back(i);
        std::vector<uint32_t> targets(starts.size());
        links.assign(starts.size() * room, kNoRow);
        lock.lock();
        each(starts.size(), [&](Worker& worker, size_t i) {
            const uint32_t target = targets[i] = back[starts[i]].first;
            const size_t end = i + 1 < starts.size() ? starts[i + 1] : back.size();
            const std::span<const uint32_t> before = linked(target);
            auto& candidates = worker.candidates;
            candidates.assign(before.begin(), before.end());
            for (size_t j = starts[i]; j < end; ++j)
                if (std::find(before.begin(), before.end(), back[j].second) == before.end())
                    candidates.push_back(back[j].second);
            if (candidates.size() <= room)
                std::copy(candidates.begin(), candidates.end(), links.data() + i * room);
            else
                prune(worker, target, room > degree_ ? degree_ : degree_ - degree_ / 8, links.data() + i * room);
        });
        lock.unlock();
        commit(targets, links);
        if (!first_time) return;
        const std::unique_lock writing(store_.mutex());
        for (const uint32_t row : rows) graph_.enter(row);
        linked_ += rows.size();
    }

    // Every row keeps as many links as it may.
    void settle() {
        std::vector<uint32_t> rows;
        for (uint32_t row = 0; row < graph_.rows_; ++row)
            if (linked(row).size() > degree_) rows.push_back(row);
        const size_t room = graph_.room_;
        for (size_t first = 0; first < rows.size(); first += kLargestBatch) {
            const auto some = std::span(rows).subspan(first, std::min(kLargestBatch, rows.size() - first));
            std::vector<uint32_t> links(some.size() * room, kNoRow);
            std::shared_lock lock(store_.mutex());
            each(some.size(), [&](Worker& worker, size_t i) {
                const auto own = linked(some[i]);
                worker.candidates.assign(own.begin(), own.end());
                prune(worker, some[i], degree_, links.data() + i * room);
            });
            lock.unlock();
            commit(some, links);
        }
        extend(graph_.rows_, degree_);
    }

    // Rows near one, as a search finds them.
    void near(Worker& worker, uint32_t row) {
        worker.spread.load(0, row, graph_.longest_);
        const auto queries = store_.primary().codec->prepare(worker.spread[0], 1, false);
        const size_t window = graph_.form_.window;
        worker.walk.start(graph_, *queries, 0, graph_.entries_, {window, window}, nullptr);
        while (worker.walk.step()) {}
        const Pool& found = worker.walk.found();
        for (size_t i = 0; i < found.size(); ++i) worker.candidates.push_back(found.row(i));
        for (const uint32_t to : linked(row))
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
    void measure(std::span<const uint32_t> rows) {
        if (store_.metric() != Metric::ip) return;
        std::vector<float> vector(store_.dim());
        const Tier& tier = store_.finest();
        for (const uint32_t row : rows) {
            tier.codec->decode(tier.codes[row], tier.factors_of(row), vector.data());
            graph_.longest_ = std::max(graph_.longest_, std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0));
        }
    }

    void extend(size_t rows, size_t room) {
        const std::unique_lock writing(store_.mutex());
        graph_.extend(rows, room);
    }
    void commit(std::span<const uint32_t> rows, const std::vector<uint32_t>& links) {
        const std::unique_lock writing(store_.mutex());
        const size_t room = graph_.room_;
        for (size_t i = 0; i < rows.size(); ++i)
            std::copy_n(links.data() + i * room, room, graph_.own_links() + rows[i] * room);
    }

    Graph& graph_;
    const VectorStore& store_;
    size_t degree_, threads_, linked_ = 0;
    const Interrupt& interrupt_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

void Graph::grow(size_t hold_back, size_t threads, const Interrupt& interrupt) {
    GraphBuilder(*this, threads, interrupt).grow(hold_back);
}
void Graph::consolidate(size_t threads, const Interrupt& interrupt) {
    GraphBuilder(*this, threads, interrupt).consolidate();
}

}  // namespace rag
