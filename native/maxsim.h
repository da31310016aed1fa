// Late interaction (Khattab and Zaharia, SIGIR 2020): how similar a document is to a query is the sum, over the query's
// tokens, of the inner product with the document's token that fits best (MaxSim, Chamfer similarity).
#pragma once
#include "token_store.h"

namespace rag {

// For each query, ids that may be found: `width` of them, those below 0 being none.
struct CandidateIds {
    const int64_t* ids;
    size_t width;
};

// The k best documents for each query, exactly, out of all or out of the candidates: ids and scores [queries, k], best
// first, filled up with -1 and -infinity. `filter` (ascending): nothing else is found. Locks the store for reading.
void maxsim(const TokenStore& store, const TokenQueries& queries, size_t k, const CandidateIds* candidates,
            std::optional<std::span<const int64_t>> filter, size_t threads, const Interrupt& interrupt, int64_t* ids,
            float* scores);

// Which token of a document fits each of n query tokens best, and how well. NotFoundError. Locks the store as well.
void best_tokens(const TokenStore& store, int64_t id, const float* tokens, size_t n, int64_t* best, float* scores);

}  // namespace rag
