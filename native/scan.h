// Exact search: every vector that passes the filter is scored.
#pragma once
#include <optional>
#include <span>

#include "parallel.h"
#include "store.h"

namespace rag {

// The k best for each of n queries [n, dim]: ids and scores [n, k], best first, filled up with -1 and -infinity.
// Locks the store for reading. threads >= 1. Where a first pass is approximate, `rerank` of its best are ranked again;
// 0 leaves their number to the codec.
void scan(const VectorStore& store, const float* queries, size_t n, size_t k,
          std::optional<std::span<const int64_t>> filter, size_t rerank, size_t threads, const Interrupt& interrupt,
          int64_t* ids, float* scores);

}  // namespace rag
