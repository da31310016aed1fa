// A proximity graph over the rows of a store: every row has links to at most `degree` others, chosen so that a walk
// which always goes on from the best row seen so far ends at a query's neighbours (Vamana: Subramanya et al. 2019).
#pragma once
#include <span>
#include <vector>

#include "parallel.h"
#include "store.h"

namespace rag {

inline constexpr uint32_t kNoRow = ~uint32_t{0};

struct GraphForm {
    size_t degree = 32;  // links of a row, at most
    size_t window = 100;  // rows a walk keeps in sight while the graph is built
    float alpha = 1.2f;   // links that another one makes needless may fill free places up to this factor of distance
    size_t passes = 1;    // how often the first rows look for their neighbours
    uint64_t seed = 0;    // of the order in which rows are linked
};

class Graph {
public:
    Graph(const VectorStore& store, const GraphForm& form) : store_(store), form_(form), room_(form.degree) {}

    const VectorStore& store() const { return store_; }
    const GraphForm& form() const { return form_; }
    size_t size() const { return rows_; }  // the first rows of the store: those that have a place here
    size_t room() const { return room_; }  // links that a row has a place for

    // The links of a row; kNoRow ends them where there are fewer than `room`.
    const uint32_t* links(size_t row) const { return links() + row * room_; }
    std::span<const uint32_t> entries() const { return entries_; }  // where walks begin

    // Links the rows that wait and those that the store has beyond `size`, except for `hold_back` of them, which wait:
    // until then they are queries that the graph has not seen. Locks the store: for reading while it looks for neighbours, for
    // writing while it stores what it found. The result does not depend on the number of threads. Rows that were not
    // linked when it was interrupted are never found.
    void grow(size_t hold_back, size_t threads, const Interrupt& interrupt);
    std::span<const uint32_t> waiting() const { return waiting_; }
    // Leads links around rows that are deleted in the store.
    void consolidate(size_t threads, const Interrupt& interrupt);

    // Takes over links that `bytes` gave, for the rows that the store has.
    void attach(std::span<const std::byte> bytes, double longest, const std::shared_ptr<void>& owner);
    double longest() const { return longest_; }  // squared length of the longest vector, under inner product
    std::span<const std::byte> bytes() const { return {reinterpret_cast<const std::byte*>(links()), row_bytes() * rows_}; }
    size_t row_bytes() const { return room_ * sizeof(uint32_t); }

private:
    friend class GraphBuilder;

    const uint32_t* links() const { return foreign_ ? foreign_ : reinterpret_cast<const uint32_t*>(own_.data()); }
    uint32_t* own_links() { return reinterpret_cast<uint32_t*>(own_.data()); }
    void extend(size_t rows, size_t room);  // for writing; new places are empty
    void enter(uint32_t row);               // perhaps among the entries

    const VectorStore& store_;
    GraphForm form_;
    size_t rows_ = 0, room_;
    double longest_ = 0;
    const uint32_t* foreign_ = nullptr;  // mapped from a file, until something is to be changed
    std::shared_ptr<void> owner_;
    Buffer own_;
    size_t entry_step_ = 1;
    std::vector<uint32_t> entries_, waiting_;
};

struct Effort {
    size_t window;  // rows that are expanded, at least
    size_t rerank;  // rows that are ranked by the finest copy; 0: as many as suit codec and window
};

// The k nearest that the graph leads to for each of n queries [n, dim], like `scan`, which does it where few rows pass
// the filter. `effort.window` is at least k, and so is `effort.rerank` unless it is 0.
void walk(const Graph& graph, const float* queries, size_t n, size_t k, const Filter* filter, Effort effort,
          size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores);

}  // namespace rag
