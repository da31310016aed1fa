// The arithmetic of the engine, one table of functions for each instruction set.
//
// Rows are handed over as pointers, so that neighbouring rows, filtered rows and the rows of a graph node's neighbours
// all take the same path. A row is padded with zeros to a multiple of 64 bytes, so no kernel has a tail. kMaxTile
// more pointers follow the n: kernels prefetch what they point to, and fill up their last tile with it.
//
// Two shapes of kernel:
//   rows   one query against n rows. The score of a pair never depends on which other pairs are computed with it.
//   panel  many queries against n rows, register-tiled. Queries are packed dimension by dimension, `lanes` side by
//          side in a register, and rows are broadcast, so stored vectors are used as they lie. out[row * ld + query].
#pragma once
#include <cstddef>
#include <cstdint>

namespace rag {

inline constexpr size_t kMaxTile = 16;  // rows in a tile of any kernel, at most

// int8 codes hold round(x / scale) + 128 as unsigned bytes. With the row's (scale, bias) and the query's
// (codes, their sum, factor) a score is factor * scale * <row, query> - bias.
struct Int8Query {
    const int8_t* codes;
    int32_t sum;
    float factor;
};

// Many queries for rows of unsigned bytes with three factors each (scale, low, bias). A score is
// factor * (scale * <byte - zero, query> + low * sum) + (constant - bias), computed in the very order in which the rows
// kernels compute theirs.
struct BytePanel {
    const int8_t* codes;      // [dim / 4][query][4] within each group of panel_vectors * lanes queries
    const int32_t* sums;      // of the codes, by query
    const float* factors;     // by query
    const float* constants;   // by query
    int32_t zero;             // the byte that stands for zero
};

// Packed codes: lines of 64 bytes. A byte holds 8 / bits fields, the lowest bits first; components go through
// a line field by field, byte by byte. The last kPackedTail bytes of a row are no codes but
// three floats (scale, low, bias): component i of the vector is scale * code[i] + low. A score is
// factor * (scale * <codes, query> + low * sum) - weight * bias + constant.
inline constexpr size_t kPackedTail = 12;
struct PackedQuery {
    const int8_t* codes;  // [line][field][64]; 0 where the row has no codes
    size_t lines;
    int32_t sum;  // of the codes
    float factor, weight, constant;
};

// Locally-adaptive codes: (scale, low) as floats, then for every 32 components 32 bytes and, with 12 bits, 16 bytes
// more whose low and high halves extend the first and the second 16. Component i is scale * code[i] + low.
struct AdaptiveQuery {
    const float* values;  // padded with zeros to a multiple of 32
    size_t groups;        // of 32
    float sum;            // of the values
    float padding;        // components of padding
    float constant;
};

// Product codes: byte m of a row names one of 256 centroids for components 8m .. 8m + 7. A score is
// step * (sum of table[m][code m]) + constant.
inline constexpr size_t kProductWidth = 8, kCentroids = 256;
struct ProductQuery {
    const uint8_t* table;  // [lines * 64][256]; zeros where a row is padded
    size_t lines;          // of 64 bytes
    float step, constant;
};
// The centroids of one part, component by component; the last 256 are minus half their squared lengths.
inline constexpr size_t kCodebook = (kProductWidth + 1) * kCentroids;

// A number x becomes the code trunc((x - low) * inverse + shift), kept within 0 and `most`.
struct Grid {
    float low, inverse, shift, most;
};

// What a panel asks the memory for while it computes: as many rows as it was given, each so many bytes long.
struct Ahead {
    const std::byte* const* rows;
    size_t bytes;
};

using RowsKernel = void (*)(const std::byte* const* rows, size_t n, const float* query, size_t width, float* out);
using PanelKernel = void (*)(const std::byte* const* rows, size_t n, const float* packed, size_t vectors, size_t dim,
                             float* out, size_t ld, Ahead ahead);

struct Kernels {
    size_t lanes;          // queries in one register
    size_t panel_vectors;  // registers of queries in one tile
    size_t tile_rows;      // rows in one tile of a panel kernel, which takes multiples of it

    RowsKernel dot_f32, l2_f32, dot_f16, l2_f16;  // l2: minus the squared distance
    PanelKernel panel_dot_f32, panel_l2_f32;

    void (*dot_i8)(const std::byte* const* rows, const float* row_factors, size_t n, Int8Query query, size_t width,
                   float* out);
    // The second takes bytes below 16.
    void (*panel_bytes[2])(const std::byte* const* rows, const float* row_factors, size_t n, BytePanel queries,
                           size_t vectors, size_t quads, float* out, size_t ld, Ahead ahead);

    // By bits: 1, 2, 4, 8. The second takes rows that lie one after the other.
    void (*dot_packed[4])(const std::byte* const* rows, size_t n, const PackedQuery& query, float* out);
    void (*dot_packed_run[4])(const std::byte* first, size_t n, const PackedQuery& query, float* out);
    // The codes of a row, one a byte, and up to 64 bytes of anything after them.
    void (*unpack[4])(const std::byte* row, size_t lines, std::byte* codes);
    // The bytes (128 stands for zero) that residual codes stand for, by bits: 2, 4. Codes lie one after the other, the
    // first in the lowest bits, and come in lines of 64; a component is table[its code] + base[component], both signed.
    void (*unfold[2])(const std::byte* codes, size_t lines, const std::byte* table, const std::byte* base,
                      std::byte* bytes);
    // Bits, the lowest of a byte first, in lines of 64, to bytes that are 0 or 1.
    void (*unpack_signs)(const std::byte* codes, size_t lines, std::byte* bytes);
    // [8 or 12 bits][ip or l2]
    void (*score_adaptive[2][2])(const std::byte* const* rows, size_t n, const AdaptiveQuery& query, float* out);

    void (*score_product)(const std::byte* const* rows, size_t n, const ProductQuery& query, float* out);
    // scores[256] of x[8]: inner products with the centroids, and with `near` less half the centroids' squared lengths.
    void (*score_centroids)(const float* x, const float* codebook, bool near, float* scores);
    // Which of the centroids are nearest to n vectors x[8] that lie `stride` apart, codes `code_stride` apart.
    void (*nearest_centroids)(const float* x, size_t stride, size_t n, const float* codebook, std::byte* codes,
                              size_t code_stride);

    // Numbers to codes and back, n a multiple of 32. The kernels of 12 bits have codes in groups, as drawn above.
    void (*range)(const float* x, size_t n, float* low, float* high);  // the smallest and the largest
    void (*quantize)(const float* x, size_t n, const Grid& grid, std::byte* codes);
    void (*quantize12)(const float* x, size_t n, const Grid& grid, std::byte* codes);
    // out = scale * code + low + offset
    void (*dequantize)(const std::byte* codes, size_t n, float scale, float low, const float* offset, float* out);
    void (*dequantize12)(const std::byte* codes, size_t n, float scale, float low, const float* offset, float* out);
    // How well codes c on the grid point where x does: <c, x> and <c, c>, where c is the code less `middle`.
    void (*fit)(const float* x, size_t n, const Grid& grid, float middle, float* dot, float* norm);

    // Bit i of the result: scores[i] >= thresholds[i], for n <= 64; both padded to a multiple of `lanes`.
    uint64_t (*above)(const float* scores, const float* thresholds, size_t n);
    uint64_t (*above_one)(const float* scores, float threshold, size_t n);

    // best[i] becomes the largest of itself and scores[r * ld + i], for n rows; i < width, a multiple of `lanes`.
    void (*maxima)(const float* scores, size_t n, size_t ld, size_t width, float* best);

    void (*to_half)(const float* from, uint16_t* to, size_t n);    // n a multiple of 16
    void (*from_half)(const uint16_t* from, float* to, size_t n);  // n a multiple of 16
};

const Kernels& kernels_portable();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512vbmi();
const Kernels& kernels_neon();

const Kernels& kernels();  // those of the active instruction set

}  // namespace rag
