#include "walk.h"

#include <bit>
#include <cmath>

namespace rag {

namespace {

constexpr size_t kStarts = 8;        // the best entries, where a walk begins
constexpr size_t kLead = 2;          // places that a walk keeps in sight above its goal
constexpr size_t kEnough = 16;       // rows that are scored in one turn, at least while there are any
constexpr size_t kFetchedLines = 6;  // of a code; the processor sees to the rest of a long one

}  // namespace

void Walk::start(const Graph& graph, const Queries& queries, size_t query, Effort effort, float origin, size_t level) {
    passing_ = nullptr;
    reset(graph, queries, query, effort, origin, level);
    enter(graph.top());
    begin(graph.entries());
}

void Walk::start(const Graph& graph, const Queries& queries, size_t query, Effort effort, float origin,
                 std::span<const uint32_t> entries, const Bitmap& passing) {
    passing_ = &passing;
    reset(graph, queries, query, effort, origin, 0);
    enter(0);
    begin(entries);
}

void Walk::reset(const Graph& graph, const Queries& queries, size_t query, Effort effort, float origin, size_t level) {
    graph_ = &graph;
    goal_ = level;
    effort_ = effort;
    origin_ = origin;
    factor_ = (1 + effort.slack) * (1 + effort.slack);
    expanded_ = 0;
    tier_ = &graph.store().primary();
    factors_ = tier_->codec->factors();
    queries_ = &queries;
    query_ = query;
}

void Walk::enter(size_t level) {
    at_ = level;
    level_ = &graph_->level(level);
    visited_.clear();
    visited_.reserve(level_->size(), kStarts);
    pool_.reset(0, 0);
    aim();
}

// As many rows in sight as the level asks for.
void Walk::aim() {
    if (at_ == goal_)
        pool_.widen(effort_.window, effort_.rerank);
    else
        pool_.widen(kLead, kLead);
}

// The score below which no row is expanded: distances are compared, which scores stand for.
float Walk::limit() const {
    if (at_ != goal_ || std::isinf(factor_) || pool_.size() < effort_.nearest) return -std::numeric_limits<float>::infinity();
    return origin_ - factor_ * std::max(origin_ - pool_.score(effort_.nearest - 1), 0.0f);
}

size_t Walk::near() const {
    const float least = limit();
    size_t n = 0;
    while (n < pool_.size() && pool_.score(n) >= least) ++n;
    return n;
}

bool Walk::step() {
    if (waiting_) {
        score();
        meet_scored();
        pool_.trim(limit(), effort_.rerank);
    }
    while (!gather()) {
        if (at_ == goal_) return false;
        descend();
    }
    return true;
}

// What was scored comes in sight, if it is good enough.
void Walk::meet_scored() {
    const float least = std::max(pool_.threshold(), limit());
    for (size_t first = 0; first < waiting_; first += 64) {
        const size_t n = std::min<size_t>(64, waiting_ - first);
        for (uint64_t bits = kernels().above_one(scores_.data() + first, least, n); bits; bits &= bits - 1) {
            const size_t i = first + std::countr_zero(bits);
            if (pool_.push(scores_[i], rows_[i])) fetch_links(rows_[i]);
        }
    }
    waiting_ = 0;
}

// The best places are where the walk goes on, one level down.
void Walk::descend() {
    starts_.clear();
    for (size_t i = 0; i < pool_.size(); ++i) starts_.emplace_back(pool_.score(i), level_->below(pool_.row(i)));
    enter(at_ - 1);
    for (const auto& [score, place] : starts_) {
        visited_.insert(place);
        pool_.push(score, place);
    }
}

// The best of the entries into the pool.
void Walk::begin(std::span<const uint32_t> entries) {
    const size_t most = round_up(std::max(entries.size(), kEnough + 2 * graph_->level(0).room()), 64);
    rows_.resize(most);
    codes_.resize(most + kMaxTile);
    scores_.resize(most);
    row_factors_.resize((most + kMaxTile) * factors_);
    waiting_ = entries.size();
    if (!waiting_) return;
    std::copy(entries.begin(), entries.end(), rows_.begin());
    fetch();
    score();
    pool_.reset(kStarts, kStarts);
    for (size_t i = 0; i < waiting_; ++i)
        if (scores_[i] >= pool_.threshold()) pool_.push(scores_[i], rows_[i]);
    for (size_t i = 0; i < pool_.size(); ++i) visited_.insert(pool_.row(i));
    aim();
    waiting_ = 0;
}

// Collects the neighbours of the next rows, until enough of them were not seen before: so many that scoring them takes
// about as long as the memory does which it waits for.
bool Walk::gather() {
    const size_t room = level_->room();
    while (waiting_ < kEnough) {
        const uint32_t row = pool_.expand();
        if (row == kNoRow) break;
        if (expanded_ >= effort_.least && pool_.expanded() < limit()) {
            pool_.finish();
            break;
        }
        ++expanded_;
        const std::span links(level_->links(row), room);
        if (passing_)
            meet_passing(links);
        else
            meet(links);
    }
    fetch();
    if (const uint32_t next = pool_.peek(); next != kNoRow) fetch_links(next);
    return waiting_ > 0;
}

void Walk::fetch_links(uint32_t row) const {
    const auto* links = reinterpret_cast<const std::byte*>(level_->links(row));
    for (size_t at = 0; at < level_->row_bytes(); at += 64) __builtin_prefetch(links + at);
}

void Walk::meet(std::span<const uint32_t> links) {
    visited_.reserve(0, links.size());
    size_t n = waiting_;
    uint32_t* const rows = rows_.data();
    for (const uint32_t row : links) {
        if (row == kNoRow) break;
        rows[n] = row;
        n += visited_.insert(row);
    }
    waiting_ = n;
}

// Rows that do not pass are no stations of the walk: it goes on to their neighbours at once, until it has met so many rows
// that pass as `fill` says (ACORN: Patel et al. 2024, section 5).
void Walk::meet_passing(std::span<const uint32_t> links) {
    const Bitmap& passing = *passing_;
    const size_t most = waiting_ + static_cast<size_t>(effort_.fill * static_cast<float>(links.size()));
    visited_.reserve(0, links.size());
    for (const uint32_t row : links) {
        if (row == kNoRow) break;
        if (passing[row] && visited_.insert(row)) rows_[waiting_++] = row;
    }
    for (const uint32_t row : links) {
        if (row == kNoRow || waiting_ >= most) break;
        if (passing[row]) continue;
        visited_.reserve(0, links.size() + 1);
        if (!visited_.insert(row)) continue;
        for (const uint32_t beyond : std::span(level_->links(row), links.size())) {
            if (beyond == kNoRow) break;
            if (passing[beyond] && visited_.insert(beyond)) rows_[waiting_++] = beyond;
        }
    }
}

// Asks for the codes of the rows that wait.
void Walk::fetch() {
    const size_t n = waiting_, lines = std::min((tier_->codes.stride() + 63) / 64, kFetchedLines);
    const std::byte** const codes = codes_.data();
    const bool ground = level_->ground();
    for (size_t i = 0; i < n; ++i) {
        const std::byte* code = codes[i] = tier_->codes[ground ? rows_[i] : level_->row(rows_[i])];
        for (size_t line = 0; line < lines; ++line) __builtin_prefetch(code + line * 64);
    }
    if (n) std::fill_n(codes + n, kMaxTile, codes[n - 1]);
    for (size_t i = 0; factors_ && i < n; ++i)
        std::copy_n(tier_->factors_of(level_->row(rows_[i])), factors_, row_factors_.data() + i * factors_);
}

void Walk::score() { queries_->rows(query_, {codes_.data(), row_factors_.data(), waiting_}, scores_.data()); }

void Walk::meet_alone(std::span<const uint32_t> rows, const Block& block, float* scores) {
    queries_->rows(query_, block, scores);
    visited_.reserve(0, rows.size());
    for (size_t first = 0; first < rows.size(); first += 64) {
        const size_t n = std::min<size_t>(64, rows.size() - first);
        for (uint64_t bits = kernels().above_one(scores + first, pool_.threshold(), n); bits; bits &= bits - 1) {
            const size_t i = first + std::countr_zero(bits);
            if (visited_.insert(rows[i])) pool_.push(scores[i], rows[i]);
        }
    }
}

}  // namespace rag
