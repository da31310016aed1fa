#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>

#include "graph.h"
#include "rank.h"
#include "walk.h"

namespace rag {

namespace {

constexpr size_t kTogether = 4;   // walks that take turns on one thread, so that none waits for memory
constexpr size_t kChunk = 64;     // queries that a thread takes at a time
constexpr size_t kFilterEntries = 256;

// Rows of a filter spread over it, where a walk among them begins.
std::vector<uint32_t> spread_entries(const RowSet& rows) {
    const size_t step = std::max<size_t>(rows.size() / kFilterEntries, 1);
    std::vector<uint32_t> entries;
    for (size_t i = step / 2; i < rows.size(); i += step) entries.push_back(rows[i]);
    return entries;
}

}  // namespace

void walk(const Graph& graph, const float* queries, size_t n, size_t k, std::optional<std::span<const int64_t>> filter,
          Effort effort, size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores) {
    const VectorStore& store = graph.store();
    const std::vector<float> ready = store.checked_queries(queries, n);
    std::fill_n(ids, n * k, int64_t{-1});
    std::fill_n(scores, n * k, -std::numeric_limits<float>::infinity());

    const std::shared_lock lock(store.mutex());
    const RowSet rows = store.select(filter);
    if (rows.size() == 0 || graph.size() == 0) return;
    std::optional<Bitmap> passing;
    std::vector<uint32_t> among;
    if (!rows.all()) {
        passing.emplace(store.rows());
        for (size_t i = 0; i < rows.size(); ++i) passing->set(rows[i]);
        among = spread_entries(rows);
    }
    const std::span<const uint32_t> entries = rows.all() ? graph.entries() : std::span<const uint32_t>(among);
    const Tier& tier = store.primary();
    const Tier& finest = store.finest();

    struct Slot {
        std::unique_ptr<Walk> walk;
        size_t query = 0;
        bool busy = false;
    };
    std::vector<std::vector<Slot>> slots(threads);
    parallel((n + kChunk - 1) / kChunk, threads, interrupt, [&](size_t chunk, size_t thread) {
        const size_t first = chunk * kChunk, count = std::min(kChunk, n - first);
        const float* own = ready.data() + first * store.dim();
        const auto prepared = tier.codec->prepare(own, count, false);
        const auto exact = store.secondary() ? finest.codec->prepare(own, count, false) : nullptr;
        std::vector<Candidate> found;
        const auto finish = [&](const Slot& slot) {
            found.clear();
            const Pool& pool = slot.walk->found();
            for (size_t i = 0; i < std::min(pool.size(), effort.rerank); ++i)
                found.push_back({pool.score(i), pool.row(i), store.ids()[pool.row(i)]});
            if (exact)
                rescore(finest, *exact, slot.query, found);
            else
                std::sort(found.begin(), found.end(), better);
            for (size_t i = 0; i < std::min(k, found.size()); ++i) {
                ids[(first + slot.query) * k + i] = found[i].id;
                scores[(first + slot.query) * k + i] = found[i].score;
            }
        };
        std::vector<Slot>& mine = slots[thread];
        mine.resize(std::max(mine.size(), std::min(kTogether, count)));
        size_t next = 0, busy = 0;
        do {
            busy = 0;
            for (Slot& slot : mine) {
                if (!slot.busy) {
                    if (next == count) continue;
                    if (!slot.walk) slot.walk = std::make_unique<Walk>(graph, tier);
                    slot.query = next++;
                    slot.walk->start(*prepared, slot.query, entries, effort, passing ? &*passing : nullptr);
                    slot.busy = true;
                }
                if (!slot.walk->step()) {
                    finish(slot);
                    slot.busy = false;
                }
                ++busy;
            }
        } while (busy);
    });
}

}  // namespace rag
