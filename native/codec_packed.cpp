// Packed codes of 1, 2, 4 or 8 bits a component, in whole cache lines with the vector's own scale at their end: what a
// first pass reads. A learned matrix may turn or shorten vectors before (RaBitQ, LeanVec).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "codec.h"

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

// out[r] = <matrix[r], vector>
void multiply(const std::vector<float>& matrix, const float* vector, size_t dim, float* out) {
    const size_t width = round_up(dim, 16), n = matrix.size() / width;
    thread_local std::vector<float> padded;
    thread_local std::vector<const std::byte*> rows;
    padded.assign(width, 0);
    std::copy_n(vector, dim, padded.data());
    rows.resize(n + kMaxTile);
    for (size_t r = 0; r < rows.size(); ++r)
        rows[r] = reinterpret_cast<const std::byte*>(matrix.data() + std::min(r, n - 1) * width);
    kernels().dot_f32(rows.data(), n, padded.data(), width, out);
}

// How components lie in a row of codes.
struct Layout {
    Layout(size_t components, int bits_)
        : bits(bits_), fields(8 / bits), lines((round_up(components, fields) / fields + kPackedTail + kLine - 1) / kLine) {}

    size_t bytes() const { return lines * kLine; }
    // Calls f(component, line, field, byte) for components 0..n-1.
    template <class F>
    void each(size_t n, F f) const {
        size_t i = 0;
        for (size_t line = 0; line < lines; ++line) {
            const size_t used = line + 1 < lines ? kLine : kLine - kPackedTail;
            for (size_t field = 0; field < fields; ++field)
                for (size_t b = 0; b < used; ++b, ++i) {
                    if (i == n) return;
                    f(i, line, field, b);
                }
        }
    }

    int bits;
    size_t fields, lines;
};

class PackedQueries : public Queries {
public:
    PackedQueries(size_t n, const Layout& layout)
        : kernel_(kernels().dot_packed[layout.bits == 1 ? 0 : layout.bits == 2 ? 1 : layout.bits == 4 ? 2 : 3]),
          layout_(layout), codes_(n * layout.bytes() * layout.fields) {}

    void add(const float* values, size_t n, float factor, float weight, float constant) {
        int8_t* codes = codes_.data() + prepared_.size() * layout_.bytes() * layout_.fields;
        float largest = 0;
        for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(values[i]));
        const float scale = largest / 127, inverse = scale > 0 && std::isfinite(1 / scale) ? 1 / scale : 0;
        int32_t sum = 0;
        layout_.each(n, [&](size_t i, size_t line, size_t field, size_t b) {
            const float x = values[i] * inverse;
            const int code = std::clamp(static_cast<int>(x + std::copysign(0.5f, x)), -127, 127);
            codes[(line * layout_.fields + field) * kLine + b] = static_cast<int8_t>(code);
            sum += code;
        });
        prepared_.push_back({codes, layout_.lines, sum, factor * scale, weight, constant});
    }

    void rows(size_t query, const Block& block, float* out) const override {
        kernel_(block.rows, block.n, prepared_[query], out);
    }
    void panel(size_t, size_t, const Block&, float*, size_t) const override {}

private:
    void (*kernel_)(const std::byte* const*, size_t, const PackedQuery&, float*);
    Layout layout_;
    std::vector<int8_t> codes_;
    std::vector<PackedQuery> prepared_;
};

class Packed : public Codec {
public:
    Packed(const PackedForm& form, size_t dim, Metric metric, const Learned& learned)
        : form_(form), dim_(dim), metric_(metric), learned_(learned),
          components_(form.multiplied && learned.reduced ? learned.reduced : dim), layout_(components_, form.bits),
          steps_(steps(form.bits)) {}

    std::string_view name() const override { return form_.name; }
    size_t code_bytes() const override { return layout_.bytes(); }
    std::string_view exact() const override { return form_.exact; }
    size_t candidates(size_t k) const override { return k * form_.per_result + form_.at_least; }
    bool panels() const override { return false; }

    void encode(const float* vector, std::byte* code, float*) const override {
        thread_local std::vector<float> centred, values;
        thread_local std::vector<uint8_t> codes;
        centre(vector, centred);
        const float norm = std::inner_product(centred.begin(), centred.end(), centred.begin(), 0.0f);
        const float* y = multiplied(learned_.base, centred, values);
        codes.assign(components_, 0);
        const auto [scale, low] = form_.symmetric ? around_zero(y, codes.data()) : between(y, codes.data());
        std::memset(code, 0, layout_.bytes());
        layout_.each(components_, [&](size_t i, size_t line, size_t field, size_t b) {
            code[line * kLine + b] |= static_cast<std::byte>(codes[i] << field * form_.bits);
        });
        const float tail[3] = {scale, low, metric_ == Metric::l2 ? norm : 0};
        static_assert(sizeof tail == kPackedTail);
        std::memcpy(code + layout_.bytes() - kPackedTail, tail, sizeof tail);
    }

    void decode(const std::byte* code, const float*, float* vector) const override {
        float tail[3];
        std::memcpy(tail, code + layout_.bytes() - kPackedTail, sizeof tail);
        std::vector<float> y(components_);
        const int mask = (1 << form_.bits) - 1;
        layout_.each(components_, [&](size_t i, size_t line, size_t field, size_t b) {
            const int value = static_cast<int>(code[line * kLine + b]) >> field * form_.bits & mask;
            y[i] = tail[0] * static_cast<float>(value) + tail[1];
        });
        if (learned_.base.empty() || !form_.multiplied) {
            std::copy_n(y.data(), dim_, vector);
        } else {
            std::fill_n(vector, dim_, 0.0f);
            for (size_t r = 0; r < components_; ++r)
                for (size_t d = 0; d < dim_; ++d) vector[d] += y[r] * learned_.base[r * round_up(dim_, 16) + d];
        }
        if (!learned_.mean.empty())
            for (size_t d = 0; d < dim_; ++d) vector[d] += learned_.mean[d];
    }

    std::unique_ptr<Queries> prepare(const float* queries, size_t n, bool) const override {
        auto prepared = std::make_unique<PackedQueries>(n, layout_);
        std::vector<float> query, values;
        for (size_t i = 0; i < n; ++i) {
            float constant = 0;
            if (metric_ == Metric::l2) {
                centre(queries + i * dim_, query);
                constant = -std::inner_product(query.begin(), query.end(), query.begin(), 0.0f);
            } else {
                query.assign(queries + i * dim_, queries + (i + 1) * dim_);
                if (!learned_.mean.empty())
                    constant = std::inner_product(query.begin(), query.end(), learned_.mean.begin(), 0.0f);
            }
            const float* z = multiplied(learned_.query, query, values);
            const bool far = metric_ == Metric::l2;
            prepared->add(z, components_, far ? 2.0f : 1.0f, far ? 1.0f : 0.0f, constant);
        }
        return prepared;
    }

private:
    void centre(const float* vector, std::vector<float>& to) const {
        to.assign(vector, vector + dim_);
        if (!learned_.mean.empty())
            for (size_t d = 0; d < dim_; ++d) to[d] -= learned_.mean[d];
    }
    const float* multiplied(const std::vector<float>& matrix, const std::vector<float>& vector,
                            std::vector<float>& to) const {
        if (!form_.multiplied || matrix.empty()) return vector.data();
        to.resize(components_);
        multiply(matrix, vector.data(), dim_, to.data());
        return to.data();
    }

    // LVQ: from the smallest to the largest component. Returns (scale, low).
    std::pair<float, float> between(const float* y, uint8_t* codes) const {
        const auto [low, high] = std::minmax_element(y, y + components_);
        const int most = (1 << form_.bits) - 1;
        const float step = (*high - *low) / static_cast<float>(most);
        for (size_t i = 0; step > 0 && i < components_; ++i)
            codes[i] = static_cast<uint8_t>(std::clamp(static_cast<int>((y[i] - *low) / step + 0.5f), 0, most));
        return {step, *low};
    }

    // RaBitQ: the grid of odd halves, at the step whose code points most nearly where y does, scaled so that <code, y>
    // is |y|^2, which leaves scores without bias.
    std::pair<float, float> around_zero(const float* y, uint8_t* codes) const {
        const float squares = std::inner_product(y, y + components_, y, 0.0f);
        if (!(squares > 0)) return {0, 0};
        const float rms = std::sqrt(squares / static_cast<float>(components_));
        const int half = 1 << (form_.bits - 1);
        const float middle = static_cast<float>(half) - 0.5f;
        const auto code = [&](float x) {
            return static_cast<uint8_t>(std::clamp(static_cast<int>(x + static_cast<float>(half)), 0, 2 * half - 1));
        };
        float best = -1, best_inverse = 0, best_dot = 0;
        for (const float step : steps_) {
            const float inverse = 1 / (step * rms);
            float dot = 0, norm = 0;
            for (size_t i = 0; i < components_; ++i) {
                const float x = y[i] * inverse, c = static_cast<float>(code(std::floor(x))) - middle;
                dot += c * y[i];
                norm += c * c;
            }
            const float cosine = dot / std::sqrt(norm);
            if (cosine > best) best = cosine, best_inverse = inverse, best_dot = dot;
        }
        for (size_t i = 0; i < components_; ++i) codes[i] = code(std::floor(y[i] * best_inverse));
        const float scale = squares / best_dot;
        return {scale, -middle * scale};
    }

    PackedForm form_;
    size_t dim_;
    Metric metric_;
    const Learned& learned_;
    size_t components_;
    Layout layout_;
    std::vector<float> steps_;
};

}  // namespace

std::unique_ptr<Codec> make_packed(const PackedForm& form, size_t dim, Metric metric, const Learned& learned) {
    return std::make_unique<Packed>(form, dim, metric, learned);
}

}  // namespace rag
