// What can be reached: neighbourhoods within a budget, and connected components.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adjacency.h"

namespace rag {

struct BallForm {
    size_t hops;    // steps from a seed at most
    size_t budget;  // nodes at most, seeds included
    size_t fanout;  // edges followed of a node at most, the heaviest; 0 for all
};

// Nodes in the order they were reached: `hops` steps from a seed, first from `parents` (-1: a seed).
struct Ball {
    std::vector<Node> nodes, parents;
    std::vector<int32_t> hops;
};

// Breadth first from the seeds, in their order. Throws InputError for seeds that are no nodes.
Ball ball(const Adjacency& graph, std::span<const int64_t> seeds, const BallForm& form);

// Of each node the number of its component, whatever way edges lead; numbered by their first nodes.
std::vector<Node> components(const Adjacency& graph);

// Of each source its distance to every node in steps, int32[sources, nodes], -1 where none leads.
void distances(const Adjacency& graph, std::span<const int64_t> sources, size_t threads, const Interrupt& interrupt,
               int32_t* out);

}  // namespace rag
