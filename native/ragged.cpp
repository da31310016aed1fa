#include "ragged.h"

#include <algorithm>
#include <limits>
#include <string>

#include "errors.h"

namespace rag {

void RaggedStore::check_offsets(std::span<const int64_t> ids, size_t n, std::span<const int64_t> offsets) {
    for (size_t i = 0; i < ids.size(); ++i) {
        if (offsets[i + 1] > offsets[i]) continue;
        const std::string which = "document " + std::to_string(i) + " (id " + std::to_string(ids[i]) + ")";
        if (offsets[i + 1] == offsets[i])
            throw InputError(which + " has no tokens", "leave out documents without text");
        throw InputError(which + " ends at token " + std::to_string(offsets[i + 1]) + ", before it begins, at " +
                             std::to_string(offsets[i]), "offsets must ascend");
    }
    if (offsets.front() != 0 || offsets.back() != static_cast<int64_t>(n))
        throw InputError("offsets go from " + std::to_string(offsets.front()) + " to " + std::to_string(offsets.back()),
                         "they must go from 0 to the number of tokens, " + std::to_string(n));
}

void RaggedStore::reserve_documents(std::span<const int64_t> ids, std::span<const int64_t> offsets) {
    auto* ends = reinterpret_cast<uint64_t*>(ends_.extend(ids.size()));
    ids_.reserve(ids.size());
    dead_.resize(documents() + ids.size());
    for (size_t i = 0; i < ids.size(); ++i) ends[i] = rows() + static_cast<uint64_t>(offsets[i + 1]);
}

void RaggedStore::commit_documents(std::span<const int64_t> ids) {
    ids_.append(ids);
    ends_.commit(ids.size());
}

void RaggedStore::attach_documents(const RaggedParts& parts, size_t rows, const std::shared_ptr<void>& owner) {
    const size_t n = parts.ids.size() / sizeof(int64_t);
    uint64_t before = 0;
    for (const uint64_t end : std::span(reinterpret_cast<const uint64_t*>(parts.ends.data()), n)) {
        if (end <= before || end > rows) throw InputError("section ends does not ascend", "the file is damaged");
        before = end;
    }
    if (before != rows) throw InputError("section ends does not end with the last row", "the file is damaged");
    ids_.attach(parts.ids, owner);
    ends_.attach(parts.ends, owner);
    dead_.resize(n);
    std::ranges::copy(parts.tombstones, std::as_writable_bytes(dead_.words()).begin());
    dead_count_ = dead_.count();
    dead_.each([&](size_t document) { dead_rows_ += length(document); });
}

size_t RaggedStore::remove(std::span<const int64_t> ids) {
    size_t removed = 0;
    for (const int64_t id : ids) {
        const auto document = find(id);
        if (!document) continue;
        dead_.set(*document);
        dead_rows_ += length(*document);
        ++removed;
    }
    dead_count_ += removed;
    return removed;
}

void RaggedStore::keep_rows(const Rows& from, Rows& to) const {
    std::byte* at = to.extend(live_rows());
    for (size_t document = 0; document < documents(); ++document)
        for (size_t row = first(document); !dead_[document] && row < end(document); ++row, at += from.stride())
            std::copy_n(from[row], from.stride(), at);
    to.commit(live_rows());
}

void RaggedStore::keep_documents() {
    Rows ends(sizeof(uint64_t));
    std::vector<int64_t> kept;
    auto* to = reinterpret_cast<uint64_t*>(ends.extend(live()));
    for (size_t document = 0, rows = 0; document < documents(); ++document) {
        if (dead_[document]) continue;
        *to++ = rows += length(document);
        kept.push_back(ids_[document]);
    }
    ends.commit(kept.size());
    Ids ids;
    ids.reserve(kept.size());
    ids.append(kept);
    ids_ = std::move(ids);
    ends_ = std::move(ends);
    dead_ = Bitmap(documents());
    dead_count_ = dead_rows_ = 0;
}

std::optional<size_t> RaggedStore::find(int64_t id) const {
    const auto document = ids_.find(id);
    return document && !dead_[*document] ? document : std::nullopt;
}

RowSet RaggedStore::select(std::optional<std::span<const int64_t>> ids) const {
    if (!ids && dead_count_ == 0) return RowSet(documents());
    std::vector<uint32_t> list;
    Bitmap chosen(documents(), !ids);
    if (ids) ids_.find(*ids, chosen);
    chosen.each([&](size_t document) {
        if (!dead_[document]) list.push_back(static_cast<uint32_t>(document));
    });
    return RowSet(std::move(list));
}

std::vector<std::pair<size_t, size_t>> slices(const RaggedStore& store, const RowSet& documents, size_t rows) {
    std::vector<std::pair<size_t, size_t>> result;
    for (size_t i = 0, from = 0, taken = 0; i < documents.size(); ++i) {
        taken += store.length(documents[i]);
        if (taken < rows && i + 1 < documents.size()) continue;
        result.emplace_back(from, i + 1);
        from = i + 1;
        taken = 0;
    }
    return result;
}

void TokenQueries::check(size_t dim) const {
    for (size_t q = 0; q < count(); ++q) {
        if (offsets[q + 1] > offsets[q]) continue;
        const std::string which = "query " + std::to_string(q);
        if (offsets[q + 1] == offsets[q])
            throw InputError(which + " has no tokens", "what is asked must have words");
        throw InputError(which + " ends before it begins", "offsets must ascend");
    }
    if (offsets.front() != 0 || offsets.back() != static_cast<int64_t>(n))
        throw InputError("query offsets go from " + std::to_string(offsets.front()) + " to " +
                             std::to_string(offsets.back()),
                         "they must go from 0 to the number of tokens, " + std::to_string(n));
    const float any = std::numeric_limits<float>::max();
    InputCheck{"query tokens", dim, any, false, ""}.lengths(tokens, n);
}

}  // namespace rag
