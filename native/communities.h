// Communities of an undirected weighted graph: Leiden and Louvain by modularity.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "adjacency.h"

namespace rag {

struct CommunityForm {
    double resolution;  // above 1: smaller communities
    size_t rounds;      // at most; a round moves, refines and merges until nothing gains
    bool refine;        // Leiden (Traag, Waltman, van Eck 2019); otherwise Louvain (Blondel et al. 2008)
    uint64_t seed;      // of the order in which nodes are visited
};

struct Communities {
    std::vector<Node> of;  // of each node its community, numbered by their first nodes
    double modularity;
};

// Every edge must be there in both directions, with the same weight; a loop counts as it stands. The same seed gives the
// same communities.
Communities communities(const Adjacency& graph, const CommunityForm& form, const Interrupt& interrupt);

// Sum over communities of (weight within) / m - resolution * (strength of its nodes / m)^2, m the weight of all edges in
// both directions.
double modularity(const Adjacency& graph, const std::vector<Node>& of, double resolution);

}  // namespace rag
