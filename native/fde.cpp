#include "fde.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "codec.h"
#include "errors.h"
#include "kernels.h"

namespace rag {

namespace {

constexpr size_t kBlock = 96;          // tokens that meet the planes at a time: a multiple of every tile_rows
constexpr size_t kTaskTokens = 512;    // of whole sets, about a millisecond
constexpr size_t kPauseTokens = 8192;  // a longer set asks for interrupts while it is at work
constexpr double kLongest = 1e18;      // beyond, sums would not stay finite

// A matrix [n][dim] as panel kernels take it, padded with zeros to a multiple of lanes.
std::vector<float> packed(const float* matrix, size_t n, size_t dim) {
    const size_t lanes = kernels().lanes, wide = kernels().panel_vectors * lanes;
    std::vector<float> panels(round_up(n, lanes) * dim);
    float* to = panels.data();
    for (size_t first = 0; first < n; first += wide) {
        const size_t width = std::min(wide, round_up(n - first, lanes));
        for (size_t d = 0; d < dim; ++d, to += width)
            for (size_t i = 0; i < std::min(width, n - first); ++i) to[i] = matrix[(first + i) * dim + d];
    }
    return panels;
}

// Products of two floats are exact in double, and their sum has one order: so is its sign, wherever this runs.
double exact_dot(const float* a, const float* b, size_t dim) {
    double sums[8] = {};
    size_t d = 0;
    for (; d + 8 <= dim; d += 8)
        for (size_t i = 0; i < 8; ++i) sums[i] += double{a[d + i]} * double{b[d + i]};
    for (; d < dim; ++d) sums[d % 8] += double{a[d]} * double{b[d]};
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// The token at unit length; zeros where a query's has none.
void scale(const float* token, size_t dim, size_t row, Side side, float* unit) {
    const double length = std::sqrt(exact_dot(token, token, dim));
    if (!(length <= kLongest) || (length == 0 && side == Side::document)) {
        const std::string where = "tokens[" + std::to_string(row) + "]";
        for (size_t d = 0; d < dim; ++d)
            if (!std::isfinite(token[d]))
                throw InputError(where + " holds " + std::to_string(token[d]) + " at position " + std::to_string(d),
                                 "tokens must be finite; check what made them");
        if (length == 0)
            throw InputError(where + " is all zeros, which has no direction", "leave such tokens out");
        throw InputError(where + " is longer than 1e18", "scale the tokens down");
    }
    const double inverse = length > 0 ? 1 / length : 0;
    for (size_t d = 0; d < dim; ++d) unit[d] = static_cast<float>(token[d] * inverse);
}

void check_offsets(std::span<const int64_t> offsets, size_t n_tokens) {
    bool good = !offsets.empty() && offsets.front() == 0 && offsets.back() == static_cast<int64_t>(n_tokens);
    for (size_t i = 1; i < offsets.size(); ++i) good = good && offsets[i - 1] < offsets[i];
    if (!good) throw InputError("offsets do not fit the tokens", "set i is tokens[offsets[i]:offsets[i + 1]]");
}

}  // namespace

struct FixedDimensionalEncoder::Panels {
    const Kernels* kernels;
    std::vector<float> planes;
    std::vector<float> above, below;  // by plane: products beyond these have the right sign, whatever their rounding
    std::vector<float> signs;         // by repetition
    size_t signs_stride;
};

FixedDimensionalEncoder::FixedDimensionalEncoder(const EncodingForm& form, const float* planes, const float* signs,
                                                 const int32_t* sketch)
    : form_(form), planes_(planes, planes + form.repetitions * form.planes * form.dim) {
    if (signs) signs_.assign(signs, signs + form.repetitions * form.projected * form.dim);
    if (sketch) sketch_.assign(sketch, sketch + form.width());
}

std::shared_ptr<const FixedDimensionalEncoder::Panels> FixedDimensionalEncoder::panels() const {
    const std::lock_guard lock(packing_);
    if (panels_ && panels_->kernels == &kernels()) return panels_;
    const size_t dim = form_.dim, columns = form_.repetitions * form_.planes;
    auto made = std::make_shared<Panels>();
    made->kernels = &kernels();
    made->planes = packed(planes_.data(), columns, dim);
    made->above.assign(round_up(std::max<size_t>(columns, 1), 64), std::numeric_limits<float>::infinity());
    made->below = made->above;
    for (size_t i = 0; i < columns; ++i) {
        const float* plane = planes_.data() + i * dim;
        // A sum of n products is off by n / 2^24 of the product of lengths, at most; this is twice that and more.
        const double error = std::sqrt(exact_dot(plane, plane, dim)) * static_cast<double>(dim + 1) * 0x1p-23;
        made->above[i] = static_cast<float>(error);
        made->below[i] = -made->above[i];
    }
    made->signs_stride = round_up(form_.projected, kernels().lanes) * dim;
    if (!signs_.empty())
        for (size_t r = 0; r < form_.repetitions; ++r) {
            const std::vector<float> own = packed(signs_.data() + r * form_.projected * dim, form_.projected, dim);
            made->signs.insert(made->signs.end(), own.begin(), own.end());
        }
    return panels_ = made;
}

// What one thread needs to encode one set after the other.
class FixedDimensionalEncoder::Worker {
public:
    Worker(const FixedDimensionalEncoder& encoder, const Panels& panels, Side side, bool fill)
        : encoder_(encoder), form_(encoder.form_), panels_(panels), kernels_(*panels.kernels),
          side_(side), fill_(side == Side::document && fill), columns_(form_.repetitions * form_.planes),
          words_((columns_ + 63) / 64 + 1), scale_(1 / std::sqrt(static_cast<float>(form_.projected))),
          buckets_(form_.buckets()), nearest_(fill_ ? form_.buckets() : 0),
          sketched_(encoder.sketch_.empty() ? 0 : form_.width()) {
        if (encoder.signs_.empty()) scale_ = 1;
    }

    // Tokens number `first` .. first + n - 1 of all.
    template <class Pause>
    void encode(const float* tokens, size_t first, size_t n, const Pause& pause, float* out) {
        const size_t dim = form_.dim;
        given_ = tokens + first * dim;
        n_ = n;
        if (unit_.size() < n * dim) unit_.resize(n * dim);
        for (size_t t = 0; t < n; ++t) scale(given_ + t * dim, dim, first + t, side_, unit_.data() + t * dim);
        tokens_ = side_ == Side::document ? unit_.data() : given_;
        partition(pause);
        float* whole = sketched_.empty() ? out : sketched_.data();
        for (size_t r = 0; r < form_.repetitions; ++r) {
            aggregate(r);
            if (fill_) fill();
            project(r, whole + r * form_.buckets() * form_.projected);
            if (n > kPauseTokens) pause();
        }
        if (sketched_.empty()) return;
        std::fill_n(out, form_.final_size, 0.0f);
        for (size_t i = 0; i < sketched_.size(); ++i) {
            const int32_t to = encoder_.sketch_[i];
            if (to < 0)
                out[-1 - to] -= sketched_[i];
            else
                out[to] += sketched_[i];
        }
    }

private:
    static constexpr uint32_t kNone = ~uint32_t{0};

    struct Bucket {
        uint32_t count, first;  // tokens in it, and the first of them
        uint32_t row, alone;    // where in `rows_` their sum is, and the first one by itself
    };

    // On which side of each plane each token lies.
    template <class Pause>
    void partition(const Pause& pause) {
        bits_.assign(n_ * words_, 0);
        if (columns_ == 0) return;
        const size_t vectors = round_up(columns_, kernels_.lanes) / kernels_.lanes, ld = vectors * kernels_.lanes;
        products_.resize(kBlock * ld);
        for (size_t start = 0; start < n_; start += kBlock) {
            const size_t count = std::min(kBlock, n_ - start);
            rows_.clear();
            for (size_t t = start; t < start + count; ++t) rows_.push_back(unit_.data() + t * form_.dim);
            multiply(panels_.planes.data(), vectors, products_.data());
            for (size_t t = 0; t < count; ++t) sides(start + t, products_.data() + t * ld, ld);
            if ((start + count) % kPauseTokens < count && n_ > kPauseTokens) pause();
        }
    }

    void sides(size_t t, const float* products, size_t ld) {
        uint64_t* bits = bits_.data() + t * words_;
        for (size_t i = 0; i < ld; i += 64, ++bits) {
            const size_t n = std::min<size_t>(64, ld - i);
            const uint64_t sure = kernels_.above(products + i, panels_.above.data() + i, n);
            uint64_t unsure = kernels_.above(products + i, panels_.below.data() + i, n) & ~sure;
            *bits = sure;
            for (; unsure; unsure &= unsure - 1) {
                const size_t plane = i + static_cast<size_t>(std::countr_zero(unsure));
                if (exact_dot(given_ + t * form_.dim, encoder_.planes_.data() + plane * form_.dim, form_.dim) > 0)
                    *bits |= unsure & -unsure;
            }
        }
    }

    uint32_t bucket_of(size_t t, size_t repetition) const {
        const size_t at = repetition * form_.planes, shift = at % 64;
        const uint64_t* bits = bits_.data() + t * words_ + at / 64;
        uint64_t own = bits[0] >> shift;
        if (shift) own |= bits[1] << (64 - shift);
        return static_cast<uint32_t>(own & (form_.buckets() - 1));
    }

    // The sums of the buckets of one repetition, as rows. A token that is alone in its bucket is its sum.
    void aggregate(size_t repetition) {
        std::fill(buckets_.begin(), buckets_.end(), Bucket{0, kNone, kNone, kNone});
        own_.resize(n_);
        size_t shared = 0;
        for (size_t t = 0; t < n_; ++t) {
            Bucket& bucket = buckets_[own_[t] = bucket_of(t, repetition)];
            if (bucket.count++ == 0) bucket.first = static_cast<uint32_t>(t);
            shared += bucket.count == 2;
        }
        const size_t dim = form_.dim;
        if (sums_.size() < shared * dim) sums_.resize(shared * dim);
        rows_.clear();
        float* next = sums_.data();
        for (size_t t = 0; t < n_; ++t) {
            Bucket& bucket = buckets_[own_[t]];
            const float* token = tokens_ + t * dim;
            if (bucket.first == t) {
                bucket.row = static_cast<uint32_t>(rows_.size());
                if (bucket.count > 1) {
                    std::copy_n(token, dim, next);
                    rows_.push_back(next);
                    next += dim;
                } else {
                    bucket.alone = bucket.row;
                    rows_.push_back(token);
                }
            } else {
                float* sum = sums_.data() + (rows_[bucket.row] - sums_.data());
                for (size_t d = 0; d < dim; ++d) sum[d] += token[d];
            }
        }
    }

    // For each bucket the token in the nearest one, by the planes between them; of several, the first token. One plane
    // after the other may be crossed or not, so a pass for each finds the nearest of all.
    void fill() {
        for (size_t b = 0; b < buckets_.size(); ++b)
            nearest_[b] = buckets_[b].count ? buckets_[b].first : std::numeric_limits<uint64_t>::max() >> 1;
        for (size_t plane = 1; plane < buckets_.size(); plane *= 2)
            for (size_t b = 0; b < buckets_.size(); ++b)
                if (!(b & plane)) {
                    const uint64_t here = nearest_[b], there = nearest_[b | plane];
                    nearest_[b] = std::min(here, there + kFarther);
                    nearest_[b | plane] = std::min(there, here + kFarther);
                }
        for (size_t b = 0; b < buckets_.size(); ++b) {
            if (buckets_[b].count) continue;
            const auto token = static_cast<uint32_t>(nearest_[b]);
            Bucket& from = buckets_[own_[token]];
            if (from.alone == kNone) {
                from.alone = static_cast<uint32_t>(rows_.size());
                rows_.push_back(tokens_ + token * form_.dim);
            }
            buckets_[b].row = from.alone;
        }
    }

    void project(size_t repetition, float* out) {
        const size_t n = form_.projected;
        size_t ld = n;
        if (!encoder_.signs_.empty()) {
            const size_t vectors = round_up(n, kernels_.lanes) / kernels_.lanes;
            ld = vectors * kernels_.lanes;
            products_.resize(std::max(products_.size(), round_up(rows_.size(), kernels_.tile_rows) * ld));
            multiply(panels_.signs.data() + repetition * panels_.signs_stride, vectors, products_.data());
        }
        for (const Bucket& bucket : buckets_) {
            if (bucket.row == kNone) {
                std::fill_n(out, n, 0.0f);
            } else {
                const float* from = encoder_.signs_.empty() ? rows_[bucket.row] : products_.data() + bucket.row * ld;
                const bool mean = side_ == Side::document && bucket.count > 1;
                const float scale = mean ? scale_ / static_cast<float>(bucket.count) : scale_;
                for (size_t i = 0; i < n; ++i) out[i] = from[i] * scale;
            }
            out += n;
        }
    }

    // All rows with a panel; the list of rows is filled up as kernels want it.
    void multiply(const float* panel, size_t vectors, float* out) {
        const size_t n = rows_.size();
        pointers_.assign(n + 2 * kMaxTile, reinterpret_cast<const std::byte*>(rows_.back()));
        for (size_t i = 0; i < n; ++i) pointers_[i] = reinterpret_cast<const std::byte*>(rows_[i]);
        kernels_.panel_dot_f32(pointers_.data(), round_up(n, kernels_.tile_rows), panel, vectors, form_.dim, out,
                               vectors * kernels_.lanes, {pointers_.data(), 0});
    }

    static constexpr uint64_t kFarther = uint64_t{1} << 32;  // one plane more; below are the tokens

    const FixedDimensionalEncoder& encoder_;
    const EncodingForm& form_;
    const Panels& panels_;
    const Kernels& kernels_;
    Side side_;
    bool fill_;
    size_t columns_, words_;  // planes of all repetitions; words of bits a token, and one more
    float scale_;
    const float *given_ = nullptr, *tokens_ = nullptr;  // as they came; as they are summed up
    std::vector<float> unit_;
    size_t n_ = 0;
    std::vector<uint64_t> bits_;
    std::vector<uint32_t> own_;  // the bucket of each token
    std::vector<Bucket> buckets_;
    std::vector<uint64_t> nearest_;
    std::vector<const float*> rows_;
    std::vector<const std::byte*> pointers_;
    std::vector<float> sums_, products_, sketched_;
};

void FixedDimensionalEncoder::encode(const float* tokens, size_t n_tokens, std::span<const int64_t> offsets, Side side,
                                     bool fill, size_t threads, const Interrupt& interrupt, float* out) const {
    check_offsets(offsets, n_tokens);
    const size_t n = offsets.size() - 1;
    std::vector<size_t> starts;  // of tasks
    for (size_t i = 0; i < n; ++i)
        if (starts.empty() || offsets[i + 1] - offsets[starts.back()] > static_cast<int64_t>(kTaskTokens))
            starts.push_back(i);
    starts.push_back(n);
    const std::shared_ptr<const Panels> ready = panels();
    std::vector<std::unique_ptr<Worker>> workers(threads);
    parallel(starts.size() - 1, threads, interrupt, [&](size_t task, size_t thread) {
        if (!workers[thread]) workers[thread] = std::make_unique<Worker>(*this, *ready, side, fill);
        const auto pause = [&] {
            if (thread == 0) interrupt();
        };
        for (size_t i = starts[task]; i < starts[task + 1]; ++i) {
            const auto first = static_cast<size_t>(offsets[i]);
            workers[thread]->encode(tokens, first, static_cast<size_t>(offsets[i + 1]) - first, pause,
                                    out + i * form_.size());
        }
    });
}

}  // namespace rag
