// Product codes: a byte names the nearest of 256 learned centroids for each 8 components of a vector less the mean.
// Queries become tables of their scores with all centroids, as bytes of one scale, that scores are added up from.
// PQ: Jegou et al., PAMI 2011; 256 centroids for 8 components, for long encodings: Dhulipala et al., NeurIPS 2024.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "codec.h"

namespace rag {

namespace {

constexpr size_t kLine = 64;

// As kernels want the centroids [parts, 256, 8].
std::vector<float> codebooks(const float* centroids, size_t parts) {
    std::vector<float> books(parts * kCodebook);
    for (size_t m = 0; m < parts; ++m)
        for (size_t c = 0; c < kCentroids; ++c) {
            const float* from = centroids + (m * kCentroids + c) * kProductWidth;
            float* to = books.data() + m * kCodebook + c;
            for (size_t d = 0; d < kProductWidth; ++d) to[d * kCentroids] = from[d];
            to[kProductWidth * kCentroids] = std::inner_product(from, from + kProductWidth, from, 0.0f) / -2;
        }
    return books;
}

class ProductQueries : public Queries {
public:
    ProductQueries(size_t n, size_t parts)
        : parts_(parts), lines_((parts + kLine - 1) / kLine), tables_(n * lines_ * kLine * kCentroids) {}

    // The vector is padded to whole parts.
    void add(const float* vector, const std::vector<float>& books, bool far, float constant) {
        uint8_t* table = tables_.data() + prepared_.size() * lines_ * kLine * kCentroids;
        std::vector<float> scores(parts_ * kCentroids), lows(parts_);
        float widest = 0;
        for (size_t m = 0; m < parts_; ++m) {
            float high;
            kernels().score_centroids(vector + m * kProductWidth, &books[m * kCodebook], far, &scores[m * kCentroids]);
            kernels().range(&scores[m * kCentroids], kCentroids, &lows[m], &high);
            widest = std::max(widest, high - lows[m]);
        }
        const float step = widest / 255, inverse = std::isfinite(1 / step) ? 1 / step : 0;
        for (size_t m = 0; m < parts_; ++m)
            kernels().quantize(&scores[m * kCentroids], kCentroids, {lows[m], inverse, 0.5f, 255},
                               reinterpret_cast<std::byte*>(table + m * kCentroids));
        const float low = std::accumulate(lows.begin(), lows.end(), 0.0f), weight = far ? 2 : 1;
        prepared_.push_back({table, lines_, weight * step, weight * low + constant});
    }

    void rows(size_t query, const Block& block, float* out) const override {
        kernels().score_product(block.rows, block.n, prepared_[query], out);
    }
    void panel(size_t, size_t, const Block&, float*, size_t) const override {}

private:
    size_t parts_, lines_;
    std::vector<uint8_t> tables_;
    std::vector<ProductQuery> prepared_;
};

class Product : public Codec {
public:
    Product(size_t dim, Metric metric, const Learned& learned)
        : dim_(dim), parts_((dim + kProductWidth - 1) / kProductWidth), metric_(metric), mean_(learned.mean) {
        mean_.resize(parts_ * kProductWidth);
        std::vector<float> centroids = learned.centroids;  // none yet: all zeros
        centroids.resize(parts_ * kCentroids * kProductWidth);
        books_ = codebooks(centroids.data(), parts_);
    }

    std::string_view name() const override { return "pq"; }
    size_t code_bytes() const override { return round_up(parts_, kLine); }
    std::string_view exact() const override { return "adaptive12"; }
    size_t candidates(size_t k) const override { return 30 * k + 100; }
    bool panels() const override { return false; }

    void encode(const float* vector, std::byte* code, float*) const override {
        thread_local std::vector<float> centred;
        centre(vector, centred);
        for (size_t m = 0; m < parts_; ++m)
            kernels().nearest_centroids(&centred[m * kProductWidth], 0, 1, &books_[m * kCodebook], code + m, 0);
        std::memset(code + parts_, 0, code_bytes() - parts_);
    }

    void decode(const std::byte* code, const float*, float* vector) const override {
        for (size_t d = 0; d < dim_; ++d) {
            const size_t m = d / kProductWidth, row = d % kProductWidth;
            vector[d] = books_[m * kCodebook + row * kCentroids + std::to_integer<size_t>(code[m])] + mean_[d];
        }
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool) const override {
        auto prepared = std::make_unique<ProductQueries>(n, parts_);
        std::vector<float> query;
        const bool far = metric_ == Metric::l2;
        for (size_t i = 0; i < n; ++i) {
            float constant;
            if (far) {
                centre(queries + i * dim_, query);
                constant = -std::inner_product(query.begin(), query.end(), query.begin(), 0.0f);
            } else {
                query.assign(parts_ * kProductWidth, 0);
                std::copy_n(queries + i * dim_, dim_, query.data());
                constant = std::inner_product(query.begin(), query.end(), mean_.begin(), 0.0f);
            }
            prepared->add(query.data(), books_, far, constant);
        }
        return prepared;
    }

private:
    void centre(const float* vector, std::vector<float>& to) const {
        to.assign(parts_ * kProductWidth, 0);
        for (size_t d = 0; d < dim_; ++d) to[d] = vector[d] - mean_[d];
    }

    size_t dim_, parts_;
    Metric metric_;
    std::vector<float> mean_, books_;
};

}  // namespace

std::unique_ptr<Codec> make_product(size_t dim, Metric metric, const Learned& learned) {
    return std::make_unique<Product>(dim, metric, learned);
}

void sum_by_centroid(const float* vectors, size_t n, size_t parts, const float* centroids, size_t threads,
                     const Interrupt& interrupt, float* sums, int64_t* counts) {
    const std::vector<float> books = codebooks(centroids, parts);
    std::vector<std::vector<std::byte>> codes(std::max<size_t>(threads, 1), std::vector<std::byte>(n));
    parallel(parts, threads, interrupt, [&](size_t m, size_t thread) {
        std::byte* code = codes[thread].data();
        const float* vector = vectors + m * kProductWidth;
        const size_t stride = parts * kProductWidth;
        kernels().nearest_centroids(vector, stride, n, &books[m * kCodebook], code, 1);
        float* sum = sums + m * kCentroids * kProductWidth;
        std::fill_n(sum, kCentroids * kProductWidth, 0.0f);
        std::fill_n(counts + m * kCentroids, kCentroids, 0);
        for (size_t i = 0; i < n; ++i, vector += stride) {
            const size_t c = std::to_integer<size_t>(code[i]);
            ++counts[m * kCentroids + c];
            for (size_t d = 0; d < kProductWidth; ++d) sum[c * kProductWidth + d] += vector[d];
        }
    });
}

}  // namespace rag
