// Where rows of bytes live: an unchangeable base that was mapped from a file, and an owned tail that grows.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

namespace rag {

// Zero-filled memory, aligned to pages, that grows without copying where the system can move pages.
class Buffer {
public:
    Buffer() = default;
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }

    std::byte* data() const { return data_; }
    void reserve(size_t bytes);  // grows at least by half; throws std::bad_alloc
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
    }

private:
    std::byte* data_ = nullptr;
    size_t capacity_ = 0;
};

// n rows of `stride` bytes each.
class Rows {
public:
    explicit Rows(size_t stride) : stride_(stride) {}

    // Takes over foreign memory as the first rows; `owner` keeps it alive. Only while there are no rows.
    void attach(std::span<const std::byte> bytes, std::shared_ptr<void> owner) {
        base_ = bytes.data();
        base_rows_ = bytes.size() / stride_;
        owner_ = std::move(owner);
    }
    // Room for n more rows; the first of them. They count once `commit` is called.
    std::byte* extend(size_t n) {
        tail_.reserve((tail_rows_ + n) * stride_);
        return tail_.data() + tail_rows_ * stride_;
    }
    std::byte* reserved(size_t i) const { return tail_.data() + (tail_rows_ + i) * stride_; }  // of that room
    void commit(size_t n) { tail_rows_ += n; }

    const std::byte* operator[](size_t row) const {
        return row < base_rows_ ? base_ + row * stride_ : tail_.data() + (row - base_rows_) * stride_;
    }
    // Whether these rows lie one after the other.
    bool adjacent(size_t first, size_t n) const { return first >= base_rows_ || first + n <= base_rows_; }

    size_t size() const { return base_rows_ + tail_rows_; }
    size_t stride() const { return stride_; }
    std::span<const std::byte> base() const { return {base_, base_rows_ * stride_}; }
    std::span<const std::byte> tail() const { return {tail_.data(), tail_rows_ * stride_}; }

private:
    size_t stride_;
    const std::byte* base_ = nullptr;
    size_t base_rows_ = 0, tail_rows_ = 0;
    std::shared_ptr<void> owner_;
    Buffer tail_;
};

}  // namespace rag
