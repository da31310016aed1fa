#include "level.h"

#include "errors.h"

namespace rag {

void Level::extend(size_t places, size_t room) {
    if (foreign_ || room != room_) {
        Buffer wider;
        wider.reserve(places * room * sizeof(uint32_t));
        auto* to = reinterpret_cast<uint32_t*>(wider.data());
        std::fill_n(to, places * room, kNoRow);
        for (size_t place = 0; place < size_; ++place) std::copy_n(links(place), std::min(room, room_), to + place * room);
        own_.swap(wider);
        foreign_ = nullptr;
        owner_.reset();
        room_ = room;
    } else if (places > size_) {
        own_.reserve(places * row_bytes());
        std::fill_n(own_links() + size_ * room_, (places - size_) * room_, kNoRow);
    }
    size_ = places;
}

void Level::attach(std::span<const uint32_t> links, size_t room, const std::shared_ptr<void>& owner) {
    if (room == 0 || links.size() % room || (!ground_ && links.size() / room != rows_.size()))
        throw InputError("links for another number of rows", "the file is damaged");
    const size_t places = links.size() / room;
    uint32_t wrong = 0;
    for (const uint32_t link : links) wrong |= (link >= places) & (link != kNoRow);
    if (wrong) throw InputError("links lead to rows that are not there", "the file is damaged");
    foreign_ = links.data();
    size_ = places;
    room_ = room;
    owner_ = owner;
}

}  // namespace rag
