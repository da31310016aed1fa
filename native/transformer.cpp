// A BERT-family text encoder on the CPU: token ids in, unit vectors out, and the tokens' last states where asked for.
//
// Texts are packed one behind the other without padding. A thread takes a few whole texts (about BLOCK tokens) through
// all layers, so that its activations stay in its cache and threads never wait for each other. Weights are packed once
// into panels that the register tiles read in order.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace {

struct Kernels {
    long panel;
    void (*multiply)(const float*, long, long, const float*, long, const float*, float*, long, long);
    void (*pack_transposed)(const float*, long, long, long, float, float*);
    void (*pack)(const float*, long, long, long, float*);
    void (*add_norm)(float*, const float*, long, long, const float*, const float*, float);
    void (*softmax)(float*, long, long, long);
    void (*gelu)(float*, long);
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are only passed between inlined functions

namespace base {
#define LANES 4
#define ROWS 6
#define TARGET
#include "transformer_kernels.inl"
#undef LANES
#undef ROWS
#undef TARGET
}  // namespace base

#if defined(__x86_64__)
namespace avx2 {
#define LANES 8
#define ROWS 6
#define TARGET __attribute__((target("avx2,fma")))
#include "transformer_kernels.inl"
#undef LANES
#undef ROWS
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define LANES 16
#define ROWS 12
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#include "transformer_kernels.inl"
#undef LANES
#undef ROWS
#undef TARGET
}  // namespace avx512
#endif

#pragma GCC diagnostic pop

// The kernels this CPU can run, best first.
std::vector<std::pair<std::string, const Kernels*>> usable_kernels() {
    std::vector<std::pair<std::string, const Kernels*>> usable;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        usable.emplace_back("avx512", &avx512::KERNELS);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) usable.emplace_back("avx2", &avx2::KERNELS);
#endif
    usable.emplace_back("base", &base::KERNELS);
    return usable;
}

const Kernels& kernels_named(const std::string& isa) {
    for (const auto& [name, kernels] : usable_kernels())
        if (isa.empty() || isa == name) return *kernels;
    throw std::invalid_argument("this CPU has no kernels called " + isa);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Floats = std::vector<float>;

constexpr long BLOCK = 192;  // tokens a thread takes at a time: few enough for its cache, enough to reuse a weight panel
constexpr long WIDEST_PANEL = 32;

void require(bool good, const char* message) {
    if (!good) throw std::invalid_argument(message);
}

// y = x W^T + b, as PyTorch stores it: W is [out, in].
struct Linear {
    long in = 0, out = 0;
    Floats weight, bias;

    // Several projections of the same input side by side; the first is scaled.
    Linear(const Kernels& kernels, const std::vector<Matrix>& w, const std::vector<Vector>& b, float first_scale = 1) {
        in = static_cast<long>(w[0].shape(1));
        for (size_t i = 0; i < w.size(); ++i) {
            const long rows = static_cast<long>(w[i].shape(0));
            require(static_cast<long>(w[i].shape(1)) == in && rows % WIDEST_PANEL == 0 && b[i].shape(0) == w[i].shape(0),
                    "a layer's weight and bias have shapes that do not fit together");
            const float scale = i == 0 ? first_scale : 1.0f;
            weight.resize(static_cast<size_t>((out + rows) * in));
            kernels.pack_transposed(w[i].data(), in, rows, in, scale, weight.data() + out * in);
            for (long j = 0; j < rows; ++j) bias.push_back(scale * b[i].data()[j]);
            out += rows;
        }
    }

    void apply(const Kernels& kernels, const float* x, long m, float* y) const {
        kernels.multiply(x, in, m, weight.data(), in, bias.data(), y, out, out);
    }
};

struct Norm {
    Floats gain, shift;
    Norm(const Vector& g, const Vector& s) : gain(g.data(), g.data() + g.size()), shift(s.data(), s.data() + s.size()) {}
};

struct Layer {
    Linear qkv, output;
    Norm attention_norm;
    Linear up, down;
    Norm norm;
};

class TransformerEncoder {
public:
    TransformerEncoder(Matrix words, Matrix positions, Vector gain, Vector shift, long heads, float eps,
                       const std::string& isa)
        : kernels_(kernels_named(isa)),
          words_(std::move(words)),
          positions_(std::move(positions)),
          norm_(gain, shift),
          width_(static_cast<long>(words_.shape(1))),
          heads_(heads),
          eps_(eps) {
        require(heads > 0 && width_ % heads == 0 && width_ / heads % WIDEST_PANEL == 0,
                "the size of an attention head must be a multiple of 32");
        require(static_cast<long>(positions_.shape(1)) == width_ && is_wide(gain) && is_wide(shift),
                "the embeddings have shapes that do not fit together");
    }

    void add_layer(Matrix wq, Vector bq, Matrix wk, Vector bk, Matrix wv, Vector bv, Matrix wo, Vector bo, Vector gain1,
                   Vector shift1, Matrix wu, Vector bu, Matrix wd, Vector bd, Vector gain2, Vector shift2) {
        for (const Matrix* w : {&wq, &wk, &wv, &wo})
            require(static_cast<long>(w->shape(0)) == width_ && static_cast<long>(w->shape(1)) == width_,
                    "an attention weight is not square");
        require(static_cast<long>(wu.shape(1)) == width_ && static_cast<long>(wd.shape(0)) == width_ &&
                    wd.shape(1) == wu.shape(0),
                "the feed-forward weights do not fit together");
        for (const Vector* v : {&gain1, &shift1, &gain2, &shift2})
            require(is_wide(*v), "a layer norm has the wrong width");
        const float scale = 1.0f / std::sqrt(static_cast<float>(width_ / heads_));
        layers_.push_back(Layer{Linear(kernels_, {wq, wk, wv}, {bq, bk, bv}, scale), Linear(kernels_, {wo}, {bo}),
                                Norm(gain1, shift1), Linear(kernels_, {wu}, {bu}), Linear(kernels_, {wd}, {bd}),
                                Norm(gain2, shift2)});
        inner_ = std::max(inner_, layers_.back().up.out);
    }

    Rows encode(Ids ids, Counts offsets, const std::string& pooling, int threads) const {
        const Batch batch = checked(ids, offsets, std::nullopt);
        auto vectors = room_for(batch.texts);
        run(batch, pooling, threads, vectors.get(), nullptr);
        return rows(std::move(vectors), batch.texts);
    }

    std::pair<Rows, Rows> encode_with_states(Ids ids, Counts offsets, const std::string& pooling, int threads,
                                             std::optional<Counts> attended) const {
        const Batch batch = checked(ids, offsets, attended);
        auto vectors = room_for(batch.texts);
        auto states = room_for(batch.offsets[batch.texts]);
        run(batch, pooling, threads, vectors.get(), states.get());
        return {rows(std::move(vectors), batch.texts), rows(std::move(states), batch.offsets[batch.texts])};
    }

private:
    struct Workspace {
        Floats x, qkv, context, wide, keys, values, scores;
    };

    bool is_wide(const Vector& v) const { return static_cast<long>(v.size()) == width_; }

    // Token ids of some texts, one behind the other, and how many leading tokens of each are attended to (null: all).
    struct Batch {
        const int32_t* ids;
        const int64_t* offsets;
        const int64_t* attended;
        long texts;
    };

    Batch checked(const Ids& ids, const Counts& offsets, const std::optional<Counts>& attended) const {
        require(offsets.size() > 0 && offsets.data()[0] == 0 &&
                    offsets.data()[offsets.size() - 1] == static_cast<int64_t>(ids.size()),
                "offsets must begin with 0 and end with the number of ids");
        const Batch batch{ids.data(), offsets.data(), attended ? attended->data() : nullptr,
                          static_cast<long>(offsets.size()) - 1};
        require(!attended || attended->size() == offsets.size() - 1, "attended must have one number a text");
        const auto vocabulary = static_cast<int32_t>(words_.shape(0));
        for (long i = 0; i < batch.texts; ++i) {
            const int64_t length = batch.offsets[i + 1] - batch.offsets[i];
            require(length > 0, "a text has no tokens");
            require(length <= static_cast<int64_t>(positions_.shape(0)), "a text has more tokens than the model positions");
            require(!batch.attended || (batch.attended[i] > 0 && batch.attended[i] <= length),
                    "a text must attend to one of its tokens at least and to all at most");
        }
        for (int64_t i = 0; i < batch.offsets[batch.texts]; ++i)
            require(ids.data()[i] >= 0 && ids.data()[i] < vocabulary, "a token id is not in the vocabulary");
        return batch;
    }

    std::unique_ptr<float[]> room_for(long count) const {
        return std::unique_ptr<float[]>(new float[static_cast<size_t>(count * width_)]);
    }

    Rows rows(std::unique_ptr<float[]> values, long count) const {
        float* data = values.release();
        nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
        return {data, {static_cast<size_t>(count), static_cast<size_t>(width_)}, owner};
    }

    // Pooled vectors of all texts; the tokens' last states, not normalised, unless `states` is null.
    void run(const Batch& batch, const std::string& pooling, int threads, float* vectors, float* states) const {
        require(pooling == "mean" || pooling == "cls", "pooling must be mean or cls");
        const bool mean = pooling == "mean";
        const int64_t* offsets = batch.offsets;
        const long texts = batch.texts;
        nb::gil_scoped_release release;
        std::vector<long> blocks{0};  // first text of each block
        for (long i = 1; i < texts; ++i)
            if (offsets[i + 1] - offsets[blocks.back()] > BLOCK) blocks.push_back(i);
        const long count = texts ? static_cast<long>(blocks.size()) : 0;
        blocks.push_back(texts);

        std::atomic<long> next{0};
        std::exception_ptr error;
        std::mutex mutex;
        auto work = [&] {
            try {
                Workspace space;
                for (long b = next++; b < count; b = next++)
                    block(batch, blocks[b], blocks[b + 1], mean, space, vectors, states);
            } catch (...) {
                std::lock_guard lock(mutex);
                error = std::current_exception();
            }
        };
        std::vector<std::thread> helpers;
        for (long t = 1; t < std::min<long>(std::max(threads, 1), count); ++t) helpers.emplace_back(work);
        work();
        for (auto& helper : helpers) helper.join();
        if (error) std::rethrow_exception(error);
    }

    // All layers for the texts first .. last - 1.
    void block(const Batch& batch, long first, long last, bool mean, Workspace& space, float* vectors,
               float* states) const {
        const int64_t* offsets = batch.offsets;
        const int64_t origin = offsets[first];
        const long tokens = static_cast<long>(offsets[last] - origin);
        const auto room = [&](Floats& buffer, long size) {
            if (static_cast<long>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
            return buffer.data();
        };
        float* x = room(space.x, tokens * width_);
        float* qkv = room(space.qkv, tokens * 3 * width_);
        float* context = room(space.context, tokens * width_);
        float* wide = room(space.wide, tokens * inner_);

        for (long t = first; t < last; ++t)
            for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
                const float* word = words_.data() + batch.ids[i] * width_;
                const float* position = positions_.data() + (i - offsets[t]) * width_;
                float* row = x + (i - origin) * width_;
                for (long j = 0; j < width_; ++j) row[j] = word[j] + position[j];
            }
        kernels_.add_norm(x, nullptr, tokens, width_, norm_.gain.data(), norm_.shift.data(), eps_);

        for (const Layer& layer : layers_) {
            layer.qkv.apply(kernels_, x, tokens, qkv);
            for (long t = first; t < last; ++t) {
                const long begin = static_cast<long>(offsets[t] - origin);
                const long length = static_cast<long>(offsets[t + 1] - offsets[t]);
                attend(qkv + begin * 3 * width_, length, batch.attended ? batch.attended[t] : length, space,
                       context + begin * width_);
            }
            layer.output.apply(kernels_, context, tokens, qkv);  // qkv has been read: it serves as scratch
            const Norm& inner = layer.attention_norm;
            kernels_.add_norm(x, qkv, tokens, width_, inner.gain.data(), inner.shift.data(), eps_);
            layer.up.apply(kernels_, x, tokens, wide);
            kernels_.gelu(wide, tokens * layer.up.out);
            layer.down.apply(kernels_, wide, tokens, qkv);
            kernels_.add_norm(x, qkv, tokens, width_, layer.norm.gain.data(), layer.norm.shift.data(), eps_);
        }
        for (long t = first; t < last; ++t) {
            const float* row = x + (offsets[t] - origin) * width_;
            pool(row, mean ? static_cast<long>(offsets[t + 1] - offsets[t]) : 1, vectors + t * width_);
        }
        if (states) std::copy(x, x + tokens * width_, states + origin * width_);
    }

    // Self-attention of one text of n tokens to its first `seen`; its queries, keys and values lie side by side in the
    // rows of qkv.
    void attend(const float* qkv, long n, long seen, Workspace& space, float* context) const {
        const long size = width_ / heads_;
        const long stride = (seen + kernels_.panel - 1) / kernels_.panel * kernels_.panel;
        space.keys.resize(std::max(space.keys.size(), static_cast<size_t>(stride * size)));
        space.values.resize(std::max(space.values.size(), static_cast<size_t>(seen * size)));
        space.scores.resize(std::max(space.scores.size(), static_cast<size_t>(n * stride)));
        float* scores = space.scores.data();
        for (long h = 0; h < heads_; ++h) {
            const float* query = qkv + h * size;
            kernels_.pack_transposed(query + width_, 3 * width_, seen, size, 1.0f, space.keys.data());
            kernels_.pack(query + 2 * width_, 3 * width_, size, seen, space.values.data());
            kernels_.multiply(query, 3 * width_, n, space.keys.data(), size, nullptr, scores, stride, stride);
            kernels_.softmax(scores, n, seen, stride);
            kernels_.multiply(scores, stride, n, space.values.data(), seen, nullptr, context + h * size, width_, size);
        }
    }

    // The mean of n rows, at unit length.
    void pool(const float* x, long n, float* out) const {
        std::fill(out, out + width_, 0.0f);
        for (long i = 0; i < n; ++i)
            for (long j = 0; j < width_; ++j) out[j] += x[i * width_ + j];
        double square = 0;
        for (long j = 0; j < width_; ++j) square += static_cast<double>(out[j]) * out[j];
        const double norm = std::max(std::sqrt(square), 1e-12);
        for (long j = 0; j < width_; ++j) out[j] = static_cast<float>(out[j] / norm);
    }

    const Kernels& kernels_;
    Matrix words_, positions_;  // the caller's arrays, usually a mapped file: only the rows in use are read
    Norm norm_;
    long width_, heads_, inner_ = 0;
    float eps_;
    std::vector<Layer> layers_;
};

}  // namespace

void bind_transformer(nb::module_& m) {
    nb::class_<TransformerEncoder>(m, "TransformerEncoder")
        .def(nb::init<Matrix, Matrix, Vector, Vector, long, float, const std::string&>(), nb::arg("words"), nb::arg("positions"),
             nb::arg("gain"), nb::arg("shift"), nb::arg("heads"), nb::arg("eps"), nb::arg("isa") = "")
        .def("add_layer", &TransformerEncoder::add_layer)
        .def("encode", &TransformerEncoder::encode, nb::arg("ids"), nb::arg("offsets"), nb::arg("pooling"),
             nb::arg("threads"))
        .def("encode_with_states", &TransformerEncoder::encode_with_states, nb::arg("ids"), nb::arg("offsets"),
             nb::arg("pooling"), nb::arg("threads"), nb::arg("attended") = nb::none())
        .def_static("isas", [] {
            std::vector<std::string> names;
            for (const auto& [name, kernels] : usable_kernels()) names.push_back(name);
            return names;
        });
}
