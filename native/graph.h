// A proximity graph over the rows of a store: every row has links to at most `degree` others, chosen so that a walk
// which always goes on from the best row seen so far ends at a query's neighbours (Vamana: Subramanya et al. 2019).
// Above it there may be levels of ever fewer rows, linked in the same way, on which a walk comes near its goal in few
// steps (HNSW: Malkov and Yashunin 2020).
#pragma once
#include <deque>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "level.h"
#include "parallel.h"
#include "store.h"

namespace rag {

struct GraphForm {
    size_t degree = 32;    // links of a row, at most; half as many above the ground
    size_t window = 100;   // rows a walk keeps in sight while the graph is built
    float alpha = 1.2f;    // links that another one makes needless may fill free places up to this factor of distance
    size_t passes = 1;     // how often the first rows look for their neighbours
    uint64_t seed = 0;     // of the order in which rows are linked, and of their levels
    size_t thinning = 0;   // one row in so many is on the next level too; 0: there is but the ground
    bool filled = false;   // free places go to the nearest, whatever the factor
};

class Graph {
public:
    Graph(const VectorStore& store, const GraphForm& form) : store_(store), form_(form) {
        levels_.emplace_back(form.degree, true);
    }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    const VectorStore& store() const { return store_; }
    const GraphForm& form() const { return form_; }
    const Level& level(size_t number) const { return levels_[number]; }  // 0 is the ground
    size_t levels() const { return levels_.size(); }

    // Where walks begin: places on the level `top`.
    size_t top() const { return top_; }
    std::span<const uint32_t> entries() const { return entries_; }

    // Rows before `linked` can be walked to. Those from there up to `known` wait: searches score them one by one.
    size_t linked() const { return linked_; }
    size_t known() const { return known_; }

    // Lets the rows wait that the store has beyond `known`.
    void wait();
    // Links all rows that the store has beyond `linked`, except for `hold_back` of them, which are links' next call:
    // until then they are queries that the graph has not seen. `order`: in this order, counted from `linked`; empty:
    // shuffled. Locks the store: for reading while it looks for neighbours, for writing while it stores what it found.
    // The result does not depend on the number of threads. When it is interrupted, all of these rows stay unlinked.
    void grow(size_t hold_back, std::span<const uint32_t> order, size_t threads, const Interrupt& interrupt);
    std::span<const uint32_t> held() const { return held_; }  // rows that were held back
    // Leads links around rows that are deleted in the store.
    void consolidate(size_t threads, const Interrupt& interrupt);

    struct Saved {
        std::span<const uint32_t> rows;   // of a level above the ground
        std::span<const uint32_t> links;  // [places, room]
        size_t room;
    };
    // Takes over a graph of the rows that the store has, from the ground up. Throws InputError where it is none.
    void attach(std::span<const Saved> levels, size_t linked, double longest, const std::shared_ptr<void>& owner);
    double longest() const { return longest_; }  // squared length of the longest vector, under inner product

private:
    friend class GraphBuilder;

    size_t height(uint32_t row) const;  // the highest level of a row
    void enter(uint32_t row);           // perhaps among the entries
    void enter_top();                   // all rows of the first level with few

    const VectorStore& store_;
    GraphForm form_;
    std::deque<Level> levels_;
    size_t linked_ = 0, known_ = 0;
    size_t reached_ = 0;          // where the rows end of which some were held back
    std::vector<uint32_t> held_;
    double longest_ = 0;
    size_t entry_step_ = 1, top_ = 0;
    std::vector<uint32_t> entries_;
};

struct Effort {
    size_t window;        // rows that are expanded, at least, unless `slack` ends the walk before
    size_t rerank;        // rows that are ranked by the finest copy; 0: as many as suit codec and effort
    bool waiting = true;  // whether rows that wait are found too
    // A row is expanded when it is farther off than the `nearest`th best found so far by no more than this share of the
    // distance: an easy query ends soon, a hard one goes on (distance-adaptive search: Al-Jazzazi et al. 2025).
    float slack = std::numeric_limits<float>::infinity();
    size_t nearest = 10;
    size_t least = 0;     // rows that are expanded all the same
    float fill = 1;       // where rows have to pass: how many to meet at a step, as a share of the links of a row
    size_t expected = 0;  // rows that will be expanded, about; 0: as many as `window`
};

// The k nearest that the graph leads to for each of n queries [n, dim], like `scan`, which does it where few rows pass
// the filter. `effort.window` is at least k, and so is `effort.rerank` unless it is 0. Returns how many rows were expanded
// for a query, on average; 0 when they were scanned.
double walk(const Graph& graph, const float* queries, size_t n, size_t k, const Filter* filter, Effort effort,
          size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores);

}  // namespace rag
