#include "pagerank.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>

#include "errors.h"

namespace rag {

namespace {

constexpr size_t kBlock = 1024;  // nodes a task of a step
constexpr size_t kPolish = 1 << 16;  // edges followed to polish a query at most
constexpr size_t kLanes = 16;    // queries that a power iteration does at a time: a cache line of each node

struct Seed {
    Node node;
    float weight;
};

// Of each query its seeds, scaled to a sum of 1; none where all weights are 0.
std::vector<std::vector<Seed>> scaled(const Seeds& seeds, size_t nodes) {
    const auto count = static_cast<int64_t>(seeds.nodes.size());
    if (seeds.offsets.empty() || seeds.offsets.front() != 0 || seeds.offsets.back() != count ||
        !std::is_sorted(seeds.offsets.begin(), seeds.offsets.end()) || seeds.weights.size() != seeds.nodes.size()) {
        throw InputError("offsets and weights do not fit " + std::to_string(count) + " seeds",
                         "offsets rise from 0 to the number of seeds, and each seed has a weight");
    }
    std::vector<std::vector<Seed>> all(seeds.count());
    for (size_t query = 0; query < all.size(); ++query) {
        double sum = 0;
        for (int64_t at = seeds.offsets[query]; at < seeds.offsets[query + 1]; ++at) {
            const int64_t node = seeds.nodes[at];
            const float weight = seeds.weights[at];
            if (node < 0 || static_cast<size_t>(node) >= nodes) {
                throw InputError("seed " + std::to_string(node) + " is none of " + std::to_string(nodes) + " nodes",
                                 "nodes are counted from 0");
            }
            if (!(weight >= 0 && std::isfinite(weight))) {
                throw InputError("the weight of seed " + std::to_string(node) + " is " + std::to_string(weight),
                                 "weights are finite and not negative");
            }
            sum += weight;
            if (weight > 0) all[query].push_back({static_cast<Node>(node), weight});
        }
        for (Seed& seed : all[query]) seed.weight = static_cast<float>(seed.weight / sum);
    }
    return all;
}

// What a thread pushes with; all zero between queries, so that a query costs what it touches.
struct Bench {
    std::vector<float> residual, score, seed;
    std::vector<uint8_t> seen, waiting;
    std::vector<Node> touched, queue, later;

    explicit Bench(size_t nodes) : residual(nodes), score(nodes), seed(nodes), seen(nodes), waiting(nodes) {}
    void clear() {
        for (const Node node : touched) residual[node] = score[node] = seed[node] = 0, seen[node] = waiting[node] = 0;
        touched.clear(), queue.clear(), later.clear();
    }
};

// False when the budget was spent before all residuals were small.
bool push(const Adjacency& graph, const std::vector<Seed>& seeds, const PageRankForm& form, Bench& bench,
          PageRankWork& work) {
    const auto add = [&](Node node, float mass) {
        if (!bench.seen[node]) bench.seen[node] = 1, bench.touched.push_back(node);
        const float residual = bench.residual[node] += mass;
        const auto degree = static_cast<float>(std::max<size_t>(graph.degree(node), 1));
        if (!bench.waiting[node] && residual > form.epsilon * degree) {
            bench.waiting[node] = 1;
            bench.later.push_back(node);
        }
    };
    for (const Seed& seed : seeds) {
        bench.seed[seed.node] += seed.weight;
        add(seed.node, seed.weight);
    }
    size_t followed = 0;
    while (!bench.later.empty()) {  // in rounds: the residual of a node gathers what its round brings
        std::swap(bench.queue, bench.later);
        for (const Node node : bench.queue) {
            const float mass = bench.residual[node], passed = form.alpha * mass;
            bench.residual[node] = 0;
            bench.waiting[node] = 0;
            bench.score[node] += mass - passed;
            ++work.pushes;
            const auto targets = graph.targets(node);
            if ((followed += targets.size()) > form.budget) return false;
            if (graph.strength(node) == 0) {
                for (const Seed& seed : seeds) add(seed.node, passed * seed.weight);
                continue;
            }
            const auto weights = graph.weights(node);
            const float share = passed / graph.strength(node);
            for (size_t at = 0; at < targets.size(); ++at) {
                add(targets[at], weights.empty() ? share : share * weights[at]);
            }
        }
        bench.queue.clear();
    }
    // The walk ends with 1 - alpha where it is now; so much of what was not pushed is certain.
    for (const Node node : bench.touched) bench.score[node] += (1 - form.alpha) * bench.residual[node];
    return true;
}

// One step of power iteration for the best nodes alone, from scores of their neighbours that went through one as well:
// what a push leaves behind is a few millionths of a score, and so may be what two of the best differ by.
void polish(const Adjacency& graph, const Adjacency& incoming, const PageRankForm& form, std::span<const uint8_t> among,
            Bench& bench) {
    std::vector<Node> best;
    for (const Node node : bench.touched) {
        if (bench.score[node] > 0 && (among.empty() || among[node])) best.push_back(node);
    }
    const auto count = static_cast<std::ptrdiff_t>(std::min(form.polished, best.size()));
    std::nth_element(best.begin(), best.begin() + count, best.end(), [&](Node one, Node other) {
        return std::pair(-bench.score[one], one) < std::pair(-bench.score[other], other);
    });
    best.resize(static_cast<size_t>(count));
    double lost = 0;
    for (const Node node : bench.touched) {
        if (graph.strength(node) == 0) lost += bench.score[node];
    }
    const float back = 1 - form.alpha + form.alpha * static_cast<float>(lost);
    size_t left = kPolish;
    const auto step = [&](Node node, const auto& score_of) {
        const auto sources = incoming.targets(node);
        if (sources.size() > left) return bench.score[node];
        left -= sources.size();
        float sum = 0;
        for (size_t at = 0; at < sources.size(); ++at) {
            const float score = score_of(sources[at]);
            if (score > 0) sum += incoming.weight(node, at) / graph.strength(sources[at]) * score;
        }
        return form.alpha * sum + back * bench.seed[node];
    };
    const auto score_of = [&](Node node) { return bench.score[node]; };
    std::vector<float> polished;
    for (const Node node : best) {
        polished.push_back(step(node, [&](Node source) { return step(source, score_of); }));
    }
    for (size_t at = 0; at < best.size(); ++at) {
        bench.score[best[at]] = std::max(polished[at], bench.score[best[at]]);
    }
}

// The state of `L` queries that a power iteration does side by side, [nodes, L].
template <size_t L>
class Iteration {
public:
    Iteration(const Adjacency& graph, const Adjacency& incoming)
        : graph_(graph), incoming_(incoming), now_(graph.nodes() * L), next_(now_.size()), sent_(now_.size()),
          seeds_(now_.size()), moved_((graph.nodes() + kBlock - 1) / kBlock), lost_(moved_.size()) {}

    // Calls done(lane, steps) as soon as a lane has come to rest, when its scores can be read.
    template <class Done>
    void run(const std::vector<const std::vector<Seed>*>& queries, const PageRankForm& form, size_t threads,
             const Interrupt& interrupt, Done done) {
        std::fill(seeds_.begin(), seeds_.end(), 0.0f);
        for (size_t lane = 0; lane < queries.size(); ++lane) {
            for (const Seed& seed : *queries[lane]) seeds_[seed.node * L + lane] += seed.weight;
        }
        now_ = seeds_;
        std::array<bool, L> rest{};
        size_t left = queries.size();
        for (size_t step = 1; left; ++step) {
            const Lanes lost = send(threads, interrupt);
            const Lanes moved = gather(form.alpha, lost, threads, interrupt);
            std::swap(now_, next_);
            for (size_t lane = 0; lane < queries.size(); ++lane) {
                if (rest[lane] || (moved[lane] > form.tolerance && step < form.iterations)) continue;
                rest[lane] = true;
                --left;
                done(lane, step);
            }
        }
    }
    void read(size_t lane, float* scores) const {
        for (size_t node = 0; node < graph_.nodes(); ++node) scores[node] = now_[node * L + lane];
    }

private:
    using Lanes = std::array<double, L>;

    // What every node sends along an edge of weight 1; returns what those without edges cannot send.
    Lanes send(size_t threads, const Interrupt& interrupt) {
        blocks(threads, interrupt, [&](size_t block, size_t begin, size_t end) {
            Lanes lost{};
            for (size_t node = begin; node < end; ++node) {
                const float strength = graph_.strength(static_cast<Node>(node));
                const float inverse = strength > 0 ? 1 / strength : 0;
                for (size_t lane = 0; lane < L; ++lane) {
                    const float mass = now_[node * L + lane];
                    sent_[node * L + lane] = inverse * mass;
                    if (strength == 0) lost[lane] += mass;
                }
            }
            lost_[block] = lost;
        });
        return total(lost_);
    }
    Lanes gather(float alpha, const Lanes& lost, size_t threads, const Interrupt& interrupt) {
        std::array<float, L> back;
        for (size_t lane = 0; lane < L; ++lane) back[lane] = 1 - alpha + alpha * static_cast<float>(lost[lane]);
        blocks(threads, interrupt, [&](size_t block, size_t begin, size_t end) {
            Lanes moved{};
            for (size_t node = begin; node < end; ++node) {
                const auto sources = incoming_.targets(static_cast<Node>(node));
                const auto weights = incoming_.weights(static_cast<Node>(node));
                std::array<float, L> sum{};
                for (size_t at = 0; at < sources.size(); ++at) {
                    const float weight = weights.empty() ? 1.0f : weights[at];
                    const float* const from = sent_.data() + static_cast<size_t>(sources[at]) * L;
                    for (size_t lane = 0; lane < L; ++lane) sum[lane] += weight * from[lane];
                }
                for (size_t lane = 0; lane < L; ++lane) {
                    const size_t at = node * L + lane;
                    next_[at] = alpha * sum[lane] + back[lane] * seeds_[at];
                    moved[lane] += std::abs(next_[at] - now_[at]);
                }
            }
            moved_[block] = moved;
        });
        return total(moved_);
    }
    template <class Work>
    void blocks(size_t threads, const Interrupt& interrupt, Work work) {
        parallel(moved_.size(), threads, interrupt, [&](size_t block, size_t) {
            work(block, block * kBlock, std::min(graph_.nodes(), (block + 1) * kBlock));
        });
    }
    // In the order of blocks, whatever thread did them.
    static Lanes total(const std::vector<Lanes>& parts) {
        Lanes sum{};
        for (const Lanes& part : parts) {
            for (size_t lane = 0; lane < L; ++lane) sum[lane] += part[lane];
        }
        return sum;
    }

    const Adjacency& graph_;
    const Adjacency& incoming_;
    std::vector<float> now_, next_, sent_, seeds_;
    std::vector<Lanes> moved_, lost_;
};

void check(const PageRankForm& form) {
    const char* const hint = "alpha is from 0 up to, not including, 1; epsilon and tolerance are above 0";
    if (!(form.alpha >= 0 && form.alpha < 1)) throw InputError("alpha is " + std::to_string(form.alpha), hint);
    if (!(form.epsilon > 0)) throw InputError("epsilon is " + std::to_string(form.epsilon), hint);
    if (!(form.tolerance > 0)) throw InputError("tolerance is " + std::to_string(form.tolerance), hint);
    if (!form.iterations) throw InputError("no iterations are allowed", "1 is the least");
}

}  // namespace

void personalised_pagerank(
    const Adjacency& graph, const Adjacency& incoming, const Seeds& seeds, const PageRankForm& form,
    std::span<const uint8_t> among, size_t threads, const Interrupt& interrupt, std::vector<PageRankWork>& work,
    const std::function<void(size_t, std::span<const float>, std::span<const Node>, size_t)>& take) {
    check(form);
    const auto queries = scaled(seeds, graph.nodes());
    work.assign(queries.size(), {});
    std::vector<uint8_t> open(queries.size(), 1);
    if (form.budget) {
        const size_t useful = std::max<size_t>(std::min(threads, queries.size()), 1);
        std::vector<std::unique_ptr<Bench>> benches(useful);
        parallel(queries.size(), useful, interrupt, [&](size_t query, size_t thread) {
            if (!benches[thread]) benches[thread] = std::make_unique<Bench>(graph.nodes());
            Bench& bench = *benches[thread];
            if (push(graph, queries[query], form, bench, work[query])) {
                open[query] = 0;
                if (form.polished) polish(graph, incoming, form, among, bench);
                take(query, bench.score, bench.touched, thread);
            }
            bench.clear();
        });
    }
    std::vector<size_t> hard;
    for (size_t query = 0; query < queries.size(); ++query) {
        if (open[query]) hard.push_back(query);
    }
    std::vector<float> scores(hard.empty() ? 0 : graph.nodes());
    const auto iterate = [&](auto& iteration, size_t from, size_t count) {
        std::vector<const std::vector<Seed>*> some;
        for (size_t at = from; at < from + count; ++at) some.push_back(&queries[hard[at]]);
        iteration.run(some, form, threads, interrupt, [&](size_t lane, size_t steps) {
            iteration.read(lane, scores.data());
            work[hard[from + lane]].iterations = static_cast<int64_t>(steps);
            take(hard[from + lane], scores, {}, 0);
        });
    };
    size_t at = 0;
    if (hard.size() >= kLanes / 4) {  // below, lanes that stand idle cost more than doing the queries one by one
        Iteration<kLanes> iteration(graph, incoming);
        for (; hard.size() - at >= kLanes / 4; at += std::min(kLanes, hard.size() - at)) {
            iterate(iteration, at, std::min(kLanes, hard.size() - at));
        }
    }
    if (at < hard.size()) {
        Iteration<1> iteration(graph, incoming);
        for (; at < hard.size(); ++at) iterate(iteration, at, 1);
    }
}

}  // namespace rag
