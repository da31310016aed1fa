// The vector store and the searches over it. Locks are only taken with the GIL released, so that a search which asks
// Python for signals cannot meet a writer that holds the one and waits for the other.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <mutex>
#include <utility>

#include "arrays.h"
#include "bindings.h"
#include "errors.h"
#include "learned.h"
#include "scan.h"
#include "store.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using rag::VectorStore;
rag::Metric metric_named(const std::string& name) {
    if (name == "ip") return rag::Metric::ip;
    if (name == "cosine") return rag::Metric::cosine;
    if (name == "l2") return rag::Metric::l2;
    throw rag::InputError("metric '" + name + "' is not known", "known: ip, cosine, l2");
}

nb::tuple sum_by_centroid(const FloatMatrix& vectors, const FloatCube& centroids) {
    const size_t parts = centroids.shape(0);
    if (vectors.shape(1) != parts * 8 || centroids.shape(1) != 256 || centroids.shape(2) != 8)
        throw rag::InputError("the centroids do not fit the vectors", "expected [n, parts * 8] and [parts, 256, 8]");
    auto [sums, sum_data] = new_matrix<float>(parts, 256 * 8);
    auto [counts, count_data] = new_matrix<int64_t>(parts, 256);
    {
        const nb::gil_scoped_release release;
        rag::sum_by_centroid(vectors.data(), vectors.shape(0), parts, centroids.data(), thread_count(0), signals(),
                             sum_data, count_data);
    }
    return nb::make_tuple(sums, counts);
}

void add_vectors(VectorStore& store, const IdArray& ids, const FloatMatrix& vectors, size_t threads) {
    const nb::gil_scoped_release release;
    store.add(span(ids), vectors.data(), thread_count(threads), signals());
}

size_t remove_ids(VectorStore& store, const IdArray& ids) {
    const nb::gil_scoped_release release;
    const std::unique_lock lock(store.mutex());
    return store.remove(span(ids));
}

auto decode(const VectorStore& store, const IdArray& ids) {
    auto [result, data] = new_matrix<float>(ids.size(), store.dim());
    {
        const nb::gil_scoped_release release;
        const std::shared_lock lock(store.mutex());
        store.decode(span(ids), data);
    }
    return result;
}

template <size_t (VectorStore::*Count)() const>
size_t counted(const VectorStore& store) {
    const nb::gil_scoped_release release;
    const std::shared_lock lock(store.mutex());
    return (store.*Count)();
}

nb::tuple scan_store(const VectorStore& store, const FloatMatrix& queries, size_t k,
                     const rag::Filter* filter, size_t rerank, size_t threads) {
    const size_t n = queries.shape(0);
    auto [ids, id_data] = new_matrix<int64_t>(n, k);
    auto [scores, score_data] = new_matrix<float>(n, k);
    {
        const nb::gil_scoped_release release;
        rag::scan(store, queries.data(), n, k, filter, rerank, thread_count(threads), signals(), id_data, score_data);
    }
    return nb::make_tuple(ids, scores);
}

// The memory of a store by section, in pieces to be written one after the other. Valid until the next add.
nb::dict parts(nb::object self) {
    const VectorStore& store = nb::cast<const VectorStore&>(self);
    nb::dict result;
    const auto put = [&](const char* name, std::initializer_list<std::span<const std::byte>> pieces) {
        nb::list list;
        for (const auto& piece : pieces)
            list.append(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(piece.data(), {piece.size()}, self));
        result[name] = list;
    };
    const auto put_rows = [&](const char* name, const rag::Rows& rows) { put(name, {rows.base(), rows.tail()}); };
    put_rows("ids", store.ids().rows());
    put_rows("codes", store.primary().codes);
    if (store.primary().codec->factors()) put_rows("factors", store.primary().factors);
    if (store.secondary()) put_rows("secondary", store.secondary()->codes);
    put("tombstones", {std::as_bytes(store.dead().words())});
    return result;
}

// Bytes of each section for n vectors.
nb::dict part_sizes(const VectorStore& store, size_t n) {
    nb::dict result;
    result["ids"] = n * sizeof(int64_t);
    result["codes"] = n * store.primary().codes.stride();
    if (store.primary().codec->factors()) result["factors"] = n * store.primary().factors.stride();
    if (store.secondary()) result["secondary"] = n * store.secondary()->codes.stride();
    result["tombstones"] = (n + 63) / 64 * sizeof(uint64_t);
    return result;
}

// Takes over the sections of a saved store of n vectors, without copying; the store must be empty.
void attach(VectorStore& store, size_t n, const nb::dict& sections) {
    const nb::dict sizes = part_sizes(store, n);
    const auto take = [&](const char* name) -> std::span<const std::byte> {
        if (!sizes.contains(name)) return {};
        const auto bytes = span(nb::cast<ByteArray>(sections[name]));
        if (bytes.size() != nb::cast<size_t>(sizes[name]))
            throw rag::InputError(std::string("section ") + name + " has the wrong length", "the file is damaged");
        return bytes;
    };
    const rag::Parts parts{take("ids"), take("codes"), take("factors"), take("secondary"), take("tombstones")};
    const std::shared_ptr<void> owner(new nb::dict(sections), [](void* kept) {
        const nb::gil_scoped_acquire gil;
        delete static_cast<nb::dict*>(kept);
    });
    const nb::gil_scoped_release release;
    const std::unique_lock lock(store.mutex());
    store.attach(parts, n, owner);
}

}  // namespace

void bind_store(nb::module_& m) {
    nb::class_<rag::Filter>(m, "Filter")
        .def("__init__", [](rag::Filter* self, const IdArray& ids) { new (self) rag::Filter(span(ids)); }, "ids"_a)
        .def("__len__", &rag::Filter::size);
    nb::class_<VectorStore>(m, "VectorStore")
        .def(
            "__init__",
            [](VectorStore* self, size_t dim, const std::string& metric, const std::string& codec,
               const std::optional<FloatVector>& mean, const std::optional<FloatMatrix>& base,
               const std::optional<FloatMatrix>& query, const std::optional<FloatCube>& centroids, bool finer) {
                new (self) VectorStore(dim, metric_named(metric), codec, learned(dim, mean, base, query, centroids), finer);
            },
            "dim"_a, "metric"_a, "codec"_a, "mean"_a = nb::none(), "base"_a = nb::none(), "query"_a = nb::none(),
            "centroids"_a = nb::none(), nb::kw_only(), "finer"_a = true)
        .def_prop_ro("dim", &VectorStore::dim)
        .def_prop_ro("rows", counted<&VectorStore::rows>)
        .def_prop_ro("live", counted<&VectorStore::live>)
        .def("add", add_vectors, "ids"_a, "vectors"_a, "threads"_a = 0)
        .def("remove", remove_ids, "ids"_a)
        .def("vectors", decode, "ids"_a)
        .def("scan", scan_store, "queries"_a, "k"_a, "filter"_a.none() = nb::none(), "rerank"_a = 0, "threads"_a = 0)
        .def("parts", [](nb::object self) { return parts(std::move(self)); })
        .def("part_sizes", part_sizes, "n"_a)
        .def("attach", attach, "n"_a, "sections"_a);
    m.def("sum_by_centroid", sum_by_centroid, "vectors"_a, "centroids"_a);
}
