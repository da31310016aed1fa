// BM25 over inverted indexes: term at a time within windows of rows that fit the cache.
#include "postings.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

namespace nb = nanobind;

namespace rag {
namespace {

constexpr uint32_t kWindow = 1 << 14;  // rows: 64 KiB of accumulators

// A set of rows.
class RowSet {
public:
    explicit RowSet(size_t rows) : words_((rows + 63) / 64, 0) {}
    void add(size_t row) { words_[row / 64] |= uint64_t(1) << (row % 64); }
    void remove(size_t row) { words_[row / 64] &= ~(uint64_t(1) << (row % 64)); }
    bool has(size_t row) const { return words_[row / 64] >> (row % 64) & 1; }

private:
    std::vector<uint64_t> words_;
};

// Calls `use(row)` for each row whose id is among `wanted` (ascending).
template <class Use>
void for_rows_of(const Postings& segment, const Column<int64_t>& wanted, Use&& use) {
    const int64_t* ids = segment.ids.data();
    const int64_t* end = ids + segment.size();
    const int64_t* at = ids;
    if (at == end) return;
    const int64_t* last = wanted.data() + wanted.shape(0);
    for (const int64_t* w = std::lower_bound(wanted.data(), last, *ids); w < last && at < end; ++w) {
        if (*at < *w) {  // gallop: the wanted ids may be few or many
            size_t step = 1;
            while (at + step < end && at[step] < *w) step *= 2;
            at = std::lower_bound(at + step / 2, std::min(at + step + 1, end), *w);
        }
        if (at < end && *at == *w) use(size_t(at - ids));
    }
}

struct Found {
    float score;
    int64_t id;
    bool better_than(const Found& other) const { return score > other.score || (score == other.score && id < other.id); }
};

// The k best so far.
class Best {
public:
    explicit Best(size_t k) : k_(k) { heap_.reserve(std::min<size_t>(k, 1024)); }

    // Nothing below this score can enter.
    float threshold() const { return heap_.size() < k_ ? 0.0f : heap_.front().score; }

    void offer(const Found& found) {
        const auto worst_first = [](const Found& a, const Found& b) { return a.better_than(b); };
        if (heap_.size() < k_) {
            heap_.push_back(found);
            std::push_heap(heap_.begin(), heap_.end(), worst_first);
        } else if (found.better_than(heap_.front())) {
            std::pop_heap(heap_.begin(), heap_.end(), worst_first);
            heap_.back() = found;
            std::push_heap(heap_.begin(), heap_.end(), worst_first);
        }
    }

    const std::vector<Found>& sorted() {
        std::sort(heap_.begin(), heap_.end(), [](const Found& a, const Found& b) { return a.better_than(b); });
        return heap_;
    }

private:
    size_t k_;
    std::vector<Found> heap_;
};

// What a term contributes to a row: weight * tf / (tf + base + slope * length).
struct Saturation {
    float base;
    float slope;
};

struct Cursor {
    const uint32_t* rows;  // from the next posting to the last
    uint64_t position;     // of that posting among all
    uint64_t left;
    float weight;
};

// Adds the contributions of the rows below `limit` to sums[row - base]; returns how many there were.
template <class Count>
size_t accumulate(Cursor& cursor, const Count* counts, const uint32_t* lengths, Saturation saturation, uint32_t base,
                  uint32_t limit, float* sums) {
    constexpr size_t kBlock = 128;
    float value[kBlock];
    size_t total = 0;
    while (cursor.left > 0) {
        size_t n = std::min<size_t>(kBlock, cursor.left);
        const bool last = cursor.rows[n - 1] >= limit;
        if (last) n = size_t(std::lower_bound(cursor.rows, cursor.rows + n, limit) - cursor.rows);
        const Count* count = counts + cursor.position;
        for (size_t i = 0; i < n; ++i) value[i] = float(lengths[cursor.rows[i]]);
        for (size_t i = 0; i < n; ++i) {
            const float tf = float(count[i]);
            value[i] = cursor.weight * tf / (tf + saturation.base + saturation.slope * value[i]);
        }
        for (size_t i = 0; i < n; ++i) sums[cursor.rows[i] - base] += value[i];
        cursor.rows += n;
        cursor.position += n;
        cursor.left -= n;
        total += n;
        if (last) break;
    }
    return total;
}

struct Segment {
    const Postings* postings;
    std::optional<RowSet> allowed;  // absent: every row
};

// Offers every row of one segment that holds a term of the query. `sums` is all zero before and after.
void search_segment(const Segment& segment, std::vector<Cursor>& cursors, Saturation saturation,
                    std::vector<float>& sums, Best& best) {
    const Postings& postings = *segment.postings;
    const int64_t* ids = postings.ids.data();
    const size_t size = postings.size();
    const auto offer = [&](uint32_t row, float score) {
        if (score >= best.threshold() && (!segment.allowed || segment.allowed->has(row))) best.offer({score, ids[row]});
    };
    std::vector<const uint32_t*> starts(cursors.size());
    while (true) {
        uint32_t nearest = std::numeric_limits<uint32_t>::max();
        for (const Cursor& c : cursors)
            if (c.left > 0) nearest = std::min(nearest, c.rows[0]);
        if (nearest == std::numeric_limits<uint32_t>::max()) return;
        const uint32_t base = nearest / kWindow * kWindow;
        const uint32_t limit = uint32_t(std::min<size_t>(size_t(base) + kWindow, size));
        size_t postings_here = 0;
        for (size_t i = 0; i < cursors.size(); ++i) {
            starts[i] = cursors[i].rows;
            postings_here += postings.with_counts([&](const auto* counts) {
                return accumulate(cursors[i], counts, postings.lengths.data(), saturation, base, limit, sums.data());
            });
        }
        if (postings_here * 8 < kWindow) {  // few: visit them again
            for (size_t i = 0; i < cursors.size(); ++i) {
                for (const uint32_t* row = starts[i]; row < cursors[i].rows; ++row) {
                    float& sum = sums[*row - base];
                    if (sum > 0) offer(*row, sum);
                    sum = 0;
                }
            }
        } else {  // many: sweep the window
            constexpr uint32_t kStep = 16;
            for (uint32_t from = 0; from < limit - base; from += kStep) {
                const float threshold = std::max(best.threshold(), std::numeric_limits<float>::min());
                float* sum = sums.data() + from;
                int any = 0;
                for (uint32_t i = 0; i < kStep; ++i) any |= sum[i] >= threshold;
                if (any) {
                    for (uint32_t i = 0; i < kStep; ++i)
                        if (sum[i] > 0) offer(base + from + i, sum[i]);
                }
            }
            std::fill(sums.begin(), sums.begin() + (limit - base), 0.0f);
        }
    }
}

nb::tuple search(const std::vector<const Postings*>& indexes, const std::vector<nb::bytes>& terms,
                 Column<uint32_t> query_terms, Column<int64_t> query_offsets, size_t k,
                 std::optional<Column<int64_t>> filter, Column<int64_t> deleted, double k1, double b, size_t threads) {
    const size_t queries = query_offsets.shape(0) - 1;
    std::vector<int64_t> ids(queries * k, -1);
    std::vector<float> scores(queries * k, -std::numeric_limits<float>::infinity());
    {
        std::vector<std::string_view> spelled;
        for (const nb::bytes& term : terms) spelled.emplace_back(term.c_str(), term.size());
        nb::gil_scoped_release released;

        // Statistics over all segments, without the deleted rows.
        std::vector<Segment> segments;
        std::vector<std::vector<Cursor>> cursors(indexes.size());  // [segment][term]
        std::vector<double> frequency(terms.size(), 0);
        double documents = 0, length = 0;
        for (size_t s = 0; s < indexes.size(); ++s) {
            const Postings& postings = *indexes[s];
            Segment segment{&postings, std::nullopt};
            std::optional<RowSet> gone;
            documents += double(postings.size());
            length += double(postings.total_length);
            for_rows_of(postings, deleted, [&](size_t row) {
                if (!gone) gone.emplace(postings.size());
                gone->add(row);
                documents -= 1;
                length -= postings.lengths.data()[row];
            });
            for (size_t t = 0; t < terms.size(); ++t) {
                Cursor cursor{nullptr, 0, 0, 0};
                if (const auto term = postings.find(spelled[t])) {
                    cursor.position = postings.posting_offsets.data()[*term];
                    cursor.left = postings.posting_offsets.data()[*term + 1] - cursor.position;
                    cursor.rows = postings.rows.data() + cursor.position;
                    frequency[t] += double(cursor.left);
                    if (gone)
                        frequency[t] -= double(std::count_if(cursor.rows, cursor.rows + cursor.left,
                                                             [&](uint32_t row) { return gone->has(row); }));
                }
                cursors[s].push_back(cursor);
            }
            if (filter) {
                segment.allowed.emplace(postings.size());
                for_rows_of(postings, *filter, [&](size_t row) { segment.allowed->add(row); });
                for_rows_of(postings, deleted, [&](size_t row) { segment.allowed->remove(row); });
            } else if (gone) {
                segment.allowed.emplace(postings.size());
                for (size_t row = 0; row < postings.size(); ++row)
                    if (!gone->has(row)) segment.allowed->add(row);
            }
            segments.push_back(std::move(segment));
        }
        const double average = documents > 0 && length > 0 ? length / documents : 1.0;
        const Saturation saturation{float(k1 * (1 - b)), float(k1 * b / average)};

        std::atomic<size_t> next{0};
        const auto work = [&] {
            std::vector<float> sums(kWindow, 0.0f);
            std::vector<uint32_t> distinct;
            std::vector<Cursor> here;
            for (size_t q = next++; q < queries; q = next++) {
                const uint32_t* from = query_terms.data() + query_offsets.data()[q];
                const uint32_t* to = query_terms.data() + query_offsets.data()[q + 1];
                distinct.assign(from, to);
                std::sort(distinct.begin(), distinct.end());
                distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
                Best best(k);
                for (size_t s = 0; s < segments.size(); ++s) {
                    here.clear();
                    for (uint32_t t : distinct) {
                        Cursor cursor = cursors[s][t];
                        if (cursor.left == 0) continue;
                        // A term named twice in the query counts twice.
                        const double idf = std::log1p((documents - frequency[t] + 0.5) / (frequency[t] + 0.5));
                        cursor.weight = float(idf * double(std::count(from, to, t)));
                        here.push_back(cursor);
                    }
                    if (!here.empty()) search_segment(segments[s], here, saturation, sums, best);
                }
                size_t place = q * k;
                for (const Found& found : best.sorted()) {
                    ids[place] = found.id;
                    scores[place++] = found.score;
                }
            }
        };
        if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
        std::vector<std::thread> helpers;
        for (size_t i = 1; i < std::min(threads, queries); ++i) helpers.emplace_back(work);
        work();
        for (std::thread& helper : helpers) helper.join();
    }
    return nb::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(scores)));
}

// Checks what the search relies on, so that no file, however made, leads it out of its arrays.
void init(Postings* self, Column<int64_t> ids, Column<uint32_t> lengths, Column<uint8_t> spelling,
          Column<uint64_t> term_offsets, Column<uint64_t> posting_offsets, Column<uint32_t> rows, nb::handle counts) {
    using Counts = decltype(Postings::counts);
    Counts typed = nb::cast<Counts>(counts);
    const auto covers = [](const Column<uint64_t>& offsets, size_t total) {
        const uint64_t* begin = offsets.data();
        const uint64_t* end = begin + offsets.shape(0);
        return begin != end && *begin == 0 && end[-1] == total && std::is_sorted(begin, end);
    };
    const size_t size = ids.shape(0), postings = rows.shape(0);
    const bool unsigned_counts = typed.dtype().code == uint8_t(nb::dlpack::dtype_code::UInt) &&
                                 (typed.itemsize() == 1 || typed.itemsize() == 2 || typed.itemsize() == 4);
    if (lengths.shape(0) != size) throw std::invalid_argument("lengths and ids differ in number");
    if (size >= std::numeric_limits<uint32_t>::max()) throw std::invalid_argument("too many rows for one index");
    if (std::adjacent_find(ids.data(), ids.data() + size, std::greater_equal<>()) != ids.data() + size)
        throw std::invalid_argument("ids are not ascending");
    if (term_offsets.shape(0) != posting_offsets.shape(0) || !covers(term_offsets, spelling.shape(0)) ||
        !covers(posting_offsets, postings))
        throw std::invalid_argument("offsets do not cover terms and postings");
    if (!unsigned_counts || typed.shape(0) != postings) throw std::invalid_argument("counts and rows differ in number");
    if (std::any_of(rows.data(), rows.data() + postings, [&](uint32_t row) { return row >= size; }))
        throw std::invalid_argument("a posting names a row that does not exist");
    for (size_t t = 0; t + 1 < posting_offsets.shape(0); ++t) {
        const uint32_t* from = rows.data() + posting_offsets.data()[t];
        const uint32_t* to = rows.data() + posting_offsets.data()[t + 1];
        if (std::adjacent_find(from, to, std::greater_equal<>()) != to)
            throw std::invalid_argument("the postings of a term are not ascending");
    }
    uint64_t total = 0;
    for (size_t row = 0; row < size; ++row) total += lengths.data()[row];
    new (self) Postings{ids, lengths, spelling, term_offsets, posting_offsets, rows, typed, total};
}

}  // namespace

void bind_postings_search(nb::module_& m) {
    nb::class_<Postings>(m, "Postings")
        .def("__init__", &init, nb::arg("ids"), nb::arg("lengths"), nb::arg("spelling"), nb::arg("term_offsets"),
             nb::arg("posting_offsets"), nb::arg("rows"), nb::arg("counts"));
    m.def("search_postings", &search, nb::arg("segments"), nb::arg("terms"), nb::arg("query_terms"),
          nb::arg("query_offsets"), nb::arg("k"), nb::arg("filter").none(), nb::arg("deleted"), nb::arg("k1"),
          nb::arg("b"), nb::arg("threads"));
}

}  // namespace rag
