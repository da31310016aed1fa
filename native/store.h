// Vectors under ids, in one or two codecs, with deletions: what every index searches in.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "bitmap.h"
#include "codec.h"
#include "ids.h"
#include "input.h"
#include "memory.h"

namespace rag {

// All vectors in one codec.
struct Tier {
    explicit Tier(std::unique_ptr<Codec> codec_)
        : codec(std::move(codec_)), codes(codec->code_bytes()), factors(std::max<size_t>(codec->factors(), 1) * 4) {}

    const float* factors_of(size_t row) const {
        return codec->factors() ? reinterpret_cast<const float*>(factors[row]) : nullptr;
    }

    void reserve(size_t n) {
        codes.extend(n);
        if (codec->factors()) factors.extend(n);
    }
    // Into the rows from number `first` on of those that were reserved.
    void encode(const float* vectors, size_t first, size_t n, size_t dim) {
        float* kept = codec->factors() ? reinterpret_cast<float*>(factors.reserved(first)) : nullptr;
        codec->encode_all(vectors, n, dim, codes.reserved(first), kept);
    }
    void commit(size_t n) {
        codes.commit(n);
        if (codec->factors()) factors.commit(n);
    }

    std::unique_ptr<Codec> codec;
    Rows codes;
    Rows factors;  // no rows at all when the codec keeps none
};

// Rows to look at, ascending: a list, or simply all.
class RowSet {
public:
    explicit RowSet(size_t n) : n_(n) {}
    explicit RowSet(std::vector<uint32_t> list) : n_(list.size()), all_(false), list_(std::move(list)) {}
    size_t size() const { return n_; }
    bool all() const { return all_; }
    std::span<const uint32_t> list() const { return list_; }  // empty for all
    uint32_t operator[](size_t i) const { return all_ ? static_cast<uint32_t>(i) : list_[i]; }

private:
    size_t n_;
    bool all_ = true;
    std::vector<uint32_t> list_;
};

// The rows that may be found, both ways.
struct Selection {
    RowSet rows;
    Bitmap passing;  // empty when all rows pass
};

struct Parts {  // memory of a store that was opened from a file; empty where there is none
    std::span<const std::byte> ids, codes, factors, secondary, tombstones;
};

class VectorStore {
public:
    // `finer`: with the second copy, by which the best are ranked again, where the codec has one.
    VectorStore(size_t dim, Metric metric, std::string_view codec, Learned learned, bool finer = true);

    size_t dim() const { return dim_; }
    Metric metric() const { return metric_; }

    // All of them, or InputError and none. Takes the lock by itself, and only for moments: encoding goes on without.
    void add(std::span<const int64_t> ids, const float* vectors, size_t threads, const Interrupt& interrupt);

    // Readers hold this shared, writers exclusively; the methods below expect their caller to do so.
    std::shared_mutex& mutex() const { return mutex_; }

    void attach(const Parts& parts, size_t n, const std::shared_ptr<void>& owner);
    size_t remove(std::span<const int64_t> ids);
    void decode(std::span<const int64_t> ids, float* vectors) const;  // or NotFoundError

    // Queries [n, dim] as the codecs want them: finite, and of unit length under cosine. Throws InputError.
    std::vector<float> checked_queries(const float* queries, size_t n) const;
    // The live rows, kept until the next change, or those of them with an id in `ids` (ascending).
    std::shared_ptr<const Selection> select() const;
    Selection select(std::optional<std::span<const int64_t>> ids) const;
    uint64_t version() const { return version_; }  // after every change one that no store had before

    size_t rows() const { return ids_.size(); }
    size_t live() const { return ids_.size() - dead_count_; }
    const Ids& ids() const { return ids_; }
    const Bitmap& dead() const { return dead_; }
    const Tier& primary() const { return primary_; }
    const Tier& finest() const { return secondary_ ? *secondary_ : primary_; }
    const Tier* secondary() const { return secondary_ ? &*secondary_ : nullptr; }

private:
    InputCheck check(float limit, const char* what) const;
    void changed() {
        static std::atomic<uint64_t> versions{0};
        version_ = ++versions;
        live_.reset();
    }
    void scaled(const float* vector, double length, float* to) const;
    float limit() const;

    size_t dim_;
    Metric metric_;
    Learned learned_;  // the codecs of both tiers refer to it
    Tier primary_;
    std::optional<Tier> secondary_;
    Ids ids_;
    Bitmap dead_;
    size_t dead_count_ = 0;
    uint64_t version_ = 0;
    mutable std::shared_ptr<const Selection> live_;  // of this version, if there
    mutable std::mutex keeping_;
    mutable std::shared_mutex mutex_;
    std::mutex adding_;  // one add after the other
};

// Ids that may be found. What they select in a store is kept until the store changes, so that one filter can serve many
// searches.
class Filter {
public:
    explicit Filter(std::span<const int64_t> ids) : ids_(ids.begin(), ids.end()) {}  // ascending
    size_t size() const { return ids_.size(); }
    std::shared_ptr<const Selection> in(const VectorStore& store) const;  // whose lock the caller holds

private:
    std::vector<int64_t> ids_;
    mutable std::mutex keeping_;
    mutable const VectorStore* store_ = nullptr;
    mutable uint64_t version_ = 0;
    mutable std::shared_ptr<const Selection> kept_;
};

}  // namespace rag
