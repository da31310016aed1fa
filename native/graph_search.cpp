#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>

#include "graph.h"
#include "rank.h"
#include "scan.h"
#include "walk.h"

namespace rag {

namespace {

constexpr size_t kTogether = 4;   // walks that take turns on one thread, so that none waits for memory
constexpr size_t kChunk = 64;     // queries that a thread takes at a time
constexpr size_t kFilterEntries = 256;
constexpr size_t kRanked = 2;     // times as many as are wanted are ranked by the finest copy, at least

// Rows that are scanned, for each link of a row, in the time in which a walk expands it: a step of some 500 ns scores most
// of its 32 links, and twice as many where it looks beyond them for rows that pass. A scan takes 5 ns a row with one query,
// and little more than 1 ns with many, since it unpacks a code once for all of them.
constexpr size_t kScannedLinks = 3, kScannedLinksByMany = 12;
constexpr size_t kMany = 16;  // queries

// Whether scanning costs less than walking. Where it costs little more it is still preferred: it misses less.
bool worth_scanning(const Graph& graph, const RowSet& rows, Effort effort, size_t queries) {
    const bool many = queries >= kMany && graph.store().primary().codec->panels();
    const size_t rows_a_link = many ? kScannedLinksByMany : kScannedLinks;
    const size_t step = graph.form().degree * (rows.all() ? 1 : 2) * rows_a_link;
    return rows.size() <= std::max(effort.expected ? effort.expected : effort.window, effort.nearest) * step;
}

// How many of the rows can be walked to.
size_t count_linked(const Graph& graph, const RowSet& rows) {
    if (rows.all()) return graph.linked();
    const auto list = rows.list();
    return std::ranges::lower_bound(list, graph.linked()) - list.begin();
}

// Rows of a filter spread over its first n, where a walk among them begins.
std::vector<uint32_t> spread_entries(const RowSet& rows, size_t n) {
    const size_t step = std::max<size_t>(n / kFilterEntries, 1);
    std::vector<uint32_t> entries;
    for (size_t i = step / 2; i < n; i += step) entries.push_back(rows[i]);
    return entries;
}

// Rows that wait to be linked, as a walk meets them at its end.
struct Alone {
    Alone(const Graph& graph, const RowSet& rows, size_t first) {
        const Tier& tier = graph.store().primary();
        const size_t kept = tier.codec->factors();
        for (size_t i = first; i < rows.size() && rows[i] < graph.known(); ++i) list.push_back(rows[i]);
        if (list.empty()) return;
        codes.reserve(list.size() + kMaxTile);
        factors.resize((list.size() + kMaxTile) * kept);
        for (size_t i = 0; i < list.size(); ++i) {
            codes.push_back(tier.codes[list[i]]);
            if (kept) std::copy_n(tier.factors_of(list[i]), kept, factors.data() + i * kept);
        }
        codes.insert(codes.end(), kMaxTile, codes.back());
    }
    Block block() const { return {codes.data(), factors.data(), list.size()}; }

    std::vector<uint32_t> list;
    std::vector<const std::byte*> codes;
    std::vector<float> factors;
};

// The score of a row that lies where a query does. Under inner product all rows are thought equally long, by a component
// that the query, stretched to the same length, does not have.
float origin(const Graph& graph, const float* query) {
    const VectorStore& store = graph.store();
    if (store.metric() == Metric::l2) return 0;
    if (store.metric() == Metric::cosine) return 1;
    return std::sqrt(graph.longest() * std::inner_product(query, query + store.dim(), query, 0.0));
}

}  // namespace

double walk(const Graph& graph, const float* queries, size_t n, size_t k, const Filter* filter, Effort effort,
          size_t threads, const Interrupt& interrupt, int64_t* ids, float* scores) {
    const VectorStore& store = graph.store();
    const std::vector<float> ready = store.checked_queries(queries, n);
    std::fill_n(ids, n * k, int64_t{-1});
    std::fill_n(scores, n * k, -std::numeric_limits<float>::infinity());

    const std::shared_lock lock(store.mutex());
    const std::shared_ptr<const Selection> selected = filter ? filter->in(store) : store.select();
    const RowSet& rows = selected->rows;
    effort.nearest = std::max(effort.nearest, k);  // all of which a walk expands
    if (worth_scanning(graph, rows, effort, n)) {
        scan_rows(store, rows, ready.data(), n, k, effort.rerank, threads, interrupt, ids, scores);
        return 0;
    }
    const size_t scan_rerank = effort.rerank, fewest = effort.rerank ? effort.rerank : kRanked * k;
    if (effort.rerank == 0) effort.rerank = std::clamp(store.primary().codec->candidates(k), k, std::max(2 * effort.window, k));
    effort.least = effort.expected / 2;
    std::atomic<size_t> expanded = 0;
    const Bitmap* const passing = rows.all() ? nullptr : &selected->passing;
    const size_t linked = count_linked(graph, rows);
    const std::vector<uint32_t> entries = passing ? spread_entries(rows, linked) : std::vector<uint32_t>();
    // Where many pass, those that a row leads to are enough; looking beyond the others would cost more than it finds.
    const double share = static_cast<double>(rows.size()) / static_cast<double>(std::max<size_t>(store.rows(), 1));
    effort.fill = static_cast<float>(std::max(1 - 1.5 * share, 0.25));
    const Alone alone(graph, rows, effort.waiting ? linked : rows.size());
    const Tier& tier = store.primary();
    const Tier& finest = store.finest();

    struct Slot {
        Walk walk;
        size_t query = 0;
        bool busy = false;
    };
    parallel((n + kChunk - 1) / kChunk, threads, interrupt, [&](size_t chunk, size_t) {
        const size_t first = chunk * kChunk, count = std::min(kChunk, n - first);
        const float* own = ready.data() + first * store.dim();
        const auto prepared = tier.codec->prepare(own, count, false);
        const auto exact = store.secondary() ? finest.codec->prepare(own, count, false) : nullptr;
        std::vector<Candidate> found;
        std::vector<float> alone_scores(round_up(alone.list.size(), 64));
        const auto finish = [&](Slot& slot) {
            found.clear();
            if (!alone.list.empty()) slot.walk.meet_alone(alone.list, alone.block(), alone_scores.data());
            const Pool& pool = slot.walk.found();
            expanded += slot.walk.expanded();
            const size_t ranked = std::min({pool.size(), effort.rerank, std::max(slot.walk.near(), fewest)});
            for (size_t i = 0; i < ranked; ++i)
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
        thread_local std::array<Slot, kTogether> slots;
        size_t next = 0, busy = 0;
        do {
            busy = 0;
            for (Slot& slot : slots) {
                if (!slot.busy) {
                    if (next == count) continue;
                    slot.query = next++;
                    const float there = origin(graph, own + slot.query * store.dim());
                    if (passing)
                        slot.walk.start(graph, *prepared, slot.query, effort, there, entries, *passing);
                    else
                        slot.walk.start(graph, *prepared, slot.query, effort, there);
                    slot.busy = true;
                }
                if (!slot.walk.step()) {
                    finish(slot);
                    slot.busy = false;
                }
                ++busy;
            }
        } while (busy);
    });
    // A walk may end on an island, above all among few rows that pass: what exists is found all the same.
    const size_t wanted = std::min(k, rows.size());
    for (size_t q = 0; q < n; ++q)
        if (ids[q * k + wanted - 1] < 0)
            scan_rows(store, rows, ready.data() + q * store.dim(), 1, k, scan_rerank, threads, interrupt, ids + q * k,
                      scores + q * k);
    return n ? static_cast<double>(expanded) / static_cast<double>(n) : 0;
}

}  // namespace rag
