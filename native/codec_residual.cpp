// Residual codes: the nearest of learned centroids, and 2 or 4 bits for each component of what is left beside it, with
// one scale for the vector (ColBERTv2: Santhanam et al., NAACL 2022, section 3.3). A learned rotation spreads what is left
// evenly over the components, so that the levels of a normal distribution suit all of them, and the scale is such that
// the product of the code with what is left is what that has with itself: scores are then without bias (RaBitQ: Gao and
// Long, SIGMOD 2024), which keeps the order of the best tokens better than codes that point most nearly where the vectors do.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "byte_panel.h"
#include "errors.h"
#include "lines.h"
#include "matrix.h"

namespace rag {

namespace {

constexpr size_t kLine = 64;
constexpr int kZero = 128;

// The best levels for a normal distribution of unit variance, the positive ones (Max, 1960), and the inverse of their mean
// square.
struct Levels {
    std::vector<float> positive;
    float gain;
};

Levels levels(int bits) {
    switch (bits) {
        case 2: return {{0.4528f, 1.5104f}, 1.1331f};
        default: return {{0.1284f, 0.3881f, 0.6568f, 0.9424f, 1.2562f, 1.6181f, 2.0690f, 2.7326f}, 1.0096f};
    }
}

// How a row lies: which centroid it is (no byte, one or two), its scale in 255ths of the largest, then the codes.
struct Layout {
    Layout(int bits_, size_t components_, size_t centroids)
        : bits(bits_), components(components_), id(centroids == 1 ? 0 : centroids <= 256 ? 1 : 2),
          lines((components + kLine - 1) / kLine), width(lines * kLine),
          codes((components * bits + 7) / 8) {}

    size_t bytes() const { return id + 1 + codes; }
    size_t kernel() const { return bits / 4; }

    int bits;
    size_t components, id, lines, width, codes;
};

// What codes stand for, in bytes.
class Unfolding {
public:
    // `centroids` [n, components]; `spread`: the largest scale.
    Unfolding(const Layout& layout, const std::vector<float>& centroids, float spread)
        : layout_(layout), n_(centroids.size() / layout.components),
          centroids_(n_ * layout.width) {
        const auto [positive, gain] = levels(layout.bits);
        float largest = 1e-30f;
        for (const float x : centroids) largest = std::max(largest, std::abs(x));
        const float inverse = 127 / (largest + spread * gain * positive.back());
        for (size_t c = 0; c < n_; ++c)
            for (size_t i = 0; i < layout.components; ++i)
                centroids_[c * layout.width + i] = rounded(centroids[c * layout.components + i] * inverse);
        step_ = 1 / inverse;
        for (size_t scale = 0; scale < tables_.size(); ++scale)
            for (size_t l = 0, half = positive.size(); l < half; ++l) {
                const float x = spread * gain * inverse * static_cast<float>(scale) / 255 * positive[l];
                tables_[scale][half + l] = rounded(x);
                tables_[scale][half - 1 - l] = rounded(-x);
            }
    }

    // Bytes [n, width] of so many rows; anything beyond the components, where queries are zero.
    void operator()(const std::byte* const* rows, size_t n, std::byte* bytes) const {
        // Copied, since kernels read beyond them; all of them first, or else each load would wait for stores to end.
        thread_local std::vector<std::byte> codes;
        const size_t stride = layout_.lines * 8 * layout_.bits;
        codes.resize(n * stride);
        for (size_t r = 0; r < n; ++r) std::memcpy(codes.data() + r * stride, rows[r] + layout_.id + 1, layout_.codes);
        for (size_t r = 0; r < n; ++r) {
            const auto& table = tables_[std::to_integer<size_t>(rows[r][layout_.id])];
            kernels().unfold[layout_.kernel()](codes.data() + r * stride, layout_.lines, table.data(),
                                               centroids_.data() + centroid(rows[r]) * layout_.width,
                                               bytes + r * layout_.width);
        }
    }
    float step() const { return step_; }  // what a byte more is

private:
    size_t centroid(const std::byte* row) const {
        size_t number = 0;
        std::memcpy(&number, row, layout_.id);
        return std::min(number, n_ - 1);  // it is less, but in a forged file
    }
    static std::byte rounded(float x) {
        return static_cast<std::byte>(static_cast<int8_t>(std::clamp(std::round(x), -127.0f, 127.0f)));
    }

    Layout layout_;
    size_t n_;
    std::vector<std::byte> centroids_;  // signed
    std::array<std::array<std::byte, 16>, 256> tables_{};  // by scale: what is added for each code
    float step_;
};

class ResidualQueries : public Queries {
public:
    // `values` [n, padded]: the queries after the rotation.
    ResidualQueries(const std::vector<float>& values, size_t n, size_t padded, const Layout& layout,
                    const Unfolding& unfolding, bool panels)
        : layout_(layout), unfolding_(unfolding), codes_(n * layout.width),
          side_by_side_(panels ? n : 0, layout.components, kZero, false) {
        for (size_t q = 0; q < n; ++q) {
            std::byte* codes = codes_.data() + q * layout.width;
            const Bytes bytes = to_bytes(values.data() + q * padded, padded, codes);
            const float factor = bytes.scale * unfolding.step();
            prepared_.push_back({reinterpret_cast<const int8_t*>(codes), bytes.sum, factor});
            if (panels) side_by_side_.set(q, prepared_[q].codes, bytes.sum, factor, 0);
        }
    }

    void rows(size_t query, const Block& block, float* out) const override {
        unfolded(block, [&](const Block& tile, size_t first, const Ahead&) {
            float factors[2 * kMaxTile];
            for (size_t r = 0; r < kMaxTile; ++r) factors[2 * r] = 1, factors[2 * r + 1] = 0;
            kernels().dot_i8(tile.rows, factors, tile.n, prepared_[query], layout_.width, out + first);
        });
    }

    void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const override {
        unfolded(block, [&](const Block& tile, size_t row, const Ahead& ahead) {
            side_by_side_.score(first, vectors, tile, out + row * ld, ld, ahead);
        });
    }

private:
    // Calls score(tile, its first row, what to ask for) for a few rows at a time, as bytes that stay in the first-level
    // cache.
    template <class Score>
    void unfolded(const Block& block, Score score) const {
        thread_local Lines<std::byte> bytes;
        const size_t tile = kernels().tile_rows;
        bytes.resize(tile * layout_.width);
        float factors[3 * kMaxTile] = {};
        for (size_t r = 0; r < kMaxTile; ++r) factors[3 * r] = 1;
        const std::byte* rows[2 * kMaxTile];  // kernels may ask for rows that follow
        for (size_t r = 0; r < 2 * kMaxTile; ++r) rows[r] = bytes.data() + r % tile * layout_.width;
        for (size_t i = 0; i < block.n; i += tile) {
            unfolding_(block.rows + i, tile, bytes.data());
            score({rows, factors, std::min(tile, block.n - i)}, i, {block.rows + i + tile, layout_.bytes()});
        }
    }

    Layout layout_;
    const Unfolding& unfolding_;
    std::vector<std::byte> codes_;
    std::vector<Int8Query> prepared_;
    ByteQueries side_by_side_;
};

class Residual : public Codec {
public:
    Residual(int bits, size_t dim, const Learned& learned)
        : dim_(dim), padded_(round_up(dim, kUnit)), base_(learned.reduced ? Matrix(learned.base, dim) : Matrix()),
          spread_(learned.spread), levels_(levels(bits)),
          centroids_(learned.centroids.empty() ? std::vector<float>(dim) : learned.centroids),
          layout_(bits, dim, centroids_.size() / dim), unfolding_(layout_, centroids_, spread_), none_(dim),
          wide_(centroids_.size() / dim * round_up(dim, 16)) {
        const size_t n = centroids_.size() / dim, stride = round_up(dim, 16);
        for (size_t c = 0; c < n; ++c) {
            const float* centroid = centroids_.data() + c * dim_;
            std::copy_n(centroid, dim_, wide_.data() + c * stride);
            halves_.push_back(std::inner_product(centroid, centroid + dim_, centroid, 0.0f) / 2);
        }
        nearest_ = Matrix(wide_, dim_);
    }

    std::string_view name() const override {
        return layout_.bits == 2 ? "residual2" : "residual4";
    }
    size_t code_bytes() const override { return layout_.bytes(); }

    void encode(const float* vector, std::byte* code, float* factors) const override {
        encode_all(vector, 1, dim_, code, factors);
    }

    void encode_all(const float* vectors, size_t n, size_t, std::byte* codes, float*) const override {
        thread_local std::vector<float> turned, scores;
        const size_t count = halves_.size();
        turned.assign(n * padded_, 0);
        turn(vectors, n, turned.data());
        std::vector<float> tight(n * dim_);
        for (size_t i = 0; i < n; ++i) std::copy_n(&turned[i * padded_], dim_, &tight[i * dim_]);
        scores.assign(n * count, 0);
        if (count > 1) nearest_.apply(tight.data(), n, dim_, none_.data(), scores.data(), count);
        for (size_t i = 0; i < n; ++i) {
            size_t best = 0;
            const float* own = scores.data() + i * count;
            for (size_t c = 1; c < count; ++c)
                if (own[c] - halves_[c] > own[best] - halves_[best]) best = c;
            encode(tight.data() + i * dim_, best, codes + i * code_bytes());
        }
    }

    void decode(const std::byte* code, const float*, float* vector) const override {
        std::vector<std::byte> bytes(layout_.width);
        unfolding_(&code, 1, bytes.data());
        std::fill_n(vector, dim_, 0.0f);
        for (size_t r = 0; r < dim_; ++r) {
            const float value = unfolding_.step() * static_cast<float>(std::to_integer<int>(bytes[r]) - kZero);
            if (!base_)
                vector[r] = value;
            else
                for (size_t d = 0; d < dim_; ++d) vector[d] += value * base_[r][d];
        }
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const override {
        std::vector<float> turned(n * padded_);
        turn(queries, n, turned.data());
        return std::make_unique<ResidualQueries>(turned, n, padded_, layout_, unfolding_, panels);
    }

private:
    // Vectors by the learned matrix, [n, padded].
    void turn(const float* vectors, size_t n, float* out) const {
        if (base_)
            base_.apply(vectors, n, dim_, none_.data(), out, padded_);
        else
            for (size_t i = 0; i < n; ++i) std::copy_n(vectors + i * dim_, dim_, out + i * padded_);
    }

    // `vector` becomes what is left of it.
    void encode(float* vector, size_t centroid, std::byte* code) const {
        double squares = 0;
        for (size_t i = 0; i < dim_; ++i) {
            vector[i] -= centroids_[centroid * dim_ + i];
            squares += static_cast<double>(vector[i]) * vector[i];
        }
        const float scale = static_cast<float>(std::sqrt(squares / static_cast<double>(dim_)));
        const float inverse = std::isfinite(1 / scale) ? 1 / scale : 0;
        std::memcpy(code, &centroid, layout_.id);
        std::byte* codes = code + layout_.id + 1;
        std::memset(codes, 0, layout_.codes);
        const std::vector<float>& positive = levels_.positive;
        const size_t half = positive.size();
        double along = 0;
        for (size_t i = 0; i < dim_; ++i) {
            const float x = std::abs(vector[i]);
            size_t level = 0;
            while (level + 1 < half && x * inverse > (positive[level] + positive[level + 1]) / 2) ++level;
            const size_t number = vector[i] > 0 ? half + level : half - 1 - level;
            const size_t bit = i * layout_.bits;
            codes[bit / 8] |= static_cast<std::byte>(number << bit % 8);
            along += static_cast<double>(x) * positive[level];
        }
        const double fit = along > 0 && spread_ > 0 ? squares / along / levels_.gain / spread_ * 255 : 0;
        code[layout_.id] = static_cast<std::byte>(std::lround(std::min(fit, 255.0)));
    }

    size_t dim_, padded_;
    Matrix base_;
    float spread_;
    Levels levels_;
    std::vector<float> centroids_;
    Layout layout_;
    Unfolding unfolding_;
    std::vector<float> none_;  // zeros
    std::vector<float> wide_, halves_;  // the centroids, padded; half their squared lengths
    Matrix nearest_;
};

}  // namespace

std::unique_ptr<Codec> make_residual(int bits, size_t dim, Metric metric, const Learned& learned) {
    if (metric == Metric::l2) throw InputError("residual codes keep no lengths", "use metric cosine or ip");
    return std::make_unique<Residual>(bits, dim, learned);
}

}  // namespace rag
