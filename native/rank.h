// The final ranking of candidates by the finest copy of their vectors.
#pragma once
#include <vector>

#include "store.h"
#include "topk.h"

namespace rag {

// Gives candidates the score of this tier, best first. Each pair is scored alone, so that its score depends on nothing
// but the pair.
void rescore(const Tier& tier, const Queries& prepared, size_t query, std::vector<Candidate>& found);

}  // namespace rag
