// From texts to words and from words to postings; and postings merged into one.
#include "postings.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace rag {
namespace {

// Classes of characters, as rag/index/text.py assigns them.
enum Class : uint8_t { kOther = 0, kWord = 1, kUnspaced = 2, kMark = 3 };

struct Character {
    uint32_t code;
    uint32_t bytes;
};

// Decodes one character of valid UTF-8 (Python encoded it).
inline Character decode(const unsigned char* p) {
    if (p[0] < 0x80) return {p[0], 1};
    if (p[0] < 0xE0) return {uint32_t(p[0] & 0x1F) << 6 | uint32_t(p[1] & 0x3F), 2};
    if (p[0] < 0xF0) return {uint32_t(p[0] & 0x0F) << 12 | uint32_t(p[1] & 0x3F) << 6 | uint32_t(p[2] & 0x3F), 3};
    return {uint32_t(p[0] & 0x07) << 18 | uint32_t(p[1] & 0x3F) << 12 | uint32_t(p[2] & 0x3F) << 6 | uint32_t(p[3] & 0x3F), 4};
}

inline uint64_t hash_of(std::string_view word) {
    uint64_t h = 0x9E3779B97F4A7C15ull ^ word.size();
    size_t i = 0;
    for (; i + 8 <= word.size(); i += 8) {
        uint64_t part;
        std::memcpy(&part, word.data() + i, 8);
        h = (h ^ part) * 0xD6E8FEB86659FD93ull;
        h ^= h >> 32;
    }
    uint64_t rest = 0;
    if (i < word.size()) std::memcpy(&rest, word.data() + i, word.size() - i);
    h = (h ^ rest) * 0xD6E8FEB86659FD93ull;
    return h ^ (h >> 32);
}

// Texts as sequences of word numbers; a word is numbered when it is first seen.
class Tokens {
public:
    explicit Tokens(Column<uint8_t> classes)
        : classes_(classes.data(), classes.data() + classes.shape(0)), slots_(1 << 12, kFree) {
        if (classes_.size() < 128) throw std::invalid_argument("classes must cover ASCII");
    }

    void add(const nb::list& texts) {
        std::vector<std::string_view> views;
        views.reserve(texts.size());
        for (nb::handle text : texts) {
            const nb::bytes bytes = nb::cast<nb::bytes>(text);
            views.emplace_back(bytes.c_str(), bytes.size());
        }
        nb::gil_scoped_release released;
        for (std::string_view text : views) {
            split(text);
            offsets_.push_back(int64_t(ids_.size()));
        }
    }

    nb::list words() const {
        nb::list out;
        for (size_t w = 0; w + 1 < starts_.size(); ++w) {
            const std::string_view word = spelled(w);
            out.append(nb::str(word.data(), word.size()));
        }
        return out;
    }

    nb::object ids() const { return to_numpy(std::vector<uint32_t>(ids_)); }
    nb::object offsets() const { return to_numpy(std::vector<int64_t>(offsets_)); }

    // Postings over terms: word w is an occurrence of term_of_word[w], or of none where that is negative.
    nb::tuple invert(Column<int32_t> term_of_word, size_t terms) const {
        const size_t words = starts_.size() - 1;
        const int32_t* term_of = term_of_word.data();
        if (term_of_word.shape(0) != words) throw std::invalid_argument("one term for each word is needed");
        if (std::any_of(term_of, term_of + words, [&](int32_t t) { return t >= 0 && size_t(t) >= terms; }))
            throw std::invalid_argument("a term number is too large");
        if (offsets_.size() - 1 >= std::numeric_limits<uint32_t>::max())
            throw std::invalid_argument("too many texts for one index");

        std::vector<uint64_t> starts(terms + 1, 0);
        std::vector<uint32_t> rows, counts, lengths(offsets_.size() - 1, 0);
        {
            nb::gil_scoped_release released;
            std::vector<uint32_t> last(terms, std::numeric_limits<uint32_t>::max());
            for (size_t row = 0; row < lengths.size(); ++row) {
                for (int64_t i = offsets_[row]; i < offsets_[row + 1]; ++i) {
                    const int32_t t = term_of[ids_[i]];
                    if (t < 0) continue;
                    ++lengths[row];
                    if (last[t] != row) {
                        last[t] = uint32_t(row);
                        ++starts[t + 1];
                    }
                }
            }
            for (size_t t = 0; t < terms; ++t) starts[t + 1] += starts[t];
            rows.resize(starts[terms]);
            counts.resize(starts[terms]);
            std::vector<uint64_t> next(starts.begin(), starts.end() - 1);
            for (size_t row = 0; row < lengths.size(); ++row) {
                for (int64_t i = offsets_[row]; i < offsets_[row + 1]; ++i) {
                    const int32_t t = term_of[ids_[i]];
                    if (t < 0) continue;
                    uint64_t& end = next[t];
                    if (end > starts[t] && rows[end - 1] == row) {
                        ++counts[end - 1];
                    } else {
                        rows[end] = uint32_t(row);
                        counts[end++] = 1;
                    }
                }
            }
        }
        return nb::make_tuple(to_numpy(std::move(starts)), to_numpy(std::move(rows)), to_numpy(std::move(counts)),
                              to_numpy(std::move(lengths)));
    }

private:
    static constexpr uint32_t kFree = std::numeric_limits<uint32_t>::max();

    // Runs of word characters, of two or more; runs of a script that puts no spaces between words as overlapping
    // pairs. A combining mark belongs to the character before it.
    void split(std::string_view text) {
        const auto* p = reinterpret_cast<const unsigned char*>(text.data());
        const auto* end = p + text.size();
        while (p < end) {
            const Character first = decode(p);
            const uint8_t kind = class_of(first.code);
            if (kind != kWord && kind != kUnspaced) {
                p += first.bytes;
                continue;
            }
            const unsigned char* start = p;      // of the run
            const unsigned char* before = p;     // of the last character but one
            const unsigned char* current = p;    // of the last character
            size_t characters = 1;
            p += first.bytes;
            while (p < end) {
                const Character c = decode(p);
                const uint8_t next = class_of(c.code);
                if (next == kMark) {
                    p += c.bytes;
                } else if (next == kind) {
                    if (kind == kUnspaced && characters >= 2) push(before, p);
                    before = current;
                    current = p;
                    ++characters;
                    p += c.bytes;
                } else {
                    break;
                }
            }
            if (kind == kUnspaced) push(before, p);
            else if (characters >= 2) push(start, p);
        }
    }

    uint8_t class_of(uint32_t code) const { return code < classes_.size() ? classes_[code] : uint8_t(kOther); }

    std::string_view spelled(size_t word) const {
        return {letters_.data() + starts_[word], starts_[word + 1] - starts_[word]};
    }

    void push(const unsigned char* from, const unsigned char* to) {
        const std::string_view word(reinterpret_cast<const char*>(from), size_t(to - from));
        const uint64_t hash = hash_of(word);
        size_t slot = hash & (slots_.size() - 1);
        while (slots_[slot] != kFree && (hashes_[slots_[slot]] != hash || spelled(slots_[slot]) != word))
            slot = (slot + 1) & (slots_.size() - 1);
        if (slots_[slot] == kFree) {
            slots_[slot] = uint32_t(hashes_.size());
            hashes_.push_back(hash);
            letters_.append(word);
            starts_.push_back(letters_.size());
            ids_.push_back(slots_[slot]);
            if (hashes_.size() * 2 > slots_.size()) grow();
        } else {
            ids_.push_back(slots_[slot]);
        }
    }

    void grow() {
        std::vector<uint32_t> larger(slots_.size() * 2, kFree);
        for (uint32_t word = 0; word < hashes_.size(); ++word) {
            size_t slot = hashes_[word] & (larger.size() - 1);
            while (larger[slot] != kFree) slot = (slot + 1) & (larger.size() - 1);
            larger[slot] = word;
        }
        slots_.swap(larger);
    }

    std::vector<uint8_t> classes_;
    std::vector<uint32_t> slots_;   // open addressing: word number or kFree
    std::vector<uint64_t> hashes_;  // of each word
    std::vector<size_t> starts_ = {0};
    std::string letters_;
    std::vector<uint32_t> ids_;
    std::vector<int64_t> offsets_ = {0};
};

// One set of postings out of several. new_rows[s][r] is where row r of segment s goes, or 0xFFFFFFFF for nowhere.
nb::tuple merge(const std::vector<const Postings*>& segments, const std::vector<Column<uint32_t>>& new_rows) {
    constexpr uint32_t nowhere = std::numeric_limits<uint32_t>::max();
    if (segments.size() != new_rows.size()) throw std::invalid_argument("one row map for each segment is needed");
    for (size_t s = 0; s < segments.size(); ++s)
        if (new_rows[s].shape(0) != segments[s]->size()) throw std::invalid_argument("a row map has the wrong length");

    std::vector<uint8_t> spelling;
    std::vector<uint64_t> term_offsets = {0}, posting_offsets = {0};
    std::vector<uint32_t> rows, counts;
    {
        nb::gil_scoped_release released;
        std::vector<size_t> next(segments.size(), 0);
        std::vector<std::pair<uint32_t, uint32_t>> found;
        while (true) {
            std::optional<std::string_view> term;
            for (size_t s = 0; s < segments.size(); ++s)
                if (next[s] < segments[s]->terms() && (!term || segments[s]->term(next[s]) < *term))
                    term = segments[s]->term(next[s]);
            if (!term) break;
            found.clear();
            for (size_t s = 0; s < segments.size(); ++s) {
                const Postings& segment = *segments[s];
                if (next[s] == segment.terms() || segment.term(next[s]) != *term) continue;
                const uint64_t from = segment.posting_offsets.data()[next[s]];
                const uint64_t to = segment.posting_offsets.data()[++next[s]];
                segment.with_counts([&](const auto* count) {
                    for (uint64_t i = from; i < to; ++i) {
                        const uint32_t row = new_rows[s].data()[segment.rows.data()[i]];
                        if (row != nowhere) found.emplace_back(row, uint32_t(count[i]));
                    }
                });
            }
            if (found.empty()) continue;
            if (!std::is_sorted(found.begin(), found.end())) std::sort(found.begin(), found.end());
            for (const auto& [row, count] : found) {
                rows.push_back(row);
                counts.push_back(count);
            }
            spelling.insert(spelling.end(), term->begin(), term->end());
            term_offsets.push_back(spelling.size());
            posting_offsets.push_back(rows.size());
        }
    }
    return nb::make_tuple(to_numpy(std::move(spelling)), to_numpy(std::move(term_offsets)),
                          to_numpy(std::move(posting_offsets)), to_numpy(std::move(rows)), to_numpy(std::move(counts)));
}

}  // namespace

void bind_postings_build(nb::module_& m) {
    nb::class_<Tokens>(m, "Tokens")
        .def(nb::init<Column<uint8_t>>(), nb::arg("classes"))
        .def("add", &Tokens::add, nb::arg("texts"))
        .def("words", &Tokens::words)
        .def("ids", &Tokens::ids)
        .def("offsets", &Tokens::offsets)
        .def("invert", &Tokens::invert, nb::arg("term_of_word"), nb::arg("terms"));
    m.def("merge_postings", &merge, nb::arg("segments"), nb::arg("new_rows"));
}

}  // namespace rag
