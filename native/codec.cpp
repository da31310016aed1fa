#include "codec.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <string>

#include "errors.h"

namespace rag {

namespace {

// LVQ: Aguerrebere et al., PVLDB 2023; RaBitQ: Gao and Long, SIGMOD 2024; LeanVec: Tepper et al., TMLR 2024.
constexpr std::array<PackedForm, 8> kPacked{{
    {"lvq8", "adaptive12", 8, false, false, 2, 32},
    {"lvq4x4", "adaptive8", 4, false, false, 3, 32},
    {"lvq4x8", "adaptive12", 4, false, false, 3, 32},
    {"rabitq1", "adaptive12", 1, true, true, 30, 100},
    {"rabitq2", "adaptive12", 2, true, true, 10, 50},
    {"rabitq4", "adaptive12", 4, true, true, 3, 32},
    {"leanvec", "adaptive12", 2, true, true, 10, 50},
    {"leanvec4", "adaptive12", 4, true, true, 3, 32},
}};

}  // namespace

float dot(const float* x, const float* y, size_t width) {
    const std::byte* rows[1 + kMaxTile];
    std::fill(std::begin(rows), std::end(rows), reinterpret_cast<const std::byte*>(x));
    float result;
    kernels().dot_f32(rows, 1, y, width, &result);
    return result;
}

float Codec::limit() const { return std::numeric_limits<float>::max(); }

std::unique_ptr<Codec> make_codec(std::string_view name, size_t dim, Metric metric, const Learned& learned) {
    if (name == "float32") return make_float32(dim, metric);
    if (name == "float16") return make_float16(dim, metric);
    if (name == "int8") return make_int8(dim, metric);
    if (name == "adaptive8") return make_adaptive(8, dim, metric, learned);
    if (name == "adaptive12") return make_adaptive(12, dim, metric, learned);
    if (name == "pq") return make_product(dim, metric, learned);
    if (name == "sign") return make_sign(dim, metric, learned);
    if (name == "residual2") return make_residual(2, dim, metric, learned);
    if (name == "residual4") return make_residual(4, dim, metric, learned);
    std::string known = "known: float32, float16, int8, pq, sign, residual2, residual4";
    for (const PackedForm& form : kPacked) {
        if (name == form.name) return make_packed(form, dim, metric, learned);
        known += ", " + std::string(form.name);
    }
    throw InputError("codec '" + std::string(name) + "' is not known", known);
}

}  // namespace rag
