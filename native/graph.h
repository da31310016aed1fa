// A proximity graph over the rows of a store: every row has links to at most `degree` others, chosen so that a walk
// which always goes on from the best row seen so far ends at a query's neighbours (Vamana: Subramanya et al. 2019).
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "parallel.h"
#include "store.h"

namespace rag {

inline constexpr uint32_t kNoRow = ~uint32_t{0};

struct GraphForm {
    size_t degree = 32;   // links of a row, at most
    size_t window = 64;   // rows a walk keeps in sight while the graph is built
    float alpha = 1.2f;   // how much nearer (as a factor of distance) a kept link must be to make another needless
};

class Graph {
public:
    Graph(const VectorStore& store, const GraphForm& form);

    const VectorStore& store() const { return store_; }
    const GraphForm& form() const { return form_; }
    size_t size() const { return rows_; }  // rows that are linked: the first ones of the store

    // The links of a row; kNoRow ends them where there are fewer than `degree`.
    const uint32_t* links(size_t row) const { return links() + row * form_.degree; }
    std::span<const uint32_t> entries() const { return entries_; }  // where walks begin

    // Links the rows that the store has beyond `size`. Locks the store: for reading while it looks for neighbours, for
    // writing while it stores what it found. The result does not depend on the number of threads. When it is
    // interrupted, the rows that were not linked yet stay out.
    void grow(size_t threads, const Interrupt& interrupt);
    // Finds new links for all rows once more, now that all of them are there.
    void refine(size_t threads, const Interrupt& interrupt);
    // Leads links around rows that are deleted in the store.
    void consolidate(size_t threads, const Interrupt& interrupt);

    void attach(std::span<const std::byte> bytes, const std::shared_ptr<void>& owner);
    std::span<const std::byte> bytes() const { return {reinterpret_cast<const std::byte*>(links()), row_bytes() * rows_}; }
    size_t row_bytes() const { return form_.degree * sizeof(uint32_t); }

private:
    friend class GraphBuilder;

    const uint32_t* links() const { return foreign_ ? foreign_ : reinterpret_cast<const uint32_t*>(own_.data()); }
    uint32_t* own_links(size_t rows);  // writable, with room for so many
    void choose_entries();

    const VectorStore& store_;
    GraphForm form_;
    size_t rows_ = 0;
    double longest_ = 0;  // squared length of the longest vector, under inner product
    const uint32_t* foreign_ = nullptr;  // mapped from a file, until something is to be changed
    std::shared_ptr<void> owner_;
    Buffer own_;
    size_t entry_step_ = 1;
    std::vector<uint32_t> entries_;
};

struct Effort {
    size_t window;  // rows that are expanded, at least
    size_t rerank;  // rows that are ranked by the finest copy
};

// The k nearest that the graph leads to for each of n queries [n, dim], like `scan`; rows that do not pass the filter
// are walked around. `effort.window` and `effort.rerank` are at least k.
void walk(const Graph& graph, const float* queries, size_t n, size_t k, std::optional<std::span<const int64_t>> filter,
          Effort effort, size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores);

}  // namespace rag
