// The inverted index: what a segment holds (views into NumPy arrays, often a memory-mapped file).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "arrays.h"

namespace rag {

template <class T>
using Column = nanobind::ndarray<const T, nanobind::numpy, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// Term t spells spelling[term_offsets[t] : term_offsets[t + 1]] (UTF-8, ascending), and occurs in
// rows[posting_offsets[t] : posting_offsets[t + 1]] (ascending) as often as counts says in the same places.
struct Postings {
    Column<int64_t> ids;        // id of each row, ascending
    Column<uint32_t> lengths;   // terms in each row
    Column<uint8_t> spelling;
    Column<uint64_t> term_offsets;
    Column<uint64_t> posting_offsets;
    Column<uint32_t> rows;
    nanobind::ndarray<nanobind::numpy, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu, nanobind::ro> counts;
    // What bounds the contribution of a term: its largest count, and the shortest row that holds it.
    std::vector<uint32_t> largest_count, least_length;
    uint64_t total_length = 0;

    size_t size() const { return ids.shape(0); }
    size_t terms() const { return term_offsets.shape(0) - 1; }

    std::string_view term(size_t t) const {
        const auto* text = reinterpret_cast<const char*>(spelling.data());
        return {text + term_offsets.data()[t], size_t(term_offsets.data()[t + 1] - term_offsets.data()[t])};
    }

    // The number of a term, by binary search.
    std::optional<size_t> find(std::string_view word) const {
        size_t low = 0, high = terms();
        while (low < high) {
            const size_t middle = (low + high) / 2;
            const int order = term(middle).compare(word);
            if (order == 0) return middle;
            if (order < 0) low = middle + 1;
            else high = middle;
        }
        return std::nullopt;
    }

    // Calls `use` with the counts under their stored type: uint8, uint16 or uint32, whichever holds the largest.
    template <class Use>
    decltype(auto) with_counts(Use&& use) const {
        const void* data = counts.data();
        switch (counts.itemsize()) {
            case 1: return use(static_cast<const uint8_t*>(data));
            case 2: return use(static_cast<const uint16_t*>(data));
            default: return use(static_cast<const uint32_t*>(data));
        }
    }
};

}  // namespace rag
