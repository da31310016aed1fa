// Personalised PageRank: where a walk that often goes back to its seeds is found.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "adjacency.h"
#include "parallel.h"

namespace rag {

struct PageRankForm {
    float alpha;         // the probability to follow an edge; otherwise the walk goes back to a seed
    float epsilon;       // push: a node is done when its residual is at most this for each of its edges
    float tolerance;     // power iteration: ends when a step moves less than this in all
    size_t iterations;   // power iteration: steps at most
    size_t budget;       // push: edges that may be followed before power iteration takes over; 0 for it at once
    size_t polished;     // push: so many of the best are told apart by what their neighbours have
};

// Seeds of query i: nodes[offsets[i] .. offsets[i + 1]) with their weights, which are scaled to a sum of 1.
struct Seeds {
    std::span<const int64_t> offsets;
    std::span<const int64_t> nodes;
    std::span<const float> weights;

    size_t count() const { return offsets.size() - 1; }
};

// How each query was answered.
struct PageRankWork {
    int64_t pushes;      // nodes that were pushed, also where power iteration took over
    int64_t iterations;  // 0 where push was enough
};

// The walk leaves a node by an edge in proportion to its weight, and goes back to the seeds where there is none. A query
// without seeds of a weight above 0 gets nothing but zeros. `incoming` has the edges of `graph` the other way round.
//
// `among` has one byte for each node, 0 for those that nobody asks for; it may be empty. What is found of query i,
// float32[nodes], is given to take(i, scores, touched, thread): `touched` holds the nodes that may have a score above 0,
// or is empty where it may be any. Push (Andersen, Chung, Lang 2006) stays near the seeds; power iteration does all
// nodes, several queries at a time. Neither result depends on threads or on the other queries. Throws InputError for
// seeds that are no nodes, and weights that are negative or not finite.
void personalised_pagerank(
    const Adjacency& graph, const Adjacency& incoming, const Seeds& seeds, const PageRankForm& form,
    std::span<const uint8_t> among, size_t threads, const Interrupt& interrupt, std::vector<PageRankWork>& work,
    const std::function<void(size_t query, std::span<const float>, std::span<const Node>, size_t thread)>& take);

}  // namespace rag
