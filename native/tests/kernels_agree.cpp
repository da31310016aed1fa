// Checks the kernels of this processor against the portable ones, over random numbers. Stands alone, so that it can run
// under an emulator where there is no Python; the command is in docs/engine.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../kernels.h"

namespace {

using namespace rag;
using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;

constexpr size_t kRows = 144, kDim = 192;  // a multiple of every tile, and of everything that rows are padded to

std::mt19937 random_bits(1);
int failures = 0;

Floats numbers(size_t n) {
    std::normal_distribution<float> normal;
    Floats x(n);
    for (float& one : x) one = normal(random_bits);
    return x;
}

template <class T = std::byte>
std::vector<T> bytes(size_t n, unsigned low = 0, unsigned high = 255) {
    std::uniform_int_distribution<unsigned> uniform(low, high);
    std::vector<T> x(n);
    for (T& one : x) one = static_cast<T>(uniform(random_bits));
    return x;
}

std::vector<const std::byte*> pointers(const void* data, size_t stride) {
    std::vector<const std::byte*> rows(kRows + kMaxTile);
    for (size_t r = 0; r < rows.size(); ++r) rows[r] = static_cast<const std::byte*>(data) + r % kRows * stride;
    return rows;
}

template <class A, class B>
void same(const char* what, const A& a, const B& b, double tolerance) {
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i)
        worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    if (!(worst <= tolerance)) std::printf("%s: off by %g, %g allowed\n", what, worst, tolerance), ++failures;
}

template <class Run>  // run(kernels, out) for both
void compare(const char* what, const Kernels& own, size_t n, double tolerance, Run run) {
    Floats a(n), b(n);
    run(own, a.data());
    run(kernels_portable(), b.data());
    same(what, a, b, tolerance);
}

void check_floats(const Kernels& own) {
    const Floats vectors = numbers(kRows * kDim), query = numbers(kDim);
    std::vector<uint16_t> halves(vectors.size()), portable(vectors.size());
    own.to_half(vectors.data(), halves.data(), halves.size());
    kernels_portable().to_half(vectors.data(), portable.data(), portable.size());
    same("to_half", halves, portable, 0);
    compare("from_half", own, halves.size(), 0,
            [&](const Kernels& k, float* out) { k.from_half(halves.data(), out, halves.size()); });
    const auto rows = pointers(vectors.data(), kDim * 4), half_rows = pointers(halves.data(), kDim * 2);
    for (size_t n : {size_t{1}, size_t{37}, kRows}) {
        compare("dot_f32", own, n, 1e-4, [&](auto& k, float* o) { k.dot_f32(rows.data(), n, query.data(), kDim, o); });
        compare("l2_f32", own, n, 1e-3, [&](auto& k, float* o) { k.l2_f32(rows.data(), n, query.data(), kDim, o); });
        compare("dot_f16", own, n, 1e-4, [&](auto& k, float* o) { k.dot_f16(half_rows.data(), n, query.data(), kDim, o); });
        compare("l2_f16", own, n, 1e-3, [&](auto& k, float* o) { k.l2_f16(half_rows.data(), n, query.data(), kDim, o); });
    }
    // Panels against the rows kernel of the same table: they pack queries each in their own width.
    for (size_t vectors_of = 1; vectors_of <= own.panel_vectors; ++vectors_of) {
        const size_t wide = vectors_of * own.lanes;
        const Floats queries = numbers(wide * kDim);
        Floats packed(wide * kDim), out(kRows * wide), expected(kRows);
        for (size_t q = 0; q < wide; ++q)
            for (size_t d = 0; d < kDim; ++d) packed[d * wide + q] = queries[q * kDim + d];
        for (const bool far : {false, true}) {
            (far ? own.panel_l2_f32 : own.panel_dot_f32)(rows.data(), kRows, packed.data(), vectors_of, kDim, out.data(),
                                                                wide, {rows.data(), kDim * 4});
            for (size_t q = 0; q < wide; ++q) {
                (far ? own.l2_f32 : own.dot_f32)(rows.data(), kRows, &queries[q * kDim], kDim, expected.data());
                Floats column(kRows);
                for (size_t r = 0; r < kRows; ++r) column[r] = out[r * wide + q];
                same("panel_f32", column, expected, 1e-3);
            }
        }
    }
    Floats scores = numbers(64);
    const Floats thresholds = numbers(64);
    scores[5] = thresholds[5];
    for (size_t n : {size_t{1}, size_t{16}, size_t{61}, size_t{64}})
        if (own.above(scores.data(), thresholds.data(), n) != kernels_portable().above(scores.data(), thresholds.data(), n) ||
            own.above_one(scores.data(), scores[3], n) != kernels_portable().above_one(scores.data(), scores[3], n))
            std::printf("above: other bits for %zu\n", n), ++failures;
}

void check_int8(const Kernels& own) {
    const Bytes codes = bytes(kRows * kDim, 1);
    const auto rows = pointers(codes.data(), kDim);
    const Floats factors = numbers(2 * (kRows + kMaxTile));
    Floats threes;  // as panels take them, with one more
    for (size_t r = 0; r < kRows + kMaxTile; ++r) threes.insert(threes.end(), {factors[2 * r], 0, factors[2 * r + 1]});
    const size_t wide = own.panel_vectors * own.lanes;
    const auto queries = bytes<int8_t>(wide * kDim, 129, 383);  // -127 .. 127
    std::vector<int8_t> packed(wide * kDim);
    std::vector<int32_t> sums(wide);
    const Floats scales(wide, 0.01f), constants(wide, 0);
    Floats out(kRows * wide);
    for (size_t q = 0; q < wide; ++q)
        for (size_t d = 0; d < kDim; ++d) {
            packed[(d / 4 * wide + q) * 4 + d % 4] = queries[q * kDim + d];
            sums[q] += queries[q * kDim + d];
        }
    own.panel_bytes[0](rows.data(), threes.data(), kRows, {packed.data(), sums.data(), scales.data(), constants.data(), 128},
                    own.panel_vectors, kDim / 4, out.data(), wide, {rows.data(), kDim});
    for (size_t q = 0; q < wide; ++q) {
        const Int8Query query{&queries[q * kDim], sums[q], scales[q]};
        compare("dot_i8", own, kRows, 1e-2,
                [&](auto& k, float* o) { k.dot_i8(rows.data(), factors.data(), kRows, query, kDim, o); });
        Floats column(kRows), expected(kRows);
        for (size_t r = 0; r < kRows; ++r) column[r] = out[r * wide + q];
        own.dot_i8(rows.data(), factors.data(), kRows, query, kDim, expected.data());
        same("panel_bytes", column, expected, 0);
    }
}

// Many queries over rows of packed codes, unpacked, get the very scores that each of them gets alone.
void check_unpacked(const Kernels& own, int b, const Bytes& codes, const std::vector<const std::byte*>& rows) {
    const size_t fields = 8u >> b, lines = kDim / 64, wide = own.panel_vectors * own.lanes;
    const size_t width = lines * 64 * fields - fields * kPackedTail, quads = width / 4;
    Bytes bytes_of(kRows * width + 8 * kDim + 64);
    Floats factors(3 * kRows);
    std::vector<const std::byte*> unpacked(kRows);
    for (size_t r = 0; r < kRows; ++r) {
        own.unpack[b](rows[r], lines, &bytes_of[r * width]);
        std::memcpy(&factors[3 * r], &codes[(r + 1) * kDim - kPackedTail], kPackedTail);
        unpacked[r] = &bytes_of[r * width];
    }
    std::vector<int8_t> packed(wide * width), alone(lines * 64 * fields);
    std::vector<int32_t> sums(wide);
    Floats scales(wide), constants(wide), out(kRows * wide), column(kRows), expected(kRows);
    std::vector<std::vector<int8_t>> queries;
    for (size_t q = 0; q < wide; ++q) {
        queries.push_back(bytes<int8_t>(width, 129, 383));
        for (size_t i = 0; i < width; ++i) {
            packed[(i / 4 * wide + q) * 4 + i % 4] = queries[q][i];
            sums[q] += queries[q][i];
        }
        scales[q] = 0.001f * static_cast<float>(q + 1);
        constants[q] = static_cast<float>(q);
    }
    own.panel_bytes[b < 3](unpacked.data(), factors.data(), kRows,
                    {packed.data(), sums.data(), scales.data(), constants.data(), 0}, own.panel_vectors, quads,
                    out.data(), wide, {rows.data(), kDim});
    for (size_t q = 0; q < wide; ++q) {
        size_t i = 0;
        std::fill(alone.begin(), alone.end(), int8_t{0});
        for (size_t line = 0; line < lines; ++line)
            for (size_t field = 0; field < fields; ++field) {
                const size_t used = line + 1 < lines ? 64 : 64 - kPackedTail;
                std::memcpy(&alone[(line * fields + field) * 64], &queries[q][i], used);
                i += used;
            }
        own.dot_packed_run[b](codes.data(), kRows, {alone.data(), lines, sums[q], scales[q], 1, constants[q]}, expected.data());
        for (size_t r = 0; r < kRows; ++r) column[r] = out[r * wide + q];
        same("unpack and panel_bytes", column, expected, 0);
    }
}

void check_codes(const Kernels& own) {
    constexpr size_t lines = kDim / 64, stride = kDim + 8;
    Bytes codes = bytes(kRows * kDim);
    const Floats tails = numbers(3 * kRows);
    for (size_t r = 0; r < kRows; ++r) std::memcpy(&codes[(r + 1) * kDim - kPackedTail], &tails[3 * r], kPackedTail);
    auto query = bytes<int8_t>(8 * kDim, 129, 383);
    for (size_t field = 0; field < 8; ++field)  // where the tail lies; only the last line of each number of fields matters
        for (size_t line = 0; line < 8 * lines; ++line) std::memset(&query[line * 64 + 64 - kPackedTail], 0, kPackedTail);
    const auto rows = pointers(codes.data(), kDim);
    for (int b = 0; b < 4; ++b) {
        int32_t sum = 0;
        for (size_t i = 0; i < kDim * (8u >> b); ++i) sum += query[i];
        const PackedQuery prepared{query.data(), lines, sum, 0.01f, 1, 2};
        for (size_t n : {size_t{3}, size_t{37}, kRows}) {
            compare("dot_packed", own, n, 0.1, [&](auto& k, float* o) { k.dot_packed[b](rows.data(), n, prepared, o); });
            Floats list(n), run(n);
            own.dot_packed[b](rows.data(), n, prepared, list.data());
            own.dot_packed_run[b](codes.data(), n, prepared, run.data());
            same("dot_packed_run", run, list, 0);
        }
        check_unpacked(own, b, codes, rows);
    }
    const Floats values = numbers(kDim);
    Bytes adaptive = bytes(kRows * stride);
    for (size_t r = 0; r < kRows; ++r) {
        const float header[2] = {0.01f, -1};
        std::memcpy(&adaptive[r * stride], header, sizeof header);
    }
    const auto groups = pointers(adaptive.data(), stride);
    for (const bool twelve : {false, true})
        for (const bool far : {false, true}) {
            const AdaptiveQuery prepared{values.data(), twelve ? size_t{4} : size_t{6}, 3, 2, 1};
            compare("score_adaptive", own, kRows, 1.0, [&](auto& k, float* o) {
                k.score_adaptive[twelve][far](groups.data(), kRows, prepared, o);
            });
        }
    const auto table = bytes<uint8_t>(lines * 64 * kCentroids);
    for (size_t n : {size_t{5}, size_t{70}, kRows})
        compare("score_product", own, n, 0, [&](auto& k, float* o) {
            k.score_product(rows.data(), n, {table.data(), lines, 0.5f, 3}, o);
        });
}

void check_making(const Kernels& own) {
    const Floats x = numbers(kDim), offset = numbers(kDim), book = numbers(kCodebook);
    Floats range[2] = {Floats(2), Floats(2)};
    own.range(x.data(), kDim, &range[0][0], &range[0][1]);
    kernels_portable().range(x.data(), kDim, &range[1][0], &range[1][1]);
    same("range", range[0], range[1], 0);
    const auto code = [&](const Kernels& k, bool twelve) {
        Bytes codes(kDim * 3 / 2);
        const Grid grid{-2, twelve ? 1000.0f : 63.0f, 0.5f, twelve ? 4095.0f : 255.0f};
        (twelve ? k.quantize12 : k.quantize)(x.data(), kDim, grid, codes.data());
        Floats back(kDim);
        (twelve ? k.dequantize12 : k.dequantize)(codes.data(), kDim, 1 / grid.inverse, -2, offset.data(), back.data());
        return back;
    };
    same("quantize", code(own, false), code(kernels_portable(), false), 1.01 / 63);  // a tie may be rounded either way
    same("quantize12", code(own, true), code(kernels_portable(), true), 1.01 / 1000);
    compare("fit", own, 2, 1e-2, [&](auto& k, float* o) { k.fit(x.data(), kDim, {0, 3, 8, 15}, 7.5f, o, o + 1); });
    for (const bool near : {false, true})
        compare("score_centroids", own, kCentroids, 1e-4,
                [&](auto& k, float* o) { k.score_centroids(x.data(), book.data(), near, o); });
    Bytes a(kDim / 8), b(kDim / 8);
    own.nearest_centroids(x.data(), 8, a.size(), book.data(), a.data(), 1);
    kernels_portable().nearest_centroids(x.data(), 8, b.size(), book.data(), b.data(), 1);
    if (a != b) std::printf("nearest_centroids: others\n"), ++failures;
    for (size_t bits = 0; bits < 2; ++bits) {
        const Bytes codes = bytes(kDim / 4 << bits), table = bytes(16), base = bytes(kDim);
        const auto unfolded = [&](const Kernels& k) {
            Bytes out(kDim);
            k.unfold[bits](codes.data(), kDim / 64, table.data(), base.data(), out.data());
            return out;
        };
        if (unfolded(own) != unfolded(kernels_portable())) std::printf("unfold: others\n"), ++failures;
    }
    const Bytes signs = bytes(kDim / 8);
    Bytes unpacked(kDim), expected(kDim);
    own.unpack_signs(signs.data(), kDim / 64, unpacked.data());
    for (size_t i = 0; i < kDim; ++i) expected[i] = signs[i / 8] >> i % 8 & std::byte{1};
    if (unpacked != expected) std::printf("unpack_signs: others\n"), ++failures;
    const Floats scores = numbers(37 * kDim);
    compare("maxima", own, kDim, 0, [&](auto& k, float* o) { k.maxima(scores.data(), 37, kDim, kDim, o); });
}

void check(const char* name, const Kernels& own) {
    const int before = failures;
    check_floats(own);
    check_int8(own);
    check_codes(own);
    check_making(own);
    std::printf("%s: %s\n", name, failures == before ? "agrees with portable" : "FAILED");
}

}  // namespace

int main() {
    check("portable", rag::kernels_portable());  // its panels against its rows
#if defined(__aarch64__)
    check("neon", rag::kernels_neon());
#elif defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) check("avx2", rag::kernels_avx2());
    if (__builtin_cpu_supports("avx512vnni")) check("avx512", rag::kernels_avx512());
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni"))
        check("avx512vbmi", rag::kernels_avx512vbmi());
#endif
    return failures != 0;
}
