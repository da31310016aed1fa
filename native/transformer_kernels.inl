// Kernels of the transformer encoder, written once over compiler vector types. transformer.cpp includes this file once
// for each instruction set, inside a namespace, with LANES (floats a vector), ROWS (rows a register tile) and TARGET
// (function attribute) defined.

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

constexpr long PANEL = 2 * LANES;  // columns a register tile

TARGET inline Vec load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
TARGET inline void store(float* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }
TARGET inline Vec splat(float x) { return Vec{} + x; }
TARGET inline float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += v[i];
    return total;
}

// exp(x) for x <= 0, relative error below 2e-7: x = n ln 2 + r, Taylor polynomial for exp(r), |r| <= ln 2 / 2.
TARGET inline Vec exp_negative(Vec x) {
    x = x < -87.0f ? splat(-87.0f) : x;
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
    Vec shifted = x * 1.44269504f + magic;
    Vec n = shifted - magic;
    Vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec p = splat(1.0f / 720) * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    Ints bits = (Ints)shifted - (Ints)magic;
    return p * (Vec)((bits + 127) << 23);
}

// x * Phi(x), the exact GELU, with erf after Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7).
TARGET inline Vec gelu(Vec x) {
    Vec z = x * 0.70710678f;
    Vec a = z < 0.0f ? -z : z;
    Vec t = 1.0f / (a * 0.3275911f + 1.0f);
    Vec p = splat(1.061405429f) * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Vec tail = p * t * exp_negative(-(a * a)) * 0.5f;  // 1 - Phi(|x|)
    return x * (z < 0.0f ? tail : 1.0f - tail);
}

TARGET void gelu_all(float* x, long n) {
    for (long i = 0; i < n; i += LANES) store(x + i, gelu(load(x + i)));
}

// One register tile: M rows of a (row stride lda) times one packed panel of b (k by PANEL), plus bias.
template <int M>
TARGET void tile(const float* a, long lda, const float* b, long k, const float* bias, float* c, long ldc) {
    Vec acc[M][2];
    const Vec start0 = bias ? load(bias) : Vec{}, start1 = bias ? load(bias + LANES) : Vec{};
    const float* row[(M + 2) / 3];  // one pointer for three rows: more would not fit into the registers
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) acc[i][0] = start0, acc[i][1] = start1;
#pragma GCC unroll 16
    for (int i = 0; i < (M + 2) / 3; ++i) row[i] = a + 3 * i * lda;
    for (long p = 0; p < k; ++p, b += PANEL) {
        const Vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
            const float x = row[i / 3][(i % 3) * lda];
            acc[i][0] += x * b0;
            acc[i][1] += x * b1;
        }
#pragma GCC unroll 16
        for (int i = 0; i < (M + 2) / 3; ++i) ++row[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) store(c + i * ldc, acc[i][0]), store(c + i * ldc + LANES, acc[i][1]);
}

using Tile = void (*)(const float*, long, const float*, long, const float*, float*, long);

template <int... M>
constexpr std::array<Tile, sizeof...(M)> all_tiles(std::integer_sequence<int, M...>) {
    return {tile<M + 1>...};
}
constexpr auto TILES = all_tiles(std::make_integer_sequence<int, ROWS>());

// c[m, n] = a[m, k] b + bias; n is a multiple of PANEL. Every element is summed in the order of k, whatever m is, so a
// row's result does not depend on the rows beside it.
void multiply(const float* a, long lda, long m, const float* b, long k, const float* bias, float* c, long ldc, long n) {
    const long tiles = (m + ROWS - 1) / ROWS;
    for (long j = 0; j < n; j += PANEL) {
        long row = 0;
        for (long t = 0; t < tiles; ++t) {
            const long rows = m / tiles + (t < m % tiles);
            TILES[rows - 1](a + row * lda, lda, b + j * k, k, bias ? bias + j : nullptr, c + row * ldc + j, ldc);
            row += rows;
        }
    }
}

// Packs rows of w (n by k, row stride ldw) as columns: panel, then k, then PANEL columns; missing columns are zero.
void pack_transposed(const float* w, long ldw, long n, long k, float scale, float* out) {
    for (long j = 0; j < n; j += PANEL, out += k * PANEL)
        for (long i = 0; i < PANEL; ++i)
            for (long p = 0; p < k; ++p) out[p * PANEL + i] = j + i < n ? scale * w[(j + i) * ldw + p] : 0.0f;
}

// Packs w (k by n, row stride ldw, n a multiple of PANEL) into panels of PANEL columns.
void pack(const float* w, long ldw, long n, long k, float* out) {
    for (long j = 0; j < n; j += PANEL)
        for (long p = 0; p < k; ++p, out += PANEL) std::copy_n(w + p * ldw + j, PANEL, out);
}

// x = norm(x + y) * gain + shift for each of m rows of n; y may be null.
TARGET void add_norm(float* x, const float* y, long m, long n, const float* gain, const float* shift, float eps) {
    for (long i = 0; i < m; ++i, x += n) {
        Vec total{}, square{};
        for (long j = 0; j < n; j += LANES) {
            Vec v = load(x + j);
            if (y) v += load(y + i * n + j);
            store(x + j, v);
            total += v;
        }
        const float mean = sum(total) / static_cast<float>(n);
        for (long j = 0; j < n; j += LANES) {
            const Vec d = load(x + j) - mean;
            square += d * d;
        }
        const float inverse = 1.0f / std::sqrt(sum(square) / static_cast<float>(n) + eps);
        for (long j = 0; j < n; j += LANES)
            store(x + j, (load(x + j) - mean) * inverse * load(gain + j) + load(shift + j));
    }
}

// Softmax over the first n of each row; the row stride is a multiple of PANEL and what lies behind n becomes zero.
TARGET void softmax(float* s, long m, long n, long stride) {
    for (long i = 0; i < m; ++i, s += stride) {
        std::fill(s + n, s + stride, -1e30f);
        Vec top = load(s), total{};
        for (long j = LANES; j < stride; j += LANES) {
            const Vec v = load(s + j);
            top = v > top ? v : top;
        }
        float best = top[0];
        for (int j = 1; j < LANES; ++j) best = std::max(best, top[j]);
        for (long j = 0; j < stride; j += LANES) {
            const Vec e = exp_negative(load(s + j) - best);
            store(s + j, e);
            total += e;
        }
        const float inverse = 1.0f / sum(total);
        for (long j = 0; j < stride; j += LANES) store(s + j, load(s + j) * inverse);
    }
}

constexpr Kernels KERNELS{PANEL, multiply, pack_transposed, pack, add_norm, softmax, gelu_all};
