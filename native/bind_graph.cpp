// The graph over a vector store, and searches that walk along it.
#include <nanobind/stl/optional.h>

#include <mutex>
#include <new>

#include "arrays.h"
#include "bindings.h"
#include "errors.h"
#include "graph.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using rag::Graph;

template <void (Graph::*Work)(size_t, const rag::Interrupt&)>
void change(Graph& graph, size_t threads) {
    const nb::gil_scoped_release release;
    (graph.*Work)(thread_count(threads), signals());
}

// The links [rows, degree]; 2^32 - 1 ends those of a row. Valid until the graph changes.
auto links(nb::object self) {
    const Graph& graph = nb::cast<const Graph&>(self);
    const auto* data = reinterpret_cast<const uint32_t*>(graph.bytes().data());
    return nb::ndarray<nb::numpy, const uint32_t, nb::ndim<2>>(data, {graph.size(), graph.form().degree}, self);
}

nb::tuple walk_graph(const Graph& graph, const FloatMatrix& queries, size_t k, const std::optional<IdArray>& filter,
                     size_t window, size_t rerank, size_t threads) {
    const size_t n = queries.shape(0);
    auto [ids, id_data] = new_matrix<int64_t>(n, k);
    auto [scores, score_data] = new_matrix<float>(n, k);
    {
        const nb::gil_scoped_release release;
        std::optional<std::span<const int64_t>> allowed;
        if (filter) allowed = span(*filter);
        const rag::Effort effort{std::max(window, k), std::max(rerank, k)};
        rag::walk(graph, queries.data(), n, k, allowed, effort, thread_count(threads), signals(), id_data, score_data);
    }
    return nb::make_tuple(ids, scores);
}

}  // namespace

void bind_graph(nb::module_& m) {
    nb::class_<Graph>(m, "Graph")
        .def(
            "__init__",
            [](Graph* self, const rag::VectorStore& store, size_t degree, size_t window, float alpha) {
                new (self) Graph(store, {degree, window, alpha});
            },
            "store"_a, "degree"_a, "window"_a, "alpha"_a, nb::keep_alive<1, 2>())
        .def_prop_ro("size", &Graph::size)
        .def("links", [](nb::object self) { return links(std::move(self)); })
        .def("grow", change<&Graph::grow>, "threads"_a = 0)
        .def("refine", change<&Graph::refine>, "threads"_a = 0)
        .def("consolidate", change<&Graph::consolidate>, "threads"_a = 0)
        .def("walk", walk_graph, "queries"_a, "k"_a, "filter"_a = nb::none(), "window"_a = 64, "rerank"_a = 64,
             "threads"_a = 0);
}
