// Packed codes of 1, 2, 4 or 8 bits a component, in whole cache lines with the vector's own scale at their end: what a
// first pass reads. A learned matrix may turn or shorten vectors before (RaBitQ, LeanVec).
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "byte_panel.h"
#include "matrix.h"

namespace rag {

namespace {

constexpr size_t kLine = 64;

// Steps of the grid to try, in units of the components' root mean square: around the best one for a normal distribution.
std::vector<float> steps(int bits) {
    switch (bits) {
        case 1: return {1};
        case 2: return {0.8f, 0.9f, 1.0f, 1.1f, 1.2f};
        case 4: return {0.26f, 0.30f, 0.34f, 0.38f, 0.43f};
        default: return {0.025f, 0.03f, 0.035f, 0.04f};
    }
}

// A matrix for queries, in bytes: a query is coded in bytes after it anyway, and floats would take longer to read than
// all the codes of a short walk.
class ByteMatrix {
public:
    ByteMatrix() = default;
    ByteMatrix(const Matrix& matrix, size_t n, size_t dim) : width_(round_up(dim, kLine)), n_(n), codes_(n * width_) {
        std::vector<float> row(width_);
        for (size_t r = 0; r < n; ++r) {
            std::byte* to = codes_.data() + r * width_;
            std::copy_n(matrix[r], dim, row.data());
            const Bytes bytes = to_bytes(row.data(), width_, to);
            for (size_t i = 0; i < width_; ++i) to[i] ^= std::byte{128};
            factors_.insert(factors_.end(), {bytes.scale, 0});
        }
        for (size_t r = 0; r < n + kMaxTile; ++r) rows_.push_back(codes_.data() + std::min(r, n - 1) * width_);
    }
    explicit operator bool() const { return n_ > 0; }
    void multiply(const float* padded, size_t width, float* out) const {
        thread_local std::vector<std::byte> query;
        query.assign(width_, std::byte{0});
        const Bytes bytes = to_bytes(padded, width, query.data());
        const Int8Query prepared{reinterpret_cast<const int8_t*>(query.data()), bytes.sum, bytes.scale};
        kernels().dot_i8(rows_.data(), factors_.data(), n_, prepared, width_, out);
    }

private:
    size_t width_ = 0, n_ = 0;
    std::vector<std::byte> codes_;
    std::vector<float> factors_;
    std::vector<const std::byte*> rows_;
};

// How components lie in a row of codes.
struct Layout {
    Layout(size_t components, int bits_)
        : bits(bits_), fields(8 / bits), lines((round_up(components, fields) / fields + kPackedTail + kLine - 1) / kLine) {}

    size_t bytes() const { return lines * kLine; }
    size_t codes() const { return lines * kLine * fields; }  // that a row has room for, and some more
    size_t kernel() const { return std::countr_zero(static_cast<unsigned>(bits)); }  // of those kept by bits

    // Calls f(component, line, field, n): n components from that one on lie in the same field of a line.
    template <class F>
    void each(F f) const {
        size_t i = 0;
        for (size_t line = 0; line < lines; ++line) {
            const size_t used = line + 1 < lines ? kLine : kLine - kPackedTail;
            for (size_t field = 0; field < fields; ++field, i += used) f(i, line, field, used);
        }
    }
    // Codes, one a byte, to a row, eight at a time: no shift leaves its byte. It goes beyond what is used in the last
    // line, into the tail of the row, which comes after.
    void pack(const std::byte* codes, std::byte* row) const {
        std::memset(row, 0, bytes());
        each([&](size_t i, size_t line, size_t field, size_t) {
            for (size_t b = 0; b < kLine; b += 8) {
                const uint64_t word = load(row + line * kLine + b) | load(codes + i + b) << field * bits;
                std::memcpy(row + line * kLine + b, &word, 8);
            }
        });
    }
    static uint64_t load(const std::byte* p) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        return word;
    }

    int bits;
    size_t fields, lines;
};

class PackedQueries : public Queries {
public:
    PackedQueries(size_t n, size_t components, const Layout& layout, bool panels)
        : layout_(layout), width_(round_up(components, kUnit)), codes_(n * layout.codes()), bytes_(layout.codes()),
          side_by_side_(panels ? n : 0, components, 0, layout.bits < 8), panels_(panels) {}

    // `values` are padded with zeros to a multiple of kUnit.
    void add(const float* values, float factor, float weight, float constant) {
        const size_t query = prepared_.size();
        int8_t* codes = codes_.data() + query * layout_.codes();
        const auto [scale, sum] = to_bytes(values, width_, bytes_.data());
        layout_.each([&](size_t i, size_t line, size_t field, size_t n) {
            std::memcpy(codes + (line * layout_.fields + field) * kLine, bytes_.data() + i, n);
        });
        prepared_.push_back({codes, layout_.lines, sum, factor * scale, weight, constant});
        if (panels_)
            side_by_side_.set(query, reinterpret_cast<const int8_t*>(bytes_.data()), sum, factor * scale, constant);
    }

    void rows(size_t query, const Block& block, float* out) const override {
        if (block.run)
            kernels().dot_packed_run[layout_.kernel()](block.run, block.n, prepared_[query], out);
        else
            kernels().dot_packed[layout_.kernel()](block.rows, block.n, prepared_[query], out);
    }

    // Rows are unpacked once for all the queries.
    void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const override {
        thread_local std::vector<std::byte> bytes;
        thread_local std::vector<const std::byte*> rows;
        thread_local std::vector<float> factors;
        const size_t n = round_up(block.n, kernels().tile_rows), tile = kernels().tile_rows;
        bytes.resize(tile * width_ + layout_.codes() + kLine);
        rows.resize(tile);
        factors.resize(3 * tile);
        for (size_t i = 0; i < n; i += tile) {  // so few that they stay in the first-level cache
            for (size_t r = 0; r < tile; ++r) {
                const std::byte* row = block.rows[i + r];
                std::byte* to = bytes.data() + r * width_;  // what is written beyond it the next row overwrites
                kernels().unpack[layout_.kernel()](row, layout_.lines, to);
                float* tail = factors.data() + 3 * r;
                std::memcpy(tail, row + layout_.bytes() - kPackedTail, kPackedTail);
                tail[2] *= prepared_[0].weight;  // the same for all queries
                rows[r] = to;
            }
            const Ahead ahead{block.rows + i + tile, layout_.bytes()};
            side_by_side_.score(first, vectors, {rows.data(), factors.data(), tile}, out + i * ld, ld, ahead);
        }
    }

private:
    Layout layout_;
    size_t width_;
    std::vector<int8_t> codes_;
    std::vector<std::byte> bytes_;  // of one query, by component; zeros beyond the last
    std::vector<PackedQuery> prepared_;
    ByteQueries side_by_side_;
    bool panels_;
};

class Packed : public Codec {
public:
    Packed(const PackedForm& form, size_t dim, Metric metric, const Learned& learned)
        : form_(form), dim_(dim), width_(round_up(dim, kUnit)), metric_(metric), mean_(learned.mean),
          components_(form.multiplied && learned.reduced ? learned.reduced : dim),
          padded_(round_up(components_, kUnit)), layout_(components_, form.bits), steps_(steps(form.bits)) {
        mean_.resize(width_);
        if (!form.multiplied || !learned.reduced) return;
        base_ = Matrix(learned.base, dim);
        query_ = ByteMatrix(Matrix(learned.query, dim), components_, dim);
    }

    std::string_view name() const override { return form_.name; }
    size_t code_bytes() const override { return layout_.bytes(); }
    std::string_view exact() const override { return form_.exact; }
    size_t candidates(size_t k) const override { return k * form_.per_result + form_.at_least; }
    bool runs() const override { return true; }

    void encode(const float* vector, std::byte* code, float* factors) const override {
        encode_all(vector, 1, dim_, code, factors);
    }

    // The learned matrix is read once for a panel of vectors.
    void encode_all(const float* vectors, size_t n, size_t, std::byte* codes, float*) const override {
        thread_local std::vector<float> centred, products;
        if (base_) {
            products.assign(n * padded_, 0);
            base_.apply(vectors, n, dim_, mean_.data(), products.data(), padded_);
        }
        for (size_t i = 0; i < n; ++i) {
            centre(vectors + i * dim_, centred);
            encode(centred, base_ ? &products[i * padded_] : centred.data(), codes + i * code_bytes());
        }
    }

    void decode(const std::byte* code, const float*, float* vector) const override {
        thread_local std::vector<std::byte> codes;
        thread_local std::vector<float> values;
        float tail[3];
        std::memcpy(tail, code + layout_.bytes() - kPackedTail, sizeof tail);
        codes.resize(layout_.codes() + kLine);
        kernels().unpack[layout_.kernel()](code, layout_.lines, codes.data());
        values.assign(padded_, 0);
        const float* offset = base_ ? values.data() : mean_.data();
        kernels().dequantize(codes.data(), padded_, tail[0], tail[1], offset, values.data());
        if (!base_) {
            std::copy_n(values.data(), dim_, vector);
            return;
        }
        std::copy_n(mean_.data(), dim_, vector);
        for (size_t r = 0; r < components_; ++r)
            for (size_t d = 0; d < dim_; ++d) vector[d] += values[r] * base_[r][d];
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool panels) const override {
        auto prepared = std::make_unique<PackedQueries>(n, components_, layout_, panels);
        std::vector<float> query, values;
        const bool far = metric_ == Metric::l2;
        for (size_t i = 0; i < n; ++i) {
            float constant;
            if (far) {
                centre(queries + i * dim_, query);
                constant = -dot(query.data(), query.data(), width_);
            } else {
                query.assign(width_, 0);
                std::copy_n(queries + i * dim_, dim_, query.data());
                constant = dot(query.data(), mean_.data(), width_);
            }
            if (query_) {
                values.assign(padded_, 0);
                query_.multiply(query.data(), width_, values.data());
            }
            const float* z = query_ ? values.data() : query.data();
            prepared->add(z, far ? 2.0f : 1.0f, far ? 1.0f : 0.0f, constant);
        }
        return prepared;
    }

private:
    // A vector less the mean, and its components: the products with the learned matrix, if there is any, else itself.
    void encode(const std::vector<float>& centred, float* y, std::byte* code) const {
        thread_local std::vector<std::byte> codes;
        const float norm = metric_ == Metric::l2 ? dot(centred.data(), centred.data(), width_) : 0;
        codes.assign(layout_.codes(), std::byte{0});
        const auto [scale, low] = form_.symmetric ? around_zero(y, codes.data()) : between(y, codes.data());
        std::fill(codes.begin() + components_, codes.begin() + padded_, std::byte{0});
        layout_.pack(codes.data(), code);
        const float tail[3] = {scale, low, norm};
        static_assert(sizeof tail == kPackedTail);
        std::memcpy(code + layout_.bytes() - kPackedTail, tail, sizeof tail);
    }
    void centre(const float* vector, std::vector<float>& to) const {
        to.assign(width_, 0);
        for (size_t d = 0; d < dim_; ++d) to[d] = vector[d] - mean_[d];
    }
    // LVQ: from the smallest to the largest component. Returns (scale, low).
    std::pair<float, float> between(float* y, std::byte* codes) const {
        std::fill(y + components_, y + padded_, y[0]);
        float low, high;
        kernels().range(y, padded_, &low, &high);
        const float most = static_cast<float>((1 << form_.bits) - 1), step = (high - low) / most, inverse = 1 / step;
        kernels().quantize(y, padded_, {low, std::isfinite(inverse) ? inverse : 0, 0.5f, most}, codes);
        return {step, low};
    }

    // RaBitQ: the grid of odd halves, at the step whose code points most nearly where y does, scaled so that <code, y>
    // is |y|^2, which leaves scores without bias.
    std::pair<float, float> around_zero(const float* y, std::byte* codes) const {
        const float squares = dot(y, y, padded_);
        if (!(squares > 0)) return {0, 0};
        const float rms = std::sqrt(squares / static_cast<float>(components_));
        const float half = static_cast<float>(1 << (form_.bits - 1)), middle = half - 0.5f;
        const float padding = static_cast<float>(padded_ - components_) * 0.25f;  // zeros are coded as a half
        float best = -1, best_dot = 0;
        Grid grid{0, 0, half, 2 * half - 1}, best_grid = grid;
        for (const float step : steps_) {
            grid.inverse = 1 / (step * rms);
            float along, norm;
            kernels().fit(y, padded_, grid, middle, &along, &norm);
            const float cosine = along / std::sqrt(norm - padding);
            if (cosine > best) best = cosine, best_grid = grid, best_dot = along;
        }
        kernels().quantize(y, padded_, best_grid, codes);
        const float scale = squares / best_dot;
        return {scale, -middle * scale};
    }

    PackedForm form_;
    size_t dim_, width_;
    Metric metric_;
    std::vector<float> mean_;  // padded with zeros, as is what is multiplied
    size_t components_, padded_;
    Matrix base_;
    ByteMatrix query_;
    Layout layout_;
    std::vector<float> steps_;
};

}  // namespace

std::unique_ptr<Codec> make_packed(const PackedForm& form, size_t dim, Metric metric, const Learned& learned) {
    return std::make_unique<Packed>(form, dim, metric, learned);
}

}  // namespace rag
