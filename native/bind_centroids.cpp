// Centroids of tokens, and documents as sets of them. Locks are only taken with the GIL released, as in bind_store.cpp.
#include <nanobind/stl/optional.h>

#include <mutex>

#include "arrays.h"
#include "bindings.h"
#include "centroids.h"
#include "errors.h"
#include "ragged_arrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using rag::CentroidIndex;

auto nearest(const CentroidIndex& index, const FloatMatrix& tokens, size_t threads) {
    const size_t n = tokens.shape(0);
    auto [numbers, data] = new_matrix<uint16_t>(1, n);
    const nb::gil_scoped_release release;
    index.centroids().nearest(tokens.data(), n, nullptr, thread_count(threads), signals(), data);
    return numbers;
}

nb::tuple search(const CentroidIndex& index, const FloatMatrix& tokens, const IdArray& offsets, size_t k,
                 const std::optional<IdArray>& filter, size_t threads) {
    auto [ids, id_data] = new_matrix<int64_t>(offsets.size() - 1, k);
    auto [scores, score_data] = new_matrix<float>(offsets.size() - 1, k);
    {
        const nb::gil_scoped_release release;
        std::optional<std::span<const int64_t>> allowed;
        if (filter) allowed = span(*filter);
        index.search({tokens.data(), tokens.shape(0), span(offsets)}, k, allowed, thread_count(threads), signals(), id_data,
                     score_data);
    }
    return nb::make_tuple(ids, scores);
}

auto score(const CentroidIndex& index, const FloatMatrix& tokens, const IdArray& offsets, const IdMatrix& candidates,
           size_t threads) {
    check_number(offsets.size(), candidates.shape(0), "queries with candidates");
    auto [scores, data] = new_matrix<float>(candidates.shape(0), candidates.shape(1));
    const nb::gil_scoped_release release;
    index.score({tokens.data(), tokens.shape(0), span(offsets)}, {candidates.data(), candidates.shape(1)},
                thread_count(threads), signals(), data);
    return scores;
}

// As those of a token store.
nb::dict parts(nb::object self) {
    const CentroidIndex& index = nb::cast<const CentroidIndex&>(self);
    nb::dict result = ragged_parts(index, self);
    result["numbers"] = pieces({index.numbers().base(), index.numbers().tail()}, self);
    return result;
}

nb::dict part_sizes(const CentroidIndex&, size_t documents, size_t numbers) {
    nb::dict result = ragged_sizes(documents);
    result["numbers"] = numbers * sizeof(uint16_t);
    return result;
}

void attach(CentroidIndex& index, size_t documents, size_t numbers, const nb::dict& sections) {
    const Sections given(sections, part_sizes(index, documents, numbers));
    const rag::CentroidParts parts{given.ragged(), given["numbers"]};
    const std::shared_ptr<void> owner = given.owner();
    const nb::gil_scoped_release release;
    const std::unique_lock lock(index.mutex());
    index.attach(parts, owner);
}

}  // namespace

void bind_centroids(nb::module_& m) {
    nb::class_<CentroidIndex>(m, "CentroidIndex")
        .def(
            "__init__",
            [](CentroidIndex* self, const FloatMatrix& centroids) {
                new (self) CentroidIndex(centroids.data(), centroids.shape(0), centroids.shape(1));
            },
            "centroids"_a)
        .def_prop_ro("documents", counted<CentroidIndex, &CentroidIndex::documents>)
        .def_prop_ro("rows", counted<CentroidIndex, &CentroidIndex::rows>)
        .def_prop_ro("live", counted<CentroidIndex, &CentroidIndex::live>)
        .def("nearest", nearest, "tokens"_a, "threads"_a = 0)
        .def("add", add_documents<CentroidIndex>, "ids"_a, "tokens"_a, "offsets"_a, "threads"_a = 0)
        .def("remove", remove_documents<CentroidIndex>, "ids"_a)
        .def("compact", compact_documents<CentroidIndex>)
        .def("search", search, "tokens"_a, "offsets"_a, "k"_a, "filter"_a = nb::none(), "threads"_a = 0)
        .def("score", score, "tokens"_a, "offsets"_a, "candidates"_a, "threads"_a = 0)
        .def("parts", [](nb::object self) { return parts(std::move(self)); })
        .def("part_sizes", part_sizes, "documents"_a, "rows"_a)
        .def("attach", attach, "documents"_a, "rows"_a, "sections"_a);
}
