// What the bindings of stores of ragged sets have in common. Locks are only taken with the GIL released.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "arrays.h"
#include "errors.h"
#include "ragged.h"

inline void check_number(size_t offsets, size_t n, const char* what) {
    if (offsets == n + 1) return;
    throw rag::InputError(std::to_string(offsets) + " offsets for " + std::to_string(n) + " " + what,
                          "there is one more offset than " + std::string(what));
}

template <class Store>
void add_documents(Store& store, const IdArray& ids, const FloatMatrix& tokens, const IdArray& offsets, size_t threads) {
    check_number(offsets.size(), ids.size(), "documents");
    const nanobind::gil_scoped_release release;
    store.add(span(ids), tokens.data(), tokens.shape(0), span(offsets), thread_count(threads), signals());
}

template <class Store>
size_t remove_documents(Store& store, const IdArray& ids) {
    const nanobind::gil_scoped_release release;
    const std::unique_lock lock(store.mutex());
    return store.remove(span(ids));
}

template <class Store>
void compact_documents(Store& store) {
    const nanobind::gil_scoped_release release;
    const std::unique_lock lock(store.mutex());
    store.compact();
}

template <class Store, auto Count>
size_t counted(const Store& store) {
    const nanobind::gil_scoped_release release;
    const std::shared_lock lock(store.mutex());
    return (store.*Count)();
}

// Memory of `owner`, to be written one piece after the other. Valid until the next add.
inline nanobind::list pieces(std::initializer_list<std::span<const std::byte>> memory, const nanobind::object& owner) {
    nanobind::list list;
    for (const auto& piece : memory)
        list.append(nanobind::ndarray<nanobind::numpy, const uint8_t, nanobind::ndim<1>>(piece.data(), {piece.size()},
                                                                                         owner));
    return list;
}

// The sections that say which documents there are.
inline nanobind::dict ragged_parts(const rag::RaggedStore& store, const nanobind::object& owner) {
    nanobind::dict result;
    result["ids"] = pieces({store.ids().rows().base(), store.ids().rows().tail()}, owner);
    result["ends"] = pieces({store.ends().base(), store.ends().tail()}, owner);
    result["tombstones"] = pieces({std::as_bytes(store.dead().words())}, owner);
    return result;
}

// And their bytes.
inline nanobind::dict ragged_sizes(size_t documents) {
    nanobind::dict result;
    result["ids"] = documents * sizeof(int64_t);
    result["ends"] = documents * sizeof(uint64_t);
    result["tombstones"] = (documents + 63) / 64 * sizeof(uint64_t);
    return result;
}

// The sections of a saved store, taken over without copying.
class Sections {
public:
    Sections(const nanobind::dict& sections, nanobind::dict sizes) : sections_(sections), sizes_(std::move(sizes)) {}

    // Empty where there is none. InputError when it has the wrong length.
    std::span<const std::byte> operator[](const char* name) const {
        if (!sizes_.contains(name)) return {};
        const auto bytes = span(nanobind::cast<ByteArray>(sections_[name]));
        if (bytes.size() != nanobind::cast<size_t>(sizes_[name]))
            throw rag::InputError(std::string("section ") + name + " has the wrong length", "the file is damaged");
        return bytes;
    }
    rag::RaggedParts ragged() const { return {(*this)["ids"], (*this)["ends"], (*this)["tombstones"]}; }
    std::shared_ptr<void> owner() const {
        return {new nanobind::dict(sections_), [](void* kept) {
                    const nanobind::gil_scoped_acquire gil;
                    delete static_cast<nanobind::dict*>(kept);
                }};
    }

private:
    nanobind::dict sections_, sizes_;
};
