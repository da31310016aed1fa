// Weighted directed graphs, and what runs on them. The arrays of a graph are held, not copied.
#include <nanobind/stl/optional.h>

#include <mutex>
#include <optional>

#include "adjacency.h"
#include "arrays.h"
#include "bindings.h"
#include "communities.h"
#include "errors.h"
#include "pagerank.h"
#include "traversal.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using rag::Adjacency;
using rag::AdjacencyRows;
using NodeArray = nb::ndarray<const rag::Node, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Array>
auto view(const Array& array) {
    return std::span(array.data(), array.size());
}

std::span<const float> view(const std::optional<FloatVector>& array) {
    return array ? std::span(array->data(), array->size()) : std::span<const float>();
}

// Rows that Python holds, and those of the other direction, made when they are first needed.
class CsrGraph {
public:
    CsrGraph(IdArray offsets, NodeArray targets, std::optional<FloatVector> weights)
        : offsets_(std::move(offsets)), targets_(std::move(targets)), weights_(std::move(weights)),
          graph_(view(offsets_), view(targets_), view(weights_)) {}

    const Adjacency& graph() const { return graph_; }
    const Adjacency& incoming() const {
        std::call_once(turned_, [this] {
            rows_ = rag::transposed(graph_);
            const auto equal = [](auto one, auto other) { return std::equal(one.begin(), one.end(), other.begin()); };
            if (weights_ ? equal(view(weights_), rows_.weights) : true) {
                symmetric_ = equal(view(offsets_), rows_.offsets) && equal(view(targets_), rows_.targets);
            }
            if (symmetric_) {
                rows_ = {};
            } else {
                other_.emplace(rows_.offsets, rows_.targets,
                               weights_ ? std::span<const float>(rows_.weights) : std::span<const float>());
            }
        });
        return symmetric_ ? graph_ : *other_;
    }
    // Whether every edge is there in both directions, with the same weight.
    bool symmetric() const {
        incoming();
        return symmetric_;
    }

private:
    IdArray offsets_;
    NodeArray targets_;
    std::optional<FloatVector> weights_;
    Adjacency graph_;
    mutable std::once_flag turned_;
    mutable AdjacencyRows rows_;
    mutable bool symmetric_ = false;
    mutable std::optional<Adjacency> other_;
};

nb::tuple rows_of_edges(size_t nodes, const IdArray& sources, const IdArray& targets,
                        const std::optional<FloatVector>& weights, bool both_ways) {
    AdjacencyRows rows;
    {
        const nb::gil_scoped_release release;
        rows = rag::rows_of_edges(nodes, span(sources), span(targets), view(weights), both_ways);
    }
    return nb::make_tuple(to_numpy(std::move(rows.offsets)), to_numpy(std::move(rows.targets)),
                          to_numpy(std::move(rows.weights)));
}

constexpr size_t kPolished = 2;  // times as many as are asked for

// Keeps the k best of a query in their places: falling scores, of equal ones the smaller node first; -1 behind them.
class Ranking {
public:
    Ranking(size_t k, int64_t* ids, float* scores, std::span<const uint8_t> among)
        : k_(k), ids_(ids), scores_(scores), among_(among) {}

    void take(size_t query, std::span<const float> scores, std::span<const rag::Node> touched) const {
        std::vector<std::pair<float, rag::Node>> found;
        const auto add = [&](rag::Node node) {
            if (scores[node] > 0 && (among_.empty() || among_[node])) found.emplace_back(-scores[node], node);
        };
        if (touched.empty()) {
            for (size_t node = 0; node < scores.size(); ++node) add(static_cast<rag::Node>(node));
        } else {
            for (const rag::Node node : touched) add(node);
        }
        const size_t kept = std::min(k_, found.size());
        std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(kept), found.end());
        for (size_t at = 0; at < k_; ++at) {
            ids_[query * k_ + at] = at < kept ? found[at].second : -1;
            scores_[query * k_ + at] = at < kept ? -found[at].first : 0;
        }
    }

private:
    size_t k_;
    int64_t* ids_;
    float* scores_;
    std::span<const uint8_t> among_;
};

std::span<const uint8_t> view(const std::optional<ByteArray>& mask) {
    return mask ? std::span(mask->data(), mask->size()) : std::span<const uint8_t>();
}

auto work_of(const std::vector<rag::PageRankWork>& work) {
    auto [table, data] = new_matrix<int64_t>(work.size(), 2);
    for (size_t query = 0; query < work.size(); ++query) {
        data[2 * query] = work[query].pushes;
        data[2 * query + 1] = work[query].iterations;
    }
    return table;
}

void check_seeds(const IdArray& offsets) {
    if (!offsets.size()) throw rag::InputError("there are no offsets of seeds", "one more than queries");
}

nb::tuple pagerank_top(const CsrGraph& self, const IdArray& offsets, const IdArray& nodes, const FloatVector& weights,
                       size_t k, float alpha, float epsilon, float tolerance, size_t iterations, size_t budget,
                       const std::optional<ByteArray>& among, size_t threads) {
    check_seeds(offsets);
    if (among && among->size() != self.graph().nodes()) {
        throw rag::InputError("a mask of " + std::to_string(among->size()) + " nodes for a graph of " +
                                  std::to_string(self.graph().nodes()), "one byte for each node");
    }
    auto [ids, id_data] = new_matrix<int64_t>(offsets.size() - 1, k);
    auto [scores, score_data] = new_matrix<float>(offsets.size() - 1, k);
    std::vector<rag::PageRankWork> work;
    {
        const nb::gil_scoped_release release;
        const Ranking ranking(k, id_data, score_data, view(among));
        rag::personalised_pagerank(self.graph(), self.incoming(), {span(offsets), span(nodes), view(weights)},
                                   {alpha, epsilon, tolerance, iterations, budget, kPolished * k}, view(among),
                                   thread_count(threads), signals(), work,
                                   [&](size_t query, auto found, auto touched, size_t) {
                                       ranking.take(query, found, touched);
                                   });
    }
    return nb::make_tuple(ids, scores, work_of(work));
}

nb::tuple pagerank_all(const CsrGraph& self, const IdArray& offsets, const IdArray& nodes, const FloatVector& weights,
                       float alpha, float epsilon, float tolerance, size_t iterations, size_t budget, size_t threads) {
    check_seeds(offsets);
    const size_t count = self.graph().nodes();
    auto [scores, data] = new_matrix<float>(offsets.size() - 1, count);
    std::vector<rag::PageRankWork> work;
    {
        const nb::gil_scoped_release release;
        rag::personalised_pagerank(self.graph(), self.incoming(), {span(offsets), span(nodes), view(weights)},
                                   {alpha, epsilon, tolerance, iterations, budget, 0}, {}, thread_count(threads),
                                   signals(), work, [&, data = data](size_t query, auto found, auto, size_t) {
                                       std::copy(found.begin(), found.end(), data + query * count);
                                   });
    }
    return nb::make_tuple(scores, work_of(work));
}

nb::tuple ball(const CsrGraph& self, const IdArray& seeds, size_t hops, size_t budget, size_t fanout) {
    rag::Ball found;
    {
        const nb::gil_scoped_release release;
        found = rag::ball(self.graph(), span(seeds), {hops, budget, fanout});
    }
    return nb::make_tuple(to_numpy(std::move(found.nodes)), to_numpy(std::move(found.hops)),
                          to_numpy(std::move(found.parents)));
}

nb::object components(const CsrGraph& self) {
    std::vector<rag::Node> numbers;
    {
        const nb::gil_scoped_release release;
        numbers = rag::components(self.graph());
    }
    return to_numpy(std::move(numbers));
}

auto distances(const CsrGraph& self, const IdArray& sources, size_t threads) {
    auto [found, data] = new_matrix<int32_t>(sources.size(), self.graph().nodes());
    const nb::gil_scoped_release release;
    rag::distances(self.graph(), span(sources), thread_count(threads), signals(), data);
    return found;
}

void check_symmetric(const CsrGraph& self) {
    if (!self.symmetric()) {
        throw rag::InputError("communities need every edge in both directions, with the same weight",
                              "make the graph of edges with both_ways");
    }
}

nb::tuple communities(const CsrGraph& self, double resolution, size_t rounds, bool refine, uint64_t seed) {
    rag::Communities found;
    {
        const nb::gil_scoped_release release;
        check_symmetric(self);
        found = rag::communities(self.graph(), {resolution, rounds, refine, seed}, signals());
    }
    return nb::make_tuple(to_numpy(std::move(found.of)), found.modularity);
}

auto mean_of_neighbours(const CsrGraph& self, const FloatMatrix& rows, size_t threads) {
    if (rows.shape(0) != self.graph().nodes()) {
        throw rag::InputError(std::to_string(rows.shape(0)) + " rows for " + std::to_string(self.graph().nodes()) +
                                  " nodes", "one row for each node");
    }
    auto [found, data] = new_matrix<float>(rows.shape(0), rows.shape(1));
    const nb::gil_scoped_release release;
    rag::mean_of_neighbours(self.graph(), rows.data(), rows.shape(1), thread_count(threads), signals(), data);
    return found;
}

}  // namespace

void bind_network(nb::module_& m) {
    m.def("rows_of_edges", rows_of_edges, "nodes"_a, "sources"_a, "targets"_a, "weights"_a.none() = nb::none(),
          "both_ways"_a = false);
    nb::class_<CsrGraph>(m, "CsrGraph")
        .def(nb::init<IdArray, NodeArray, std::optional<FloatVector>>(), "offsets"_a, "targets"_a,
             "weights"_a.none() = nb::none())
        .def_prop_ro("nodes", [](const CsrGraph& self) { return self.graph().nodes(); })
        .def_prop_ro("edges", [](const CsrGraph& self) { return self.graph().edges(); })
        .def_prop_ro("symmetric", &CsrGraph::symmetric, nb::call_guard<nb::gil_scoped_release>())
        .def("pagerank_top", pagerank_top, "seed_offsets"_a, "seeds"_a, "seed_weights"_a, "k"_a, "alpha"_a, "epsilon"_a,
             "tolerance"_a, "iterations"_a, "budget"_a, "among"_a.none() = nb::none(), "threads"_a = 0)
        .def("pagerank_all", pagerank_all, "seed_offsets"_a, "seeds"_a, "seed_weights"_a, "alpha"_a, "epsilon"_a,
             "tolerance"_a, "iterations"_a, "budget"_a, "threads"_a = 0)
        .def("ball", ball, "seeds"_a, "hops"_a, "budget"_a, "fanout"_a = 0)
        .def("components", components)
        .def("distances", distances, "sources"_a, "threads"_a = 0)
        .def("communities", communities, "resolution"_a = 1.0, "rounds"_a = 2, "refine"_a = true, "seed"_a = 0)
        .def("mean_of_neighbours", mean_of_neighbours, "rows"_a, "threads"_a = 0);
}
