#include "rank.h"

#include <algorithm>

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
    for (size_t i = 0; i < found.size(); ++i) found[i].score = scores[i];
    std::sort(found.begin(), found.end(), better);
}

}  // namespace rag
