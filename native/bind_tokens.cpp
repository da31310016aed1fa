// The token store and MaxSim. Locks are only taken with the GIL released, as in bind_store.cpp.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <mutex>
#include <utility>

#include "arrays.h"
#include "bindings.h"
#include "learned.h"
#include "maxsim.h"
#include "ragged_arrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using rag::TokenStore;

void append(TokenStore& store, const TokenStore& other, const IdArray& ids) {
    const nb::gil_scoped_release release;
    store.append(other, span(ids));
}

template <class T>
auto handed_over(std::vector<T> values, size_t n, size_t m) {
    auto [array, data] = new_matrix<T>(n, m);
    std::ranges::copy(values, data);
    return array;
}

// Tokens [t, dim] and offsets [1, n + 1].
nb::tuple decode(const TokenStore& store, const IdArray& ids) {
    std::vector<float> tokens;
    std::vector<int64_t> offsets{0};
    {
        const nb::gil_scoped_release release;
        const std::shared_lock lock(store.mutex());
        std::vector<size_t> documents;
        for (const int64_t id : span(ids)) {
            const auto document = store.find(id);
            if (!document) throw rag::NotFoundError("id " + std::to_string(id) + " is not in the store");
            documents.push_back(*document);
            offsets.push_back(offsets.back() + static_cast<int64_t>(store.length(*document)));
        }
        tokens.resize(static_cast<size_t>(offsets.back()) * store.dim());
        rag::parallel(documents.size(), thread_count(0), signals(), [&](size_t i, size_t) {
            store.decode(documents[i], tokens.data() + static_cast<size_t>(offsets[i]) * store.dim());
        });
    }
    const size_t n = tokens.size() / store.dim();
    return nb::make_tuple(handed_over(std::move(tokens), n, store.dim()), handed_over(offsets, 1, offsets.size()));
}

nb::tuple search(const TokenStore& store, const FloatMatrix& tokens, const IdArray& offsets, size_t k,
                 const std::optional<IdMatrix>& candidates, const std::optional<IdArray>& filter, size_t threads) {
    const size_t n = offsets.size() - 1;
    if (candidates) check_number(offsets.size(), candidates->shape(0), "queries with candidates");
    auto [ids, id_data] = new_matrix<int64_t>(n, k);
    auto [scores, score_data] = new_matrix<float>(n, k);
    {
        const nb::gil_scoped_release release;
        rag::CandidateIds among{};
        if (candidates) among = {candidates->data(), candidates->shape(1)};
        std::optional<std::span<const int64_t>> allowed;
        if (filter) allowed = span(*filter);
        rag::maxsim(store, {tokens.data(), tokens.shape(0), span(offsets)}, k, candidates ? &among : nullptr, allowed,
                    thread_count(threads), signals(), id_data, score_data);
    }
    return nb::make_tuple(ids, scores);
}

// Positions and scores [1, n].
nb::tuple matches(const TokenStore& store, int64_t id, const FloatMatrix& tokens) {
    const size_t n = tokens.shape(0);
    auto [best, best_data] = new_matrix<int64_t>(1, n);
    auto [scores, score_data] = new_matrix<float>(1, n);
    {
        const nb::gil_scoped_release release;
        rag::best_tokens(store, id, tokens.data(), n, best_data, score_data);
    }
    return nb::make_tuple(best, scores);
}

// The memory of a store by section, in pieces to be written one after the other. Valid until the next add.
nb::dict parts(nb::object self) {
    const TokenStore& store = nb::cast<const TokenStore&>(self);
    const rag::Tier& tier = store.tier();
    nb::dict result = ragged_parts(store, self);
    result["codes"] = pieces({tier.codes.base(), tier.codes.tail()}, self);
    if (tier.codec->factors()) result["factors"] = pieces({tier.factors.base(), tier.factors.tail()}, self);
    return result;
}

// Bytes of each section for so many documents and tokens.
nb::dict part_sizes(const TokenStore& store, size_t documents, size_t tokens) {
    nb::dict result = ragged_sizes(documents);
    result["codes"] = tokens * store.tier().codes.stride();
    if (store.tier().codec->factors()) result["factors"] = tokens * store.tier().factors.stride();
    return result;
}

// Takes over the sections of a saved store, without copying; the store must be empty.
void attach(TokenStore& store, size_t documents, size_t tokens, const nb::dict& sections) {
    const Sections given(sections, part_sizes(store, documents, tokens));
    const rag::TokenParts parts{given.ragged(), given["codes"], given["factors"]};
    const std::shared_ptr<void> owner = given.owner();
    const nb::gil_scoped_release release;
    const std::unique_lock lock(store.mutex());
    store.attach(parts, owner);
}

}  // namespace

void bind_tokens(nb::module_& m) {
    nb::class_<TokenStore>(m, "TokenStore")
        .def(
            "__init__",
            [](TokenStore* self, size_t dim, const std::string& codec) { new (self) TokenStore(dim, codec, {}); },
            "dim"_a, "codec"_a)
        .def(
            "__init__",
            [](TokenStore* self, size_t dim, const std::string& codec, const FloatMatrix& base,
               const FloatMatrix& centroids, float spread) {
                new (self) TokenStore(dim, codec, learned_residuals(dim, base, centroids, spread));
            },
            "dim"_a, "codec"_a, "base"_a, "centroids"_a, "spread"_a)
        .def(
            "__init__",
            [](TokenStore* self, size_t dim, const std::string& codec, const FloatVector& mean, const FloatMatrix& base,
               const FloatMatrix& inverse, float slope, float mean_slope, float constant) {
                const rag::Learned::Line line{slope, mean_slope, constant};
                new (self) TokenStore(dim, codec, learned_signs(dim, mean, base, inverse, line));
            },
            "dim"_a, "codec"_a, "mean"_a, "base"_a, "inverse"_a, "slope"_a, "mean_slope"_a, "constant"_a)
        .def_prop_ro("dim", &TokenStore::dim)
        .def_prop_ro("documents", counted<TokenStore, &TokenStore::documents>)
        .def_prop_ro("rows", counted<TokenStore, &TokenStore::rows>)
        .def_prop_ro("live", counted<TokenStore, &TokenStore::live>)
        .def_prop_ro("live_tokens", counted<TokenStore, &TokenStore::live_rows>)
        .def("add", add_documents<TokenStore>, "ids"_a, "tokens"_a, "offsets"_a, "threads"_a = 0)
        .def("append", append, "other"_a, "ids"_a)
        .def("remove", remove_documents<TokenStore>, "ids"_a)
        .def("compact", compact_documents<TokenStore>)
        .def("vectors", decode, "ids"_a)
        .def("maxsim", search, "tokens"_a, "offsets"_a, "k"_a, "candidates"_a = nb::none(), "filter"_a = nb::none(),
             "threads"_a = 0)
        .def("matches", matches, "id"_a, "tokens"_a)
        .def("parts", [](nb::object self) { return parts(std::move(self)); })
        .def("part_sizes", part_sizes, "documents"_a, "tokens"_a)
        .def("attach", attach, "documents"_a, "tokens"_a, "sections"_a);
}
