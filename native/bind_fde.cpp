// Fixed dimensional encodings.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <new>

#include "arrays.h"
#include "bindings.h"
#include "errors.h"
#include "fde.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using rag::FixedDimensionalEncoder;
using SketchArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool good, const char* message) {
    if (!good) throw rag::InputError(message, "see rag._native.pyi for the shapes");
}

void make(FixedDimensionalEncoder* self, const FloatCube& planes, const std::optional<FloatCube>& signs,
          const std::optional<SketchArray>& sketch, size_t final_size) {
    rag::EncodingForm form{planes.shape(2), planes.shape(0), planes.shape(1), planes.shape(2), 0};
    require(form.dim > 0 && form.repetitions > 0 && form.planes <= rag::kMostPlanes, "planes have a shape that is none");
    if (signs) {
        form.projected = signs->shape(1);
        require(signs->shape(0) == form.repetitions && form.projected > 0 && signs->shape(2) == form.dim,
                "signs do not fit the planes");
    }
    if (sketch) {
        form.final_size = final_size;
        const auto last = static_cast<int64_t>(final_size) - 1;
        require(final_size > 0 && sketch->size() == form.width() &&
                    std::all_of(sketch->data(), sketch->data() + sketch->size(),
                                [&](int64_t to) { return -1 - last <= to && to <= last; }),
                "the sketch does not fit the encoding");
    }
    new (self) FixedDimensionalEncoder(form, planes.data(), signs ? signs->data() : nullptr,
                                       sketch ? sketch->data() : nullptr);
}

auto encode(const FixedDimensionalEncoder& encoder, const FloatMatrix& tokens, const IdArray& offsets, bool documents,
            bool fill, size_t threads) {
    require(tokens.shape(1) == encoder.form().dim, "tokens are of another dimension than the planes");
    auto [encoded, data] = new_matrix<float>(std::max<size_t>(offsets.size(), 1) - 1, encoder.form().size());
    {
        const nb::gil_scoped_release release;
        encoder.encode(tokens.data(), tokens.shape(0), span(offsets),
                       documents ? rag::Side::document : rag::Side::query, fill, thread_count(threads), signals(),
                       data);
    }
    return encoded;
}

}  // namespace

void bind_fde(nb::module_& m) {
    nb::class_<FixedDimensionalEncoder>(m, "FixedDimensionalEncoder")
        .def("__init__", make, "planes"_a, "signs"_a.none() = nb::none(), "sketch"_a.none() = nb::none(),
             "final_size"_a = 0)
        .def("encode", encode, "tokens"_a, "offsets"_a, "documents"_a, "fill"_a = true, "threads"_a = 0);
}
