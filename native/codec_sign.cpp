// Sign codes: a bit a component. A vector less the mean is whitened in part and turned at random, by one learned matrix,
// and the signs of its components are kept, no length and no scale (RaBitQ: Gao and Long, SIGMOD 2024, without the
// lengths, which say little where all vectors are of unit length). A query takes the same way in bytes; the cosine of
// what comes out with the signs orders the vectors, and a learned line makes an estimate of the inner product of it.
#include <algorithm>
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

class SignQueries : public Queries {
public:
    SignQueries(size_t n, size_t dim)
        : n_(n), row_bytes_((dim + 7) / 8), lines_((dim + kLine - 1) / kLine), side_by_side_(n, dim, 0, true) {}

    // `values` [round_up(dim, kUnit)]: the query after the learned matrix. Scores are factor * <values, signs> + constant.
    void set(size_t query, const float* values, size_t padded, float factor, float constant) {
        std::vector<std::byte> codes(padded);
        const Bytes bytes = to_bytes(values, padded, codes.data());
        const auto* signed_codes = reinterpret_cast<const int8_t*>(codes.data());
        side_by_side_.set(query, signed_codes, bytes.sum, factor * bytes.scale, constant);
    }

    void rows(size_t query, const Block& block, float* out) const override {
        const size_t lanes = kernels().lanes, vectors = kernels().panel_vectors, first = query / (lanes * vectors) * vectors;
        const size_t count = std::min(vectors, (n_ + lanes - 1) / lanes - first), ld = count * lanes;
        std::vector<float> scores(round_up(block.n, kernels().tile_rows) * ld);
        panel(first, count, block, scores.data(), ld);
        for (size_t r = 0; r < block.n; ++r) out[r] = scores[r * ld + query - first * lanes];
    }

    // A few rows at a time, as bytes that stay in the first-level cache: 1 where the bit is set, and a factor of 2 and an
    // offset of -1 make signs of them.
    void panel(size_t first, size_t vectors, const Block& block, float* out, size_t ld) const override {
        thread_local Lines<std::byte> bytes;
        const size_t tile = kernels().tile_rows, width = lines_ * kLine;
        bytes.resize(kMaxTile * width);
        float factors[3 * kMaxTile] = {};
        const std::byte* rows[kMaxTile];
        for (size_t r = 0; r < kMaxTile; ++r) {
            factors[3 * r] = 2;
            factors[3 * r + 1] = -1;
            rows[r] = bytes.data() + r * width;
        }
        for (size_t i = 0; i < block.n; i += tile) {
            for (size_t r = 0; r < tile; ++r) unpack(block.rows[i + r], bytes.data() + r * width);
            const Ahead ahead{block.rows + i + tile, row_bytes_};
            side_by_side_.score(first, vectors, {rows, factors, std::min(tile, block.n - i)}, out + i * ld, ld, ahead);
        }
    }

private:
    void unpack(const std::byte* row, std::byte* bytes) const {
        if (row_bytes_ == lines_ * 8) return kernels().unpack_signs(row, lines_, bytes);
        thread_local std::vector<std::byte> padded;  // kernels read whole lines
        padded.resize(lines_ * 8);
        std::memcpy(padded.data(), row, row_bytes_);
        kernels().unpack_signs(padded.data(), lines_, bytes);
    }

    size_t n_, row_bytes_, lines_;
    ByteQueries side_by_side_;
};

class Sign : public Codec {
public:
    Sign(size_t dim, const Learned& learned)
        : dim_(dim), padded_(round_up(dim, kUnit)), mean_(learned.mean.empty() ? std::vector<float>(dim) : learned.mean),
          base_(learned.reduced ? Matrix(learned.base, dim) : Matrix()),
          inverse_(learned.reduced ? Matrix(learned.inverse, dim) : Matrix()), line_(learned.line) {}

    std::string_view name() const override { return "sign"; }
    size_t code_bytes() const override { return (dim_ + 7) / 8; }

    void encode(const float* vector, std::byte* code, float* factors) const override {
        encode_all(vector, 1, dim_, code, factors);
    }

    void encode_all(const float* vectors, size_t n, size_t, std::byte* codes, float*) const override {
        thread_local std::vector<float> turned;
        turned.assign(n * padded_, 0);
        turn(vectors, n, turned.data());
        std::memset(codes, 0, n * code_bytes());
        for (size_t i = 0; i < n; ++i, codes += code_bytes())
            for (size_t d = 0; d < dim_; ++d)
                codes[d / 8] |= static_cast<std::byte>((turned[i * padded_ + d] > 0) << d % 8);
    }

    // The mean and the best linear estimate of what is beside it, at unit length.
    void decode(const std::byte* code, const float*, float* vector) const override {
        thread_local std::vector<float> signs;
        signs.assign(round_up(dim_, 16), 0);
        for (size_t d = 0; d < dim_; ++d) signs[d] = std::to_integer<int>(code[d / 8] >> d % 8 & std::byte{1}) ? 1 : -1;
        if (inverse_)
            inverse_.apply(signs.data(), vector);
        else
            std::copy_n(signs.data(), dim_, vector);
        double squares = 0;
        for (size_t d = 0; d < dim_; ++d) {
            vector[d] += mean_[d];
            squares += static_cast<double>(vector[d]) * vector[d];
        }
        const double inverse = squares > 0 ? 1 / std::sqrt(squares) : 0;
        for (size_t d = 0; d < dim_; ++d) vector[d] = static_cast<float>(vector[d] * inverse);
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool) const override {
        std::vector<float> unit(n * dim_), turned(n * padded_);
        std::vector<double> lengths(n);
        for (size_t q = 0; q < n; ++q) {
            const float* query = queries + q * dim_;
            for (size_t d = 0; d < dim_; ++d) lengths[q] += static_cast<double>(query[d]) * query[d];
            lengths[q] = std::sqrt(lengths[q]);
            for (size_t d = 0; d < dim_ && lengths[q] > 0; ++d)
                unit[q * dim_ + d] = static_cast<float>(query[d] / lengths[q]);
        }
        turn(unit.data(), n, turned.data());
        auto prepared = std::make_unique<SignQueries>(n, dim_);
        for (size_t q = 0; q < n; ++q) {
            const float *own = &unit[q * dim_], *values = &turned[q * padded_];
            const double squares = std::inner_product(values, values + dim_, values, 0.0);
            const double along = std::inner_product(own, own + dim_, mean_.data(), 0.0);
            // The cosine with signs, all of which are as long as the root of their number.
            const double factor = squares > 0 ? lengths[q] * line_.slope / std::sqrt(squares * static_cast<double>(dim_)) : 0;
            const double constant = lengths[q] * (line_.mean_slope * along + line_.constant);
            prepared->set(q, values, padded_, static_cast<float>(factor), static_cast<float>(constant));
        }
        return prepared;
    }

private:
    // Vectors less the mean by the learned matrix, [n, padded].
    void turn(const float* vectors, size_t n, float* out) const {
        if (base_) return base_.apply(vectors, n, dim_, mean_.data(), out, padded_);
        for (size_t i = 0; i < n; ++i) std::copy_n(vectors + i * dim_, dim_, out + i * padded_);
    }

    size_t dim_, padded_;
    std::vector<float> mean_;
    Matrix base_, inverse_;
    Learned::Line line_;
};

}  // namespace

std::unique_ptr<Codec> make_sign(size_t dim, Metric metric, const Learned& learned) {
    if (metric == Metric::l2) throw InputError("sign codes keep no lengths", "use metric cosine or ip");
    return std::make_unique<Sign>(dim, learned);
}

}  // namespace rag
