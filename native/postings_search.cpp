// BM25 over inverted indexes: MaxScore, term at a time within windows of rows that fit the cache.
#include "postings.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <thread>

#include "bitmap.h"
#include "parallel.h"
#include "topk.h"

namespace nb = nanobind;

namespace rag {
namespace {

constexpr uint32_t kWindow = 1 << 12;  // rows: 16 KiB of sums

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

// A term adds weight * count / (count + base + slope * length) to the score of a row.
struct Saturation {
    float base;
    float slope;

    float part(float weight, uint32_t count, uint32_t length) const {
        return weight * float(count) / (float(count) + base + slope * float(length));
    }
};

// A query term in one segment: the postings not yet passed.
struct Cursor {
    const uint32_t* rows;
    uint64_t position;  // of rows[0] among all postings
    uint64_t left;
    float weight;
    float bound;  // of its part of a score
    uint32_t largest_count;
    uint32_t least_length;

    void skip(uint64_t n) {
        rows += n;
        position += n;
        left -= n;
    }
    // Skips the rows before `row`, galloping.
    void seek(uint32_t row) {
        if (left == 0 || rows[0] >= row) return;
        uint64_t step = 1;
        while (step < left && rows[step] < row) step *= 2;
        skip(uint64_t(std::lower_bound(rows + step / 2, rows + std::min(step + 1, left), row) - rows));
    }
};

struct Segment {
    const Postings* postings;
    std::optional<Bitmap> filter;  // absent: every row
    std::optional<Bitmap> gone;    // deleted rows
    std::vector<Cursor> terms;     // of all queries; none left where a term does not occur
};

// A row of the window with what it has so far.
struct Partial {
    uint32_t row;
    float sum;
};

// What a thread works in, from query to query.
struct Scratch {
    std::vector<float> sums = std::vector<float>(kWindow, 0.0f);  // by row of the window; zero between windows
    std::vector<Partial> candidates = std::vector<Partial>(kWindow + 1);
    std::vector<float> remaining;        // [i]: bound of what terms i and later add together
    std::vector<const uint32_t*> starts;  // [i]: the first posting of term i in the window
};

// The search of one query in one segment: MaxScore (Turtle and Flood 1995) over windows of rows. Terms come with the
// heaviest first; while the light ones at the end cannot lift a row into the best k by themselves, rows are found by
// the others only ("essential" ones) and the light terms are looked up for those that may still get there.
class Search {
public:
    Search(const Segment& segment, Saturation saturation, Scratch& scratch)
        : segment_(segment), saturation_(saturation), sums_(scratch.sums.data()),
          candidates_(scratch.candidates.data()), remaining_(scratch.remaining), starts_(scratch.starts) {}

    template <class Count>
    void run(const Count* counts, std::vector<Cursor>& terms, TopK& best) {
        remaining_.assign(terms.size() + 1, 0.0f);
        for (size_t i = terms.size(); i-- > 0;) remaining_[i] = remaining_[i + 1] + terms[i].bound;
        while (true) {
            const float threshold = best.threshold() * kRounding;
            const size_t essential = essential_terms(terms, threshold);
            uint32_t base = std::numeric_limits<uint32_t>::max();
            for (size_t i = 0; i < essential; ++i)
                if (terms[i].left > 0) base = std::min(base, terms[i].rows[0]);
            if (base == std::numeric_limits<uint32_t>::max()) return;

            starts_.clear();
            size_t visited = 0;
            for (size_t i = 0; i < essential; ++i) {
                starts_.push_back(terms[i].rows);
                accumulate(terms[i], counts, base);
                visited += size_t(terms[i].rows - starts_[i]);
            }
            const float needed = std::max(threshold - remaining_[essential], std::numeric_limits<float>::min());
            taken_ = 0;
            if (visited * 32 < kWindow) revisit(terms, essential, base, needed);
            else sweep(base, needed);

            for (size_t i = essential; i < terms.size(); ++i) {
                keep_if([&](const Partial& c) { return c.sum + remaining_[i] >= threshold; });
                for (Partial& c : candidates()) {
                    terms[i].seek(c.row);
                    if (terms[i].left == 0) break;
                    if (terms[i].rows[0] == c.row)
                        c.sum += saturation_.part(terms[i].weight, counts[terms[i].position], length(c.row));
                }
            }
            for (const Partial& c : candidates())
                if (c.sum >= best.threshold()) best.push({c.sum, c.row, segment_.postings->ids.data()[c.row]});
        }
    }

private:
    // Bounds are summed in another order than scores are: what may tie must not be lost to rounding.
    static constexpr float kRounding = 1.0f - 1e-5f;

    // How many terms to walk through. To look a posting up costs many times what it costs to pass it, so the light
    // terms are walked through as well unless their postings are by far the most.
    size_t essential_terms(const std::vector<Cursor>& terms, float threshold) const {
        constexpr uint64_t kLookUp = 16;
        size_t essential = terms.size();
        while (essential > 0 && remaining_[essential - 1] < threshold) --essential;
        uint64_t walked = 0, saved = 0;
        for (size_t i = 0; i < terms.size(); ++i) (i < essential ? walked : saved) += terms[i].left;
        return walked > 0 && saved < kLookUp * walked ? terms.size() : essential;
    }

    uint32_t length(uint32_t row) const { return segment_.postings->lengths.data()[row]; }

    // Adds the parts of a term to the rows of a window.
    template <class Count>
    void accumulate(Cursor& term, const Count* counts, uint32_t base) {
        constexpr size_t kBlock = 64;
        int32_t lengths[kBlock];
        float parts[kBlock];
        const uint32_t limit = base + std::min(kWindow, std::numeric_limits<uint32_t>::max() - base);
        bool more = true;
        while (more && term.left > 0) {
            size_t n = std::min<size_t>(kBlock, term.left);
            if (term.rows[n - 1] >= limit) {
                n = size_t(std::lower_bound(term.rows, term.rows + n, limit) - term.rows);
                more = false;
            }
            const Count* count = counts + term.position;
            for (size_t i = 0; i < n; ++i) lengths[i] = int32_t(length(term.rows[i]));
            for (size_t i = 0; i < n; ++i) {
                const float tf = float(int32_t(count[i]));
                parts[i] = term.weight * tf / (tf + saturation_.base + saturation_.slope * float(lengths[i]));
            }
            for (size_t i = 0; i < n; ++i) sums_[term.rows[i] - base] += parts[i];
            term.skip(n);
        }
    }

    std::span<Partial> candidates() { return {candidates_, taken_}; }

    template <class Keep>
    void keep_if(Keep keep) {
        const auto drop = [&](const Partial& c) { return !keep(c); };
        taken_ = size_t(std::remove_if(candidates_, candidates_ + taken_, drop) - candidates_);
    }

    // Appends a row that may get there; without a branch, for which rows these are cannot be foreseen.
    void take(uint32_t row, float sum, float needed) {
        candidates_[taken_] = {row, sum};
        taken_ += sum >= needed;
    }

    void keep_allowed() {
        if (segment_.filter) keep_if([&](const Partial& c) { return (*segment_.filter)[c.row]; });
        if (segment_.gone) keep_if([&](const Partial& c) { return !(*segment_.gone)[c.row]; });
    }

    // Candidates from the postings just passed, where those are few.
    void revisit(const std::vector<Cursor>& terms, size_t essential, uint32_t base, float needed) {
        for (size_t i = 0; i < essential; ++i) {
            for (const uint32_t* row = starts_[i]; row < terms[i].rows; ++row) {
                take(*row, sums_[*row - base], needed);
                sums_[*row - base] = 0;
            }
        }
        keep_allowed();
        if (essential > 1 && essential < terms.size())  // the other terms are looked up in the order of rows
            std::sort(candidates_, candidates_ + taken_,
                      [](const Partial& a, const Partial& b) { return a.row < b.row; });
    }

    // Candidates from the sums, where most of them are used.
    void sweep(uint32_t base, float needed) {
        constexpr uint32_t kStep = 64;
        const int32_t bound = std::bit_cast<int32_t>(needed);  // floats above zero compare as their bits do
        for (uint32_t from = 0; from < kWindow; from += kStep) {
            std::array<int32_t, kStep> bits;
            std::memcpy(bits.data(), sums_ + from, sizeof bits);
            int32_t any = 0;
            for (uint32_t i = 0; i < kStep; ++i) any |= bound - 1 - bits[i];  // below zero where it is reached
            if (any < 0)
                for (uint32_t i = 0; i < kStep; ++i) take(base + from + i, sums_[from + i], needed);
        }
        std::fill(sums_, sums_ + kWindow, 0.0f);
        keep_allowed();
    }

    const Segment& segment_;
    Saturation saturation_;
    float* sums_;
    Partial* candidates_;
    size_t taken_ = 0;
    std::vector<float>& remaining_;
    std::vector<const uint32_t*>& starts_;
};

// The segments of one search, with statistics over all of them but without the deleted rows.
struct Corpus {
    std::vector<Segment> segments;
    std::vector<double> frequency;  // documents that hold a term
    double documents = 0;
    double length = 0;

    explicit Corpus(size_t terms) : frequency(terms, 0) {}

    void add(const Postings& postings, const std::vector<std::string_view>& terms,
             const std::optional<Column<int64_t>>& filter, const Column<int64_t>& deleted) {
        Segment segment{&postings, std::nullopt, std::nullopt, {}};
        documents += double(postings.size());
        length += double(postings.total_length);
        for_rows_of(postings, deleted, [&](size_t row) {
            if (!segment.gone) segment.gone.emplace(postings.size());
            segment.gone->set(row);
            documents -= 1;
            length -= postings.lengths.data()[row];
        });
        if (filter) {
            segment.filter.emplace(postings.size());
            for_rows_of(postings, *filter, [&](size_t row) { segment.filter->set(row); });
        }
        for (size_t t = 0; t < terms.size(); ++t) {
            Cursor cursor{};
            if (const auto term = postings.find(terms[t])) {
                cursor.position = postings.posting_offsets.data()[*term];
                cursor.left = postings.posting_offsets.data()[*term + 1] - cursor.position;
                cursor.rows = postings.rows.data() + cursor.position;
                cursor.largest_count = postings.largest_count[*term];
                cursor.least_length = postings.least_length[*term];
                const auto is_gone = [&](uint32_t row) { return (*segment.gone)[row]; };
                frequency[t] += double(cursor.left);
                if (segment.gone) frequency[t] -= double(std::count_if(cursor.rows, cursor.rows + cursor.left, is_gone));
            }
            segment.terms.push_back(cursor);
        }
        segments.push_back(std::move(segment));
    }

    double idf(size_t term) const {
        return std::log1p((documents - frequency[term] + 0.5) / (frequency[term] + 0.5));
    }
};

// The weight of each distinct term of a query, heaviest first; a term named twice counts twice.
std::vector<std::pair<float, uint32_t>> weighted(const Corpus& corpus, std::vector<uint32_t> terms) {
    std::vector<std::pair<float, uint32_t>> out;
    std::sort(terms.begin(), terms.end());
    for (auto from = terms.begin(); from != terms.end();) {
        const auto to = std::upper_bound(from, terms.end(), *from);
        out.emplace_back(float(corpus.idf(*from) * double(to - from)), *from);
        from = to;
    }
    std::sort(out.begin(), out.end(), std::greater<>());
    return out;
}

nb::tuple search(const std::vector<const Postings*>& indexes, const std::vector<nb::bytes>& terms,
                 Column<uint32_t> query_terms, Column<int64_t> query_offsets, size_t k,
                 std::optional<Column<int64_t>> filter, Column<int64_t> deleted, double k1, double b, size_t threads) {
    const size_t queries = query_offsets.shape(0) - 1;
    std::vector<int64_t> ids(queries * k, -1);
    std::vector<float> scores(queries * k, -std::numeric_limits<float>::infinity());
    std::vector<std::string_view> spelled;
    for (const nb::bytes& term : terms) spelled.emplace_back(term.c_str(), term.size());
    {
        nb::gil_scoped_release released;
        Corpus corpus(terms.size());
        for (const Postings* postings : indexes) corpus.add(*postings, spelled, filter, deleted);
        const double average = corpus.documents > 0 && corpus.length > 0 ? corpus.length / corpus.documents : 1.0;
        const Saturation saturation{float(k1 * (1 - b)), float(k1 * b / average)};

        if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
        std::vector<Scratch> scratch(std::max<size_t>(std::min(threads, queries), 1));
        const auto check_signals = [] {
            const nb::gil_scoped_acquire gil;
            if (PyErr_CheckSignals()) throw nb::python_error();
        };
        parallel(queries, threads, check_signals, [&](size_t q, size_t thread) {
            const auto weights = weighted(corpus, {query_terms.data() + query_offsets.data()[q],
                                                   query_terms.data() + query_offsets.data()[q + 1]});
            TopK best(k);
            std::vector<Cursor> cursors;
            for (const Segment& segment : corpus.segments) {
                cursors.clear();
                for (const auto& [weight, term] : weights) {
                    Cursor cursor = segment.terms[term];
                    if (cursor.left == 0) continue;
                    cursor.weight = weight;
                    cursor.bound = saturation.part(weight, cursor.largest_count, cursor.least_length);
                    cursors.push_back(cursor);
                }
                segment.postings->with_counts([&](const auto* counts) {
                    Search(segment, saturation, scratch[thread]).run(counts, cursors, best);
                });
            }
            size_t place = q * k;
            for (const Candidate& found : best.take()) {
                ids[place] = found.id;
                scores[place++] = found.score;
            }
        });
    }
    return nb::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(scores)));
}

}  // namespace

void bind_postings_search(nb::module_& m) {
    m.def("search_postings", &search, nb::arg("segments"), nb::arg("terms"), nb::arg("query_terms"),
          nb::arg("query_offsets"), nb::arg("k"), nb::arg("filter").none(), nb::arg("deleted"), nb::arg("k1"),
          nb::arg("b"), nb::arg("threads"));
}

}  // namespace rag
