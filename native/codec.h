// How one vector is stored, and how queries are scored against vectors stored so. A new codec is one file that
// implements these two classes and one line in make_codec.
#pragma once
#include <cstddef>
#include <memory>
#include <string_view>

#include "kernels.h"

namespace rag {

enum class Metric { ip, cosine, l2 };  // cosine vectors are of unit length when they come here, so it is ip

// Stored vectors to score together. kMaxTile more rows follow the n (those that come next, or any), and their factors.
struct Block {
    const std::byte* const* rows;
    const float* factors;  // as many for each row as the codec keeps
    size_t n;
};

// Queries made ready for one codec.
class Queries {
public:
    virtual ~Queries() = default;

    // Scores of one query: out[row].
    virtual void rows(size_t query, const Block& block, float* out) const = 0;

    // Scores of vectors * lanes neighbouring queries: out[row * ld + query], room for n rounded up to tile_rows.
    // `first` counts registers and is a multiple of panel_vectors. Only if prepared for panels.
    virtual void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const = 0;
};

class Codec {
public:
    virtual ~Codec() = default;

    virtual std::string_view name() const = 0;
    virtual size_t code_bytes() const = 0;                 // a multiple of 64
    virtual size_t factors() const { return 0; }           // floats kept beside each code
    virtual float limit() const;                           // largest magnitude of a component
    virtual std::string_view exact() const { return ""; }  // the codec that re-ranks what this one finds, if any

    virtual void encode(const float* vector, std::byte* code, float* factors) const = 0;
    virtual void decode(const std::byte* code, const float* factors, float* vector) const = 0;
    virtual std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const = 0;
};

// Throws InputError for a name that is not known.
std::unique_ptr<Codec> make_codec(std::string_view name, size_t dim, Metric metric);

std::unique_ptr<Codec> make_float32(size_t dim, Metric metric);
std::unique_ptr<Codec> make_float16(size_t dim, Metric metric);
std::unique_ptr<Codec> make_int8(size_t dim, Metric metric);

inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace rag
