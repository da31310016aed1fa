#include "adjacency.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "errors.h"

namespace rag {

namespace {

constexpr size_t kBlock = 512;  // nodes a task

void check_weights(std::span<const float> weights) {
    for (size_t at = 0; at < weights.size(); ++at) {
        if (!(weights[at] >= 0 && std::isfinite(weights[at]))) {
            throw InputError("the weight of edge " + std::to_string(at) + " is " + std::to_string(weights[at]),
                             "weights are finite and not negative");
        }
    }
}

void check_nodes(size_t nodes) {
    if (nodes > static_cast<size_t>(std::numeric_limits<Node>::max())) {
        throw InputError(std::to_string(nodes) + " nodes are more than 2^31 - 1", "split the graph");
    }
}

}  // namespace

Adjacency::Adjacency(std::span<const int64_t> offsets, std::span<const Node> targets, std::span<const float> weights)
    : offsets_(offsets), targets_(targets), weights_(weights) {
    const char* const hint = "offsets have one number more than there are nodes, rise from 0 to the number of edges";
    if (offsets.empty() || offsets.front() != 0 || offsets.back() != static_cast<int64_t>(targets.size()) ||
        !std::is_sorted(offsets.begin(), offsets.end())) {
        throw InputError("offsets do not fit " + std::to_string(targets.size()) + " edges", hint);
    }
    if (!weights.empty() && weights.size() != targets.size()) {
        throw InputError(std::to_string(weights.size()) + " weights for " + std::to_string(targets.size()) + " edges",
                         "give one for each edge, or none");
    }
    check_nodes(nodes());
    const auto outside = std::find_if(targets.begin(), targets.end(), [&](Node node) {
        return node < 0 || static_cast<size_t>(node) >= nodes();
    });
    if (outside != targets.end()) {
        throw InputError("an edge leads to node " + std::to_string(*outside) + " of " + std::to_string(nodes()),
                         "nodes are counted from 0");
    }
    check_weights(weights);
    strengths_.resize(nodes());
    for (size_t node = 0; node < nodes(); ++node) {
        const auto own = this->weights(static_cast<Node>(node));
        strengths_[node] = weights.empty() ? static_cast<float>(degree(static_cast<Node>(node)))
                                           : static_cast<float>(std::accumulate(own.begin(), own.end(), 0.0));
        if (!std::isfinite(strengths_[node])) {
            throw InputError("the weights of the edges of node " + std::to_string(node) + " overflow", "scale them");
        }
    }
}

AdjacencyRows rows_of_edges(size_t nodes, std::span<const int64_t> sources, std::span<const int64_t> targets,
                            std::span<const float> weights, bool both_ways) {
    if (sources.size() != targets.size() || (!weights.empty() && weights.size() != sources.size())) {
        throw InputError(std::to_string(sources.size()) + " sources, " + std::to_string(targets.size()) +
                             " targets and " + std::to_string(weights.size()) + " weights",
                         "give one of each for every edge, or no weights");
    }
    check_nodes(nodes);
    check_weights(weights);
    const auto inside = [&](int64_t node) { return 0 <= node && static_cast<size_t>(node) < nodes; };
    for (size_t at = 0; at < sources.size(); ++at) {
        if (!inside(sources[at]) || !inside(targets[at])) {
            throw InputError("edge " + std::to_string(at) + " joins " + std::to_string(sources[at]) + " and " +
                                 std::to_string(targets[at]) + " of " + std::to_string(nodes) + " nodes",
                             "nodes are counted from 0");
        }
    }
    // Two counting sorts, by target and then by source, leave every row in order without comparing.
    const auto each = [&](auto take) {
        for (size_t at = 0; at < sources.size(); ++at) {
            const float weight = weights.empty() ? 1.0f : weights[at];
            take(static_cast<Node>(sources[at]), static_cast<Node>(targets[at]), weight);
            if (both_ways && sources[at] != targets[at]) {
                take(static_cast<Node>(targets[at]), static_cast<Node>(sources[at]), weight);
            }
        }
    };
    struct Edge {
        Node source, target;
        float weight;
    };
    std::vector<int64_t> by_target(nodes + 1), by_source(nodes + 1);
    each([&](Node source, Node target, float) { ++by_target[target + 1], ++by_source[source + 1]; });
    std::partial_sum(by_target.begin(), by_target.end(), by_target.begin());
    std::partial_sum(by_source.begin(), by_source.end(), by_source.begin());
    const auto count = static_cast<size_t>(by_source.back());
    std::vector<Edge> sorted(count);
    each([&](Node source, Node target, float weight) { sorted[by_target[target]++] = {source, target, weight}; });
    AdjacencyRows rows{by_source, std::vector<Node>(count), std::vector<float>(count)};
    for (const Edge& edge : sorted) {
        const auto at = static_cast<size_t>(by_source[edge.source]++);
        rows.targets[at] = edge.target;
        rows.weights[at] = edge.weight;
    }
    size_t kept = 0;
    for (size_t node = 0; node < nodes; ++node) {
        const auto begin = static_cast<size_t>(rows.offsets[node]), end = static_cast<size_t>(rows.offsets[node + 1]);
        const size_t first = kept;
        for (size_t at = begin; at < end; ++at) {
            if (kept > first && rows.targets[kept - 1] == rows.targets[at]) {
                rows.weights[kept - 1] += rows.weights[at];
            } else {
                rows.targets[kept] = rows.targets[at];
                rows.weights[kept++] = rows.weights[at];
            }
        }
        rows.offsets[node] = static_cast<int64_t>(first);
    }
    rows.offsets[nodes] = static_cast<int64_t>(kept);
    rows.targets.resize(kept);
    rows.weights.resize(kept);
    return rows;
}

AdjacencyRows transposed(const Adjacency& graph) {
    const size_t nodes = graph.nodes();
    AdjacencyRows rows{std::vector<int64_t>(nodes + 1), std::vector<Node>(graph.edges()),
                       std::vector<float>(graph.edges())};
    for (size_t node = 0; node < nodes; ++node) {
        for (const Node target : graph.targets(static_cast<Node>(node))) ++rows.offsets[target + 1];
    }
    std::partial_sum(rows.offsets.begin(), rows.offsets.end(), rows.offsets.begin());
    std::vector<int64_t> next(rows.offsets.begin(), rows.offsets.end() - 1);
    for (size_t node = 0; node < nodes; ++node) {
        const auto targets = graph.targets(static_cast<Node>(node));
        for (size_t at = 0; at < targets.size(); ++at) {
            const auto to = static_cast<size_t>(next[targets[at]]++);
            rows.targets[to] = static_cast<Node>(node);
            rows.weights[to] = graph.weight(static_cast<Node>(node), at);
        }
    }
    return rows;
}

void mean_of_neighbours(const Adjacency& graph, const float* rows, size_t width, size_t threads,
                        const Interrupt& interrupt, float* out) {
    parallel((graph.nodes() + kBlock - 1) / kBlock, threads, interrupt, [&](size_t task, size_t) {
        for (size_t node = task * kBlock; node < std::min(graph.nodes(), (task + 1) * kBlock); ++node) {
            const auto own = static_cast<Node>(node);
            float* __restrict const sum = out + node * width;
            std::fill_n(sum, width, 0.0f);
            const float strength = graph.strength(own);
            if (strength == 0) continue;
            const auto targets = graph.targets(own);
            for (size_t at = 0; at < targets.size(); ++at) {
                const float share = graph.weight(own, at) / strength;
                const float* __restrict const row = rows + static_cast<size_t>(targets[at]) * width;
                for (size_t i = 0; i < width; ++i) sum[i] += share * row[i];
            }
        }
    });
}

}  // namespace rag
