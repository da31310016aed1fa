// Product quantisation: scores by tables, and the nearest centroids.
// Part of kernels_body.h: see there.

inline void add_line(const std::byte* codes, const uint8_t* table, uint32_t* sum) {
    uint32_t sums[2] = {0, 0};
    for (size_t m = 0; m < kCacheLine; m += 8) {
        uint64_t word;
        __builtin_memcpy(&word, codes + m, 8);
        for (size_t b = 0; b < 8; ++b, word >>= 8) sums[b % 2] += table[(m + b) * kCentroids + (word & 255)];
    }
    *sum += sums[0] + sums[1];
}

// Line by line over a group of rows, so that the tables of a line (16 KiB) stay in the first-level cache.
void score_product(const std::byte* const* rows, size_t n, const ProductQuery& query, float* out) {
    constexpr size_t group = 128;
    for (size_t first = 0; first < n; first += group) {
        const size_t here = n - first < group ? n - first : group;
        uint32_t sums[group] = {};
        for (size_t line = 0; line < query.lines; ++line)
            for (size_t r = 0; r < here; ++r) {
                __builtin_prefetch(rows[first + r] + (line + 1) * kCacheLine);
                add_line(rows[first + r] + line * kCacheLine, query.table + line * kCacheLine * kCentroids, sums + r);
            }
        for (size_t r = 0; r < here; ++r) out[first + r] = query.step * static_cast<float>(sums[r]) + query.constant;
    }
}

template <size_t N>
inline void centroid_scores(const float* x, const float* codebook, bool near, float* scores) {
    for (size_t c = 0; c < kCentroids; c += N * V::lanes) {
        V::f sum[N];
        for (size_t j = 0; j < N; ++j)
            sum[j] = near ? V::load(codebook + kProductWidth * kCentroids + c + j * V::lanes) : V::zero();
        for (size_t d = 0; d < kProductWidth; ++d) {
            const V::f value = V::broadcast(x[d]);
            for (size_t j = 0; j < N; ++j)
                sum[j] = V::fma(value, V::load(codebook + d * kCentroids + c + j * V::lanes), sum[j]);
        }
        for (size_t j = 0; j < N; ++j) V::store(scores + c + j * V::lanes, sum[j]);
    }
}

void score_centroids(const float* x, const float* codebook, bool near, float* scores) {
    centroid_scores<8>(x, codebook, near, scores);
}

void nearest_centroids(const float* x, size_t stride, size_t n, const float* codebook, std::byte* codes,
                       size_t code_stride) {
    float scores[kCentroids];
    for (size_t i = 0; i < n; ++i, x += stride, codes += code_stride) {
        centroid_scores<8>(x, codebook, true, scores);
        V::f best[4];
        for (int j = 0; j < 4; ++j) best[j] = V::load(scores + j * V::lanes);
        for (size_t c = 4 * V::lanes; c < kCentroids; c += 4 * V::lanes)
            for (int j = 0; j < 4; ++j) best[j] = V::max(best[j], V::load(scores + c + j * V::lanes));
        float most[V::lanes], top;
        V::store(most, V::max(V::max(best[0], best[1]), V::max(best[2], best[3])));
        top = most[0];
        for (int l = 1; l < V::lanes; ++l) top = most[l] > top ? most[l] : top;
        const V::f limit = V::broadcast(top);
        size_t c = 0;
        unsigned found = 0;
        while (!(found = V::not_less(V::load(scores + c), limit)) && c + V::lanes < kCentroids) c += V::lanes;
        *codes = static_cast<std::byte>(c + (found ? __builtin_ctz(found) : 0));
    }
}
