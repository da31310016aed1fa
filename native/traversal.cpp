#include "traversal.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_set>

#include "errors.h"

namespace rag {

namespace {

void check(const Adjacency& graph, std::span<const int64_t> seeds) {
    for (const int64_t seed : seeds) {
        if (seed < 0 || static_cast<size_t>(seed) >= graph.nodes()) {
            throw InputError("seed " + std::to_string(seed) + " is none of " + std::to_string(graph.nodes()) + " nodes",
                             "nodes are counted from 0");
        }
    }
}

// The places of a node's heaviest edges in their order, at most `fanout`; of equal weights the first.
void heaviest(const Adjacency& graph, Node node, size_t fanout, std::vector<size_t>& places) {
    places.resize(graph.degree(node));
    std::iota(places.begin(), places.end(), 0);
    if (places.size() <= fanout) return;
    const auto end = places.begin() + static_cast<std::ptrdiff_t>(fanout);
    std::nth_element(places.begin(), end, places.end(), [&](size_t a, size_t b) {
        const float first = graph.weight(node, a), second = graph.weight(node, b);
        return first != second ? first > second : a < b;
    });
    places.resize(fanout);
    std::sort(places.begin(), places.end());
}

}  // namespace

Ball ball(const Adjacency& graph, std::span<const int64_t> seeds, const BallForm& form) {
    check(graph, seeds);
    Ball found;
    std::unordered_set<Node> seen;
    const auto reach = [&](Node node, Node parent, int32_t hops) {
        if (found.nodes.size() < form.budget && seen.insert(node).second) {
            found.nodes.push_back(node);
            found.parents.push_back(parent);
            found.hops.push_back(hops);
        }
    };
    for (const int64_t seed : seeds) reach(static_cast<Node>(seed), -1, 0);
    std::vector<size_t> places;
    for (size_t at = 0; at < found.nodes.size() && found.nodes.size() < form.budget; ++at) {
        const Node node = found.nodes[at];
        const int32_t hops = found.hops[at];
        if (static_cast<size_t>(hops) >= form.hops) break;  // in the order of hops, so that all that follow are as far
        const auto targets = graph.targets(node);
        if (form.fanout && targets.size() > form.fanout) {
            heaviest(graph, node, form.fanout, places);
            for (const size_t place : places) reach(targets[place], node, hops + 1);
        } else {
            for (const Node target : targets) reach(target, node, hops + 1);
        }
    }
    return found;
}

std::vector<Node> components(const Adjacency& graph) {
    std::vector<Node> parents(graph.nodes());
    std::iota(parents.begin(), parents.end(), 0);
    const auto root = [&](Node node) {
        while (parents[node] != node) node = parents[node] = parents[parents[node]];
        return node;
    };
    for (size_t node = 0; node < graph.nodes(); ++node) {
        for (const Node target : graph.targets(static_cast<Node>(node))) {
            const Node one = root(static_cast<Node>(node)), other = root(target);
            parents[std::max(one, other)] = std::min(one, other);  // so that a root is the first of its component
        }
    }
    Node count = 0;
    std::vector<Node> numbers(graph.nodes());
    for (size_t node = 0; node < graph.nodes(); ++node) {
        const Node first = root(static_cast<Node>(node));
        numbers[node] = static_cast<size_t>(first) == node ? count++ : numbers[first];
    }
    return numbers;
}

void distances(const Adjacency& graph, std::span<const int64_t> sources, size_t threads, const Interrupt& interrupt,
               int32_t* out) {
    check(graph, sources);
    parallel(sources.size(), threads, interrupt, [&](size_t task, size_t) {
        int32_t* const own = out + task * graph.nodes();
        std::fill_n(own, graph.nodes(), -1);
        std::vector<Node> reached{static_cast<Node>(sources[task])};
        own[sources[task]] = 0;
        for (size_t at = 0; at < reached.size(); ++at) {
            for (const Node target : graph.targets(reached[at])) {
                if (own[target] >= 0) continue;
                own[target] = own[reached[at]] + 1;
                reached.push_back(target);
            }
        }
    });
}

}  // namespace rag
