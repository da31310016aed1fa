#include "rank.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rag {

void rescore(const Tier& tier, const Queries& prepared, size_t query, std::vector<Candidate>& found) {
    const size_t kept = tier.codec->factors();
    std::vector<const std::byte*> rows(found.size() + kMaxTile, tier.codes[0]);
    std::vector<float> factors(rows.size() * kept), scores(found.size());
    for (size_t i = 0; i < found.size(); ++i) {
        rows[i] = tier.codes[found[i].row];
        if (kept) std::copy_n(tier.factors_of(found[i].row), kept, factors.data() + i * kept);
    }
    prepared.rows(query, {rows.data(), factors.data(), found.size()}, scores.data());
    // NaN, which only a forged file leads to, has no place in an order; it comes last.
    for (size_t i = 0; i < found.size(); ++i)
        found[i].score = std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i];
    std::sort(found.begin(), found.end(), better);
}

}  // namespace rag
