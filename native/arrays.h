// NumPy arrays as the bindings take and give them.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "parallel.h"

using IdArray = nanobind::ndarray<const int64_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using IdMatrix = nanobind::ndarray<const int64_t, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using FloatMatrix = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using FloatCube = nanobind::ndarray<const float, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;
using FloatVector = nanobind::ndarray<const float, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using ByteArray = nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

inline std::span<const int64_t> span(const IdArray& ids) { return {ids.data(), ids.size()}; }

inline std::span<const std::byte> span(const ByteArray& bytes) {
    return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
}

// A new array [n, m], with the memory that its elements are to be written to.
template <class T>
std::pair<nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<2>>, T*> new_matrix(size_t n, size_t m) {
    T* data = new T[n * m];
    const nanobind::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return {nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<2>>(data, {n, m}, owner), data};
}

// Hands a vector to NumPy without a copy.
template <class T>
nanobind::object to_numpy(std::vector<T>&& values) {
    auto owner = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owner->data();
    const size_t n = owner->size();
    nanobind::capsule keep(owner.release(), [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nanobind::cast(nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>(data, {n}, keep));
}

// For long work without the GIL: stops it when a signal such as Ctrl-C came in.
inline rag::Interrupt signals() {
    return [] {
        const nanobind::gil_scoped_acquire gil;
        if (PyErr_CheckSignals()) throw nanobind::python_error();
    };
}

inline size_t thread_count(size_t asked) { return asked ? asked : std::max(std::thread::hardware_concurrency(), 1u); }
