// A weighted directed graph as compressed sparse rows: what walks, rankings and communities run on.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "parallel.h"

namespace rag {

using Node = int32_t;

// Arrays that others hold: of node u, the edges are targets[offsets[u] .. offsets[u + 1]), with their weights.
class Adjacency {
public:
    // Throws InputError for arrays that do not fit together, targets that are no nodes, and weights that are negative or
    // not finite. Without weights all are 1.
    Adjacency(std::span<const int64_t> offsets, std::span<const Node> targets, std::span<const float> weights);

    size_t nodes() const { return offsets_.size() - 1; }
    size_t edges() const { return targets_.size(); }
    size_t degree(Node node) const { return static_cast<size_t>(offsets_[node + 1] - offsets_[node]); }
    std::span<const Node> targets(Node node) const { return targets_.subspan(offsets_[node], degree(node)); }
    // Empty where all are 1.
    std::span<const float> weights(Node node) const {
        return weights_.empty() ? weights_ : weights_.subspan(offsets_[node], degree(node));
    }
    float weight(Node node, size_t at) const { return weights_.empty() ? 1.0f : weights_[offsets_[node] + at]; }
    // The sum of the weights of a node's edges.
    float strength(Node node) const { return strengths_[node]; }
    std::span<const float> strengths() const { return strengths_; }
    std::span<const int64_t> offsets() const { return offsets_; }

private:
    std::span<const int64_t> offsets_;
    std::span<const Node> targets_;
    std::span<const float> weights_;
    std::vector<float> strengths_;
};

// Rows that an adjacency is made of.
struct AdjacencyRows {
    std::vector<int64_t> offsets;
    std::vector<Node> targets;
    std::vector<float> weights;
};

// Sorts edges into rows, targets ascending; the weights of equal edges are added. `both_ways` adds each edge in the
// other direction too (a loop only once). Without weights each edge weighs 1. Throws InputError for ends that are no
// nodes, and for weights that are negative or not finite.
AdjacencyRows rows_of_edges(size_t nodes, std::span<const int64_t> sources, std::span<const int64_t> targets,
                            std::span<const float> weights, bool both_ways);

// The same edges in the other direction.
AdjacencyRows transposed(const Adjacency& graph);

// out[n, width] = of each node, the mean of the rows of the nodes its edges lead to, by weight; zero without edges.
void mean_of_neighbours(const Adjacency& graph, const float* rows, size_t width, size_t threads,
                        const Interrupt& interrupt, float* out);

}  // namespace rag
