// The graph over a vector store, and searches that walk along it.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <limits>
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

using RowArray = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void grow(Graph& graph, size_t hold_back, const std::optional<RowArray>& order, size_t threads) {
    std::span<const uint32_t> given;
    if (order) given = {order->data(), order->size()};
    const nb::gil_scoped_release release;
    graph.grow(hold_back, given, thread_count(threads), signals());
}

void consolidate(Graph& graph, size_t threads) {
    const nb::gil_scoped_release release;
    graph.consolidate(thread_count(threads), signals());
}

void wait(Graph& graph) {
    const nb::gil_scoped_release release;
    graph.wait();
}

// Ids of the rows that were held back.
auto held(const Graph& graph) {
    auto [ids, data] = new_matrix<int64_t>(1, graph.held().size());
    for (const uint32_t row : graph.held()) *data++ = graph.store().ids()[row];
    return ids;
}

// Of each level, from the ground up: its rows [places], none on the ground, and their links [places, room]; 2^32 - 1
// ends those of a place. Valid until the graph changes.
nb::list levels(nb::object self) {
    const Graph& graph = nb::cast<const Graph&>(self);
    nb::list result;
    for (size_t i = 0; i < graph.levels(); ++i) {
        const rag::Level& level = graph.level(i);
        using Rows = nb::ndarray<nb::numpy, const uint32_t, nb::ndim<1>>;
        using Links = nb::ndarray<nb::numpy, const uint32_t, nb::ndim<2>>;
        result.append(nb::make_tuple(Rows(level.rows().data(), {level.rows().size()}, self),
                                     Links(level.links(), {level.size(), level.room()}, self)));
    }
    return result;
}

// Takes over what `levels` gave, without copying links. The graph must be empty.
void attach(Graph& graph, const nb::list& levels, size_t linked, double longest) {
    using Links = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    std::vector<Graph::Saved> saved;
    for (const nb::handle level : levels) {
        const auto [rows, links] = nb::cast<std::pair<RowArray, Links>>(level);
        saved.push_back({{rows.data(), rows.size()}, {links.data(), links.size()}, links.shape(1)});
    }
    const std::shared_ptr<void> owner(new nb::list(levels), [](void* kept) {
        const nb::gil_scoped_acquire gil;
        delete static_cast<nb::list*>(kept);
    });
    const nb::gil_scoped_release release;
    graph.attach(saved, linked, longest, owner);
}

nb::tuple walk_graph(const Graph& graph, const FloatMatrix& queries, size_t k, const rag::Filter* filter,
                     size_t window, float slack, size_t expected, size_t rerank, bool waiting, size_t threads) {
    const size_t n = queries.shape(0);
    auto [ids, id_data] = new_matrix<int64_t>(n, k);
    auto [scores, score_data] = new_matrix<float>(n, k);
    double expanded = 0;
    {
        const nb::gil_scoped_release release;
        rag::Effort effort{std::max(window, k), rerank ? std::max(rerank, k) : 0, waiting};
        effort.slack = slack;
        effort.expected = expected;
        expanded = rag::walk(graph, queries.data(), n, k, filter, effort, thread_count(threads), signals(), id_data, score_data);
    }
    return nb::make_tuple(ids, scores, expanded);
}

}  // namespace

void bind_graph(nb::module_& m) {
    nb::class_<Graph>(m, "Graph")
        .def(
            "__init__",
            [](Graph* self, const rag::VectorStore& store, size_t degree, size_t window, float alpha, size_t passes,
               uint64_t seed, size_t thinning, bool filled) {
                new (self) Graph(store, {degree, window, alpha, passes, seed, thinning, filled});
            },
            "store"_a, "degree"_a = 32, "window"_a = 100, "alpha"_a = 1.2f, "passes"_a = 1, "seed"_a = 0,
            "thinning"_a = 0, "filled"_a = false, nb::keep_alive<1, 2>())
        .def_prop_ro("linked", &Graph::linked)
        .def_prop_ro("longest", &Graph::longest)
        .def("attach", attach, "levels"_a, "linked"_a, "longest"_a)
        .def("levels", [](nb::object self) { return levels(std::move(self)); })
        .def("wait", wait)
        .def("grow", grow, "hold_back"_a = 0, "order"_a.none() = nb::none(), "threads"_a = 0)
        .def("held", held)
        .def("consolidate", consolidate, "threads"_a = 0)
        .def("walk", walk_graph, "queries"_a, "k"_a, "filter"_a.none() = nb::none(), "window"_a = 64,
             "slack"_a = std::numeric_limits<float>::infinity(), "expected"_a = 0, "rerank"_a = 0, "waiting"_a = true,
             "threads"_a = 0);
}
