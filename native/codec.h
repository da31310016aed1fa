// How one vector is stored, and how queries are scored against vectors stored so. A new codec is one file that
// implements these two classes and one line in make_codec.
#pragma once
#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace rag {

enum class Metric { ip, cosine, l2 };  // cosine vectors are of unit length when they come here, so it is ip

// What a codec learned from a sample of the vectors, and perhaps of the queries: their mean, and matrices
// [reduced, dim] that stored vectors and queries are multiplied with. Empty: nothing is subtracted or multiplied.
struct Learned {
    std::vector<float> mean, base, query;
    size_t reduced = 0;
    std::vector<float> centroids;  // of a product codec: [part][256][8]; of a residual codec: [centroid][dim]
    float spread = 0;              // of a residual codec: the largest root mean square of a residual's components
    std::vector<float> inverse;    // of a sign codec: [dim, dim], what makes of signs what is beside the mean
    struct Line {                  // likewise, for unit vectors: inner product = slope * cosine + mean_slope * <query, mean> + constant
        float slope = 1, mean_slope = 0, constant = 0;
    } line;
};

// Stored vectors to score together. kMaxTile more rows follow the n (those that come next, or any), and their factors.
struct Block {
    const std::byte* const* rows;
    const float* factors;  // as many for each row as the codec keeps
    size_t n;
    const std::byte* run = nullptr;  // the first of n that lie one after the other; `rows` does not count then
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
    virtual size_t code_bytes() const = 0;
    virtual size_t factors() const { return 0; }           // floats kept beside each code
    virtual float limit() const;                           // largest magnitude of a component
    virtual std::string_view exact() const { return ""; }  // the codec that re-ranks what this one finds, if any
    virtual size_t candidates(size_t k) const { return k; }  // how many of this codec's best should be ranked again
    virtual bool panels() const { return true; }             // whether Queries::panel is there
    virtual bool runs() const { return false; }              // whether Queries::rows takes Block::run

    virtual void encode(const float* vector, std::byte* code, float* factors) const = 0;
    // Vectors [n, dim] at once, to the very same codes.
    virtual void encode_all(const float* vectors, size_t n, size_t dim, std::byte* codes, float* factors) const {
        const size_t stride = code_bytes(), kept = this->factors();
        for (size_t i = 0; i < n; ++i) encode(vectors + i * dim, codes + i * stride, factors + i * kept);
    }
    virtual void decode(const std::byte* code, const float* factors, float* vector) const = 0;
    virtual std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const = 0;
};

// Throws InputError for a name that is not known.
std::unique_ptr<Codec> make_codec(std::string_view name, size_t dim, Metric metric, const Learned& learned);

std::unique_ptr<Codec> make_float32(size_t dim, Metric metric);
std::unique_ptr<Codec> make_float16(size_t dim, Metric metric);
std::unique_ptr<Codec> make_int8(size_t dim, Metric metric);
// Bits a component: 8 or 12.
std::unique_ptr<Codec> make_adaptive(int bits, size_t dim, Metric metric, const Learned& learned);

std::unique_ptr<Codec> make_product(size_t dim, Metric metric, const Learned& learned);

// Bits a component of what is left of a vector beside its centroid: 2 or 4.
std::unique_ptr<Codec> make_residual(int bits, size_t dim, Metric metric, const Learned& learned);
std::unique_ptr<Codec> make_sign(size_t dim, Metric metric, const Learned& learned);

// One round of k-means on each part of 8 components: of the vectors [n, parts * 8] that are nearest to each centroid
// [parts, 256, 8], the sum, and how many they are.
void sum_by_centroid(const float* vectors, size_t n, size_t parts, const float* centroids, size_t threads,
                     const Interrupt& interrupt, float* sums, int64_t* counts);

struct PackedForm {
    std::string_view name, exact;
    int bits;          // 1, 2, 4 or 8
    bool symmetric;    // a grid around zero whose step fits the vector's direction best, or from smallest to largest
    bool multiplied;   // by the learned matrices
    size_t per_result, at_least;  // candidates: k * per_result + at_least
};
std::unique_ptr<Codec> make_packed(const PackedForm& form, size_t dim, Metric metric, const Learned& learned);

// Inner product; `width` is a multiple of 16.
float dot(const float* x, const float* y, size_t width);

inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace rag
