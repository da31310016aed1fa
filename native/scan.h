// Exact search: every vector that passes the filter is scored.
#pragma once
#include "parallel.h"
#include "store.h"

namespace rag {

// The k best for each of n queries [n, dim]: ids and scores [n, k], best first, filled up with -1 and -infinity.
// Locks the store for reading. No filter: nullptr. threads >= 1. Where a first pass is approximate, `rerank` of its best are ranked again;
// 0 leaves their number to the codec.
void scan(const VectorStore& store, const float* queries, size_t n, size_t k,
          const Filter* filter, size_t rerank, size_t threads, const Interrupt& interrupt,
          int64_t* ids, float* scores);

// The same for rows that were selected already, by a caller who holds the lock; `queries` are checked.
void scan_rows(const VectorStore& store, const RowSet& rows, const float* queries, size_t n, size_t k, size_t rerank,
               size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores);

}  // namespace rag
