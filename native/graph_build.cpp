// How rows get their links. A batch of rows is searched for in the graph as it is, all links of the batch are worked out,
// and then they are stored together: threads need no locks, and the result does not depend on them.
#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <unordered_set>
#include <utility>

#include "errors.h"
#include "graph.h"
#include "spread.h"
#include "walk.h"

namespace rag {

namespace {

constexpr size_t kFirstBatch = 64;  // the first rows are compared with one another, all of them
constexpr size_t kLargestBatch = 2048;
constexpr size_t kBatchShare = 16;  // a batch is at most one row for so many that are linked
constexpr size_t kChunk = 16;       // rows that a thread takes at a time
constexpr size_t kLaterWindow = 5;  // eighths of the window that suffice for rows which come to a graph
constexpr size_t kAhead = 4;        // rows that are asked for before they are loaded

}  // namespace

class GraphBuilder {
public:
    GraphBuilder(Graph& graph, size_t threads, const Interrupt& interrupt)
        : graph_(graph), store_(graph.store_), threads_(threads), interrupt_(interrupt), workers_(threads) {}

    void grow(size_t hold_back, std::span<const uint32_t> given) {
        std::vector<uint32_t> order = ordered(hold_back, given);
        const size_t known = graph_.linked_, total = store_.rows();
        bulk_ = order.size() > known;
        linked_ = known;
        try {
            extend(total);
            for (size_t pass = 0; pass < (bulk_ ? graph_.form_.passes : 1); ++pass)
                for (size_t first = 0; first < order.size();) {
                    const size_t most = linked_ ? std::clamp(linked_ / kBatchShare, size_t{1}, kLargestBatch) : kFirstBatch;
                    const size_t n = std::min(most, order.size() - first);
                    batch(std::span(order).subspan(first, n), pass == 0);
                    first += n;
                }
            if (bulk_) settle();
        } catch (...) {
            graph_.held_.clear();
            graph_.reached_ = graph_.linked_;
            throw;
        }
        const std::unique_lock writing(store_.mutex());
        graph_.reached_ = total;
        if (graph_.held_.empty()) graph_.linked_ = graph_.known_ = total;
    }

    void consolidate() {
        const Bitmap& dead = store_.dead();
        for (Level& level : graph_.levels_) {
            std::shared_lock lock(store_.mutex());
            const auto gone = [&](uint32_t place) { return dead[level.row(place)]; };
            std::vector<uint32_t> touched;
            for (uint32_t place = 0; place < level.size(); ++place)
                if (!gone(place) && std::ranges::any_of(level.linked(place), gone)) touched.push_back(place);
            choose_anew(level, touched, 0, lock, [&](Worker& worker, size_t i) {
                size_t live = 0;
                for (const uint32_t to : level.linked(touched[i])) {
                    if (!gone(to)) {
                        worker.candidates.push_back(to);
                        ++live;
                        continue;
                    }
                    for (const uint32_t beyond : level.linked(to))
                        if (!gone(beyond) && beyond != touched[i]) worker.candidates.push_back(beyond);
                }
                std::ranges::sort(worker.candidates);
                const auto twice = std::ranges::unique(worker.candidates);
                worker.candidates.erase(twice.begin(), twice.end());
                return std::max(live, level.degree());
            });
        }
    }

private:
    struct Worker {  // what one thread needs for itself
        explicit Worker(const Graph& graph) : spread(graph.store()) {}
        Spread spread;
        Walk walk;
        std::vector<uint32_t> candidates, open;
        std::vector<float> distances, between, needless;
    };

    // The live rows that are to be linked now, in their order; those to be held back are put by.
    std::vector<uint32_t> ordered(size_t hold_back, std::span<const uint32_t> given) {
        std::vector<uint32_t> order = std::exchange(graph_.held_, {});
        const size_t first = order.empty() ? graph_.linked_ : graph_.reached_;
        const Bitmap& dead = store_.dead();
        if (given.empty()) {
            for (size_t row = first; row < store_.rows(); ++row) order.push_back(static_cast<uint32_t>(row));
        } else {
            Bitmap seen(store_.rows() - first);
            for (const uint32_t number : given) {
                if (number >= seen.size() || seen[number]) throw InputError("an order names a row twice, or one that is not there", "");
                seen.set(number);
                order.push_back(static_cast<uint32_t>(first + number));
            }
            if (given.size() != seen.size()) throw InputError("an order leaves rows out", "");
        }
        std::erase_if(order, [&](uint32_t row) { return dead[row]; });
        // Rows that come sorted, by topic say, would find none of their neighbours there yet, or nothing else.
        std::vector<uint32_t> shuffled = order;
        std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937_64(graph_.form_.seed + graph_.linked_));
        hold_back = std::min(hold_back, order.size());
        graph_.held_.assign(shuffled.end() - hold_back, shuffled.end());
        if (given.empty()) {
            order.assign(shuffled.begin(), shuffled.end() - hold_back);
        } else {
            Bitmap held(store_.rows());
            for (const uint32_t row : graph_.held_) held.set(row);
            std::erase_if(order, [&](uint32_t row) { return held[row]; });
        }
        return order;
    }

    template <class Work>
    void each(size_t n, Work work) {
        parallel((n + kChunk - 1) / kChunk, threads_, interrupt_, [&](size_t chunk, size_t thread) {
            std::unique_ptr<Worker>& worker = workers_[thread];
            if (!worker) worker = std::make_unique<Worker>(graph_);
            for (size_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) work(*worker, i);
        });
    }

    // New links for places, from the candidates that `collect(worker, i)` puts together for each: it returns how many of
    // them to choose. All are taken where they are no more than `few`. Gives the lock back, to store the links; returns
    // them.
    template <class Collect>
    std::vector<uint32_t> choose_anew(Level& level, std::span<const uint32_t> places, size_t few,
                                      std::shared_lock<std::shared_mutex>& lock, Collect collect) {
        const size_t room = level.room();
        std::vector<uint32_t> links(places.size() * room, kNoRow);
        each(places.size(), [&](Worker& worker, size_t i) {
            worker.candidates.clear();
            const size_t most = collect(worker, i);
            if (worker.candidates.size() <= few)
                std::ranges::copy(worker.candidates, links.data() + i * room);
            else
                prune(worker, level, places[i], most, links.data() + i * room);
        });
        lock.unlock();
        const std::unique_lock writing(store_.mutex());
        for (size_t i = 0; i < places.size(); ++i) level.set(places[i], links.data() + i * room);
        return links;
    }

    void batch(std::span<const uint32_t> rows, bool first_time) {
        if (first_time)
            for (size_t number = raise(rows); number > 0; --number) {
                Level& level = graph_.levels_[number];
                std::vector<uint32_t> places(level.size() - before_[number]);
                std::iota(places.begin(), places.end(), before_[number]);
                link(number, places, before_[number] == 0);
            }
        link(0, rows, linked_ == 0);
        if (!first_time) return;
        const std::unique_lock writing(store_.mutex());
        linked_ += rows.size();
        if (graph_.levels_.size() > 1)
            graph_.enter_top();
        else
            for (const uint32_t row : rows) graph_.enter(row);
    }

    // Gives rows their places on the levels above the ground, still without links. The highest of these levels.
    size_t raise(std::span<const uint32_t> rows) {
        const std::unique_lock writing(store_.mutex());
        before_.clear();
        for (const Level& level : graph_.levels_) before_.push_back(level.size());
        size_t highest = 0;
        for (const uint32_t row : rows) {
            if (raised_.contains(row)) continue;
            uint32_t below = row;
            const size_t height = graph_.height(row);
            for (size_t number = 1; number <= height; ++number) {
                if (number == graph_.levels_.size()) {
                    graph_.levels_.emplace_back(graph_.form_.degree / 2, false);
                    graph_.levels_.back().extend(0, room(graph_.levels_.back()));
                    before_.push_back(0);
                }
                Level& level = graph_.levels_[number];
                level.name(row, below);
                below = static_cast<uint32_t>(level.rows().size() - 1);
            }
            highest = std::max(highest, height);
        }
        for (size_t number = 1; number <= highest; ++number)
            graph_.levels_[number].extend(graph_.levels_[number].rows().size(), graph_.levels_[number].room());
        return highest;
    }

    // Links places of a level to those that are linked there already, or, the first ones, to one another.
    void link(size_t number, std::span<const uint32_t> places, bool alone) {
        Level& level = graph_.levels_[number];
        std::shared_lock lock(store_.mutex());
        if (number == 0) measure(places);
        std::vector<uint32_t> links = choose_anew(level, places, 0, lock, [&](Worker& worker, size_t i) {
            if (alone)
                worker.candidates.assign(places.begin(), places.end());
            else
                near(worker, number, places[i]);
            std::erase(worker.candidates, places[i]);
            return level.degree();
        });

        // The way back: every place learns who links to it, and chooses anew when there is no room.
        const size_t room = level.room();
        std::vector<std::pair<uint32_t, uint32_t>> back;
        for (size_t i = 0; i < places.size(); ++i)
            for (size_t j = 0; j < room && links[i * room + j] != kNoRow; ++j)
                back.emplace_back(links[i * room + j], places[i]);
        std::sort(back.begin(), back.end());
        std::vector<size_t> starts;
        std::vector<uint32_t> targets;
        for (size_t i = 0; i < back.size(); ++i)
            if (i == 0 || back[i].first != back[i - 1].first) {
                starts.push_back(i);
                targets.push_back(back[i].first);
            }
        starts.push_back(back.size());
        lock.lock();
        choose_anew(level, targets, room, lock, [&](Worker& worker, size_t i) {
            const std::span<const uint32_t> before = level.linked(targets[i]);
            worker.candidates.assign(before.begin(), before.end());
            for (size_t j = starts[i]; j < starts[i + 1]; ++j)
                if (std::find(before.begin(), before.end(), back[j].second) == before.end())
                    worker.candidates.push_back(back[j].second);
            return level.degree();
        });
    }

    // Every place keeps `degree` links. What is added later takes the room again.
    void settle() {
        for (Level& level : graph_.levels_) {
            std::vector<uint32_t> places;
            for (uint32_t place = 0; place < level.size(); ++place)
                if (level.linked(place).size() > level.degree()) places.push_back(place);
            for (size_t first = 0; first < places.size(); first += kLargestBatch) {
                const auto some = std::span(places).subspan(first, std::min(kLargestBatch, places.size() - first));
                std::shared_lock lock(store_.mutex());
                choose_anew(level, some, 0, lock, [&](Worker& worker, size_t i) {
                    const auto own = level.linked(some[i]);
                    worker.candidates.assign(own.begin(), own.end());
                    return level.degree();
                });
            }
            const std::unique_lock writing(store_.mutex());
            level.extend(level.size(), level.degree());
        }
    }

    // Places near one, as a search finds them.
    void near(Worker& worker, size_t number, uint32_t place) {
        const Level& level = graph_.levels_[number];
        auto& candidates = worker.candidates;
        if (number >= graph_.top_ && number > 0) {  // nothing leads there, but there are few
            candidates.resize(before_[number]);
            std::iota(candidates.begin(), candidates.end(), 0);
        } else {
            const float* vector = worker.spread.centre(level.row(place), graph_.longest_);
            const auto queries = store_.primary().codec->prepare(vector, 1, false);
            const size_t window = bulk_ ? graph_.form_.window : graph_.form_.window * kLaterWindow / 8;
            worker.walk.start(graph_, *queries, 0, {window, window}, 0, number);
            while (worker.walk.step()) {}
            const Pool& found = worker.walk.found();
            for (size_t i = 0; i < found.size(); ++i) candidates.push_back(found.row(i));
        }
        for (const uint32_t to : level.linked(place))
            if (std::find(candidates.begin(), candidates.end(), to) == candidates.end()) candidates.push_back(to);
        // Deleted ones serve where there is nothing else.
        const auto live = std::stable_partition(candidates.begin(), candidates.end(),
                                                [&](uint32_t one) { return !store_.dead()[level.row(one)]; });
        if (live != candidates.begin()) candidates.erase(live, candidates.end());
    }

    // Of the candidates, nearest first, those that no chosen one makes needless: none that is nearer to them than `row`
    // is. Places that are left go to those that come nearest to that, by up to `alpha`.
    void prune(Worker& worker, const Level& level, uint32_t place, size_t most, uint32_t* links) {
        auto& [spread, walk, candidates, open, distances, between, needless] = worker;
        const size_t n = candidates.size();
        spread.centre(level.row(place), graph_.longest_);
        open.resize(n);
        distances.resize(n);
        between.resize(n);
        needless.assign(n, 0);
        for (size_t i = 0; i < n; ++i) {
            if (i + kAhead < n) spread.fetch(level.row(candidates[i + kAhead]));
            spread.load(i, level.row(candidates[i]));
            distances[i] = spread.distance(i);
            open[i] = static_cast<uint32_t>(i);
        }
        std::sort(open.begin(), open.end(), [&](uint32_t a, uint32_t b) {
            return distances[a] != distances[b] ? distances[a] < distances[b] : candidates[a] < candidates[b];
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
                links[kept++] = candidates[one];
                open.erase(open.begin() + i);
                spread.distances(one, open, between.data());
                for (size_t j = 0; j < open.size(); ++j)
                    needless[open[j]] = std::max(needless[open[j]], distances[open[j]] / between[j]);
            }
        }
        for (size_t i = 0; graph_.form_.filled && kept < most && i < open.size(); ++i) links[kept++] = candidates[open[i]];
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

    // A row takes more links than it chooses: so it chooses among them more seldom.
    static size_t room(const Level& level) { return level.degree() + level.degree() / 2; }

    // A place for every row, and room for more links.
    void extend(size_t rows) {
        const std::unique_lock writing(store_.mutex());
        for (Level& level : graph_.levels_) level.extend(level.ground() ? rows : level.size(), room(level));
        if (graph_.levels_.size() > 1)
            for (const uint32_t row : graph_.levels_[1].rows())
                if (row >= graph_.linked_) raised_.insert(row);
    }

    Graph& graph_;
    const VectorStore& store_;
    size_t threads_, linked_ = 0;
    bool bulk_ = false;
    const Interrupt& interrupt_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<size_t> before_;             // places on each level before the batch
    std::unordered_set<uint32_t> raised_;    // rows that got places above in a call that was interrupted
};

void Graph::grow(size_t hold_back, std::span<const uint32_t> order, size_t threads, const Interrupt& interrupt) {
    GraphBuilder(*this, threads, interrupt).grow(hold_back, order);
}
void Graph::consolidate(size_t threads, const Interrupt& interrupt) {
    GraphBuilder(*this, threads, interrupt).consolidate();
}

}  // namespace rag
