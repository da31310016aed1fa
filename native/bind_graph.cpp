// The graph over a vector store, and searches that walk along it.
#include <memory>
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

void grow(Graph& graph, size_t hold_back, size_t threads) {
    const nb::gil_scoped_release release;
    graph.grow(hold_back, thread_count(threads), signals());
}

void consolidate(Graph& graph, size_t threads) {
    const nb::gil_scoped_release release;
    graph.consolidate(thread_count(threads), signals());
}

// Ids of the rows that wait to be linked.
auto waiting(const Graph& graph) {
    auto [ids, data] = new_matrix<int64_t>(1, graph.waiting().size());
    for (const uint32_t row : graph.waiting()) *data++ = graph.store().ids()[row];
    return ids;
}

// The links [rows, degree]; 2^32 - 1 ends those of a row. Valid until the graph changes.
auto links(nb::object self) {
    const Graph& graph = nb::cast<const Graph&>(self);
    const auto* data = reinterpret_cast<const uint32_t*>(graph.bytes().data());
    return nb::ndarray<nb::numpy, const uint32_t, nb::ndim<2>>(data, {graph.size(), graph.room()}, self);
}

// Takes over the links of a saved graph, without copying; the graph must be empty.
void attach(Graph& graph, const ByteArray& links, double longest) {
    const std::shared_ptr<void> owner(new ByteArray(links), [](void* kept) {
        const nb::gil_scoped_acquire gil;
        delete static_cast<ByteArray*>(kept);
    });
    const nb::gil_scoped_release release;
    graph.attach(span(links), longest, owner);
}

nb::tuple walk_graph(const Graph& graph, const FloatMatrix& queries, size_t k, const rag::Filter* filter,
                     size_t window, size_t rerank, size_t threads) {
    const size_t n = queries.shape(0);
    auto [ids, id_data] = new_matrix<int64_t>(n, k);
    auto [scores, score_data] = new_matrix<float>(n, k);
    {
        const nb::gil_scoped_release release;
        const rag::Effort effort{std::max(window, k), rerank ? std::max(rerank, k) : 0};
        rag::walk(graph, queries.data(), n, k, filter, effort, thread_count(threads), signals(), id_data, score_data);
    }
    return nb::make_tuple(ids, scores);
}

}  // namespace

void bind_graph(nb::module_& m) {
    nb::class_<Graph>(m, "Graph")
        .def(
            "__init__",
            [](Graph* self, const rag::VectorStore& store, size_t degree, size_t window, float alpha, size_t passes,
               uint64_t seed) { new (self) Graph(store, {degree, window, alpha, passes, seed}); 
            },
            "store"_a, "degree"_a = 32, "window"_a = 100, "alpha"_a = 1.2f, "passes"_a = 1, "seed"_a = 0, nb::keep_alive<1, 2>())
        .def_prop_ro("size", &Graph::size)
        .def_prop_ro("longest", &Graph::longest)
        .def("attach", attach, "links"_a, "longest"_a)
        .def("links", [](nb::object self) { return links(std::move(self)); })
        .def("grow", grow, "hold_back"_a = 0, "threads"_a = 0)
        .def("waiting", waiting)
        .def("consolidate", consolidate, "threads"_a = 0)
        .def("walk", walk_graph, "queries"_a, "k"_a, "filter"_a.none() = nb::none(), "window"_a = 64, "rerank"_a = 0,
             "threads"_a = 0);
}
