// An inverted index taken over from Python: its checks and what is derived from it.
#include "postings.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace nb = nanobind;

namespace rag {

void bind_postings_build(nb::module_& m);
void bind_postings_search(nb::module_& m);

namespace {

void summarise(Postings& postings) {
    const uint32_t* lengths = postings.lengths.data();
    postings.total_length = std::accumulate(lengths, lengths + postings.size(), uint64_t(0));
    postings.largest_count.assign(postings.terms(), 0);
    postings.least_length.assign(postings.terms(), std::numeric_limits<uint32_t>::max());
    postings.with_counts([&](const auto* counts) {
        for (size_t t = 0; t < postings.terms(); ++t) {
            for (uint64_t i = postings.posting_offsets.data()[t]; i < postings.posting_offsets.data()[t + 1]; ++i) {
                postings.largest_count[t] = std::max(postings.largest_count[t], uint32_t(counts[i]));
                postings.least_length[t] = std::min(postings.least_length[t], lengths[postings.rows.data()[i]]);
            }
        }
    });
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
    new (self) Postings{ids, lengths, spelling, term_offsets, posting_offsets, rows, typed, {}, {}, 0};
    summarise(*self);
}

}  // namespace
}  // namespace rag

void bind_postings(nb::module_& m) {
    using rag::Postings;
    nb::class_<Postings>(m, "Postings")
        .def("__init__", &rag::init, nb::arg("ids"), nb::arg("lengths"), nb::arg("spelling"), nb::arg("term_offsets"),
             nb::arg("posting_offsets"), nb::arg("rows"), nb::arg("counts"));
    rag::bind_postings_build(m);
    rag::bind_postings_search(m);
}
