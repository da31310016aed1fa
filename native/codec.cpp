#include "codec.h"

#include <limits>
#include <string>

#include "errors.h"

namespace rag {

float Codec::limit() const { return std::numeric_limits<float>::max(); }

std::unique_ptr<Codec> make_codec(std::string_view name, size_t dim, Metric metric) {
    if (name == "float32") return make_float32(dim, metric);
    if (name == "float16") return make_float16(dim, metric);
    if (name == "int8") return make_int8(dim, metric);
    throw InputError("codec '" + std::string(name) + "' is not known", "known: float32, float16, int8");
}

}  // namespace rag
