// The kernels, written once over a vector type V that each kernels_*.cpp defines for its instruction set.
//
// Included after V, inside an anonymous namespace, and free of the standard library: each including file is compiled
// for other processors than the rest of the program, so nothing here may be shared with other files by the linker.

struct Dot {
    static inline V::f step(V::f sum, V::f row, V::f query) { return V::fma(row, query, sum); }
    static inline V::f finish(V::f sum) { return sum; }
    static inline float finish(float sum) { return sum; }
};

struct L2 {
    static inline V::f step(V::f sum, V::f row, V::f query) {
        const V::f difference = V::sub(row, query);
        return V::fma(difference, difference, sum);
    }
    static inline V::f finish(V::f sum) { return V::sub(V::zero(), sum); }
    static inline float finish(float sum) { return 0 - sum; }  // not -sum: a distance of zero is no -0.0
};

struct Float32Row {
    static constexpr size_t bytes = 4;
    static inline V::f load(const std::byte* row, size_t d) { return V::load(reinterpret_cast<const float*>(row) + d); }
};

struct Float16Row {
    static constexpr size_t bytes = 2;
    static inline V::f load(const std::byte* row, size_t d) {
        return V::load_half(reinterpret_cast<const uint16_t*>(row) + d);
    }
};

// A tile of rows asks for the tile after it while it computes: reading several rows side by side hides their order from
// the processor's own prefetcher, which is what bounds a scan of half floats (measured: 9 GB/s without, 27 with).
constexpr size_t kCacheLine = 64;

template <class Op, class Row, int R>
inline void rows_tile(const std::byte* const* rows, const float* query, size_t width, float* out) {
    V::f sum[R];
    for (int r = 0; r < R; ++r) sum[r] = V::zero();
    for (size_t d = 0; d < width; d += V::lanes) {
        const V::f q = V::load(query + d);
        if (d * Row::bytes % kCacheLine == 0)
            for (int r = 0; r < R; ++r) __builtin_prefetch(rows[R + r] + d * Row::bytes);
        for (int r = 0; r < R; ++r) sum[r] = Op::step(sum[r], Row::load(rows[r], d), q);
    }
    for (int r = 0; r < R; ++r) out[r] = Op::finish(V::sum(sum[r]));
}

template <class Op, class Row>
void rows_kernel(const std::byte* const* rows, size_t n, const float* query, size_t width, float* out) {
    size_t i = 0;
    for (; i + V::row_tile <= n; i += V::row_tile) rows_tile<Op, Row, V::row_tile>(rows + i, query, width, out + i);
    for (; i < n; ++i) rows_tile<Op, Row, 1>(rows + i, query, width, out + i);
}

// Every 16 steps of a panel's tile ask for a line of each row of the tile that comes after it.
constexpr size_t kAheadSteps = 16;
inline void fetch(const std::byte* const* rows, size_t line, size_t bytes) {
    if (line * kCacheLine < bytes)
        for (int r = 0; r < V::tile_rows; ++r) __builtin_prefetch(rows[r] + line * kCacheLine);
}

template <class Op, int N>
inline void panel_tile(const std::byte* const* rows, const float* packed, size_t dim, float* out, size_t ld,
                       Ahead ahead) {
    constexpr int R = V::tile_rows;
    V::f sum[R][N];
    const float* row[R];
    for (int r = 0; r < R; ++r) {
        row[r] = reinterpret_cast<const float*>(rows[r]);
        for (int v = 0; v < N; ++v) sum[r][v] = V::zero();
    }
    for (size_t d = 0; d < dim; ++d, packed += N * V::lanes) {
        if (d % kAheadSteps == 0) fetch(ahead.rows, d / kAheadSteps, ahead.bytes);
        V::f q[N];
        for (int v = 0; v < N; ++v) q[v] = V::load(packed + v * V::lanes);
        for (int r = 0; r < R; ++r) {
            const V::f x = V::broadcast(row[r][d]);
            for (int v = 0; v < N; ++v) sum[r][v] = Op::step(sum[r][v], x, q[v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < N; ++v) V::store(out + r * ld + v * V::lanes, Op::finish(sum[r][v]));
}

template <class Op>
void panel_kernel(const std::byte* const* rows, size_t n, const float* packed, size_t vectors, size_t dim, float* out,
                  size_t ld, Ahead ahead) {
    for (size_t i = 0; i < n; i += V::tile_rows) {
        const float* panel = packed;
        for (size_t v = 0; v < vectors; v += V::panel_vectors) {
            float* to = out + i * ld + v * V::lanes;
            const Ahead next{ahead.rows + i, v ? 0 : ahead.bytes};
            switch (vectors - v) {
                case 1: panel_tile<Op, 1>(rows + i, panel, dim, to, ld, next); break;
                case 2: panel_tile<Op, 2>(rows + i, panel, dim, to, ld, next); break;
                default: panel_tile<Op, V::panel_vectors>(rows + i, panel, dim, to, ld, next);
            }
            panel += dim * V::panel_vectors * V::lanes;
        }
    }
}

// `Small`: codes of at most 4 bits, which some processors multiply in fewer instructions.
template <bool Small, int N>
inline void panel_tile_bytes(const std::byte* const* rows, const float* row_factors, BytePanel queries, size_t quads,
                             float* out, size_t ld, Ahead ahead) {
    constexpr int R = V::tile_rows;
    V::i sum[R][N];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < N; ++v) sum[r][v] = V::izero();
    const int8_t* packed = queries.codes;
    for (size_t d = 0; d < quads; ++d, packed += 4 * N * V::lanes) {
        if (d % kAheadSteps == 0) fetch(ahead.rows, d / kAheadSteps, ahead.bytes);
        V::i q[N];
        for (int v = 0; v < N; ++v) q[v] = V::load_bytes(packed + 4 * v * V::lanes);
        for (int r = 0; r < R; ++r) {
            const auto x = V::template broadcast_quad<Small>(rows[r] + 4 * d);
            for (int v = 0; v < N; ++v) sum[r][v] = V::dot4(sum[r][v], x, q[v]);
        }
    }
    // Unrolled, or else the compiler keeps `sum` in memory all along, at half the speed.
#pragma GCC unroll 16
    for (int v = 0; v < N; ++v) {
        const V::i sums = V::load_ints(queries.sums + v * V::lanes);
        const V::i offset = V::imul(sums, Small ? queries.zero : V::code_offset + queries.zero - 128);
        const V::f total = V::to_float(sums), factor = V::load(queries.factors + v * V::lanes);
        const V::f constant = V::load(queries.constants + v * V::lanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const float* own = row_factors + 3 * r;
            const V::f dot = V::to_float(V::isub(sum[r][v], offset));
            const V::f scaled = V::fma(V::broadcast(own[0]), dot, V::mul(V::broadcast(own[1]), total));
            const V::f rest = V::sub(constant, V::broadcast(own[2]));
            V::store(out + r * ld + v * V::lanes, V::fma(factor, scaled, rest));
        }
    }
}

template <bool Small>
void panel_kernel_bytes(const std::byte* const* rows, const float* row_factors, size_t n, BytePanel queries,
                        size_t vectors, size_t quads, float* out, size_t ld, Ahead ahead) {
    for (size_t i = 0; i < n; i += V::tile_rows) {
        BytePanel panel = queries;
        for (size_t v = 0; v < vectors; v += V::panel_vectors) {
            float* to = out + i * ld + v * V::lanes;
            const float* own = row_factors + 3 * i;
            const Ahead next{ahead.rows + i, v ? 0 : ahead.bytes};
            switch (vectors - v) {
                case 1: panel_tile_bytes<Small, 1>(rows + i, own, panel, quads, to, ld, next); break;
                case 2: panel_tile_bytes<Small, 2>(rows + i, own, panel, quads, to, ld, next); break;
                default: panel_tile_bytes<Small, V::panel_vectors>(rows + i, own, panel, quads, to, ld, next);
            }
            panel.codes += quads * 4 * V::panel_vectors * V::lanes;
            panel.sums += V::panel_vectors * V::lanes;
            panel.factors += V::panel_vectors * V::lanes;
            panel.constants += V::panel_vectors * V::lanes;
        }
    }
}

inline float tail_float(const std::byte* end, int back) {
    float x;
    __builtin_memcpy(&x, end - back, sizeof x);
    return x;
}

template <int Bits, int Field>
inline V::i packed_fields(V::i sum, V::raw codes, const int8_t* query) {
    sum = V::dot4(sum, V::template field<Field * Bits, Bits>(codes), V::load_bytes(query + Field * kCacheLine));
    if constexpr ((Field + 1) * Bits < 8) return packed_fields<Bits, Field + 1>(sum, codes, query);
    return sum;
}

// Where rows lie, and which ones to ask for while one is at hand: the tile after this, or what follows in memory, where
// the processor's own prefetcher is too late.
struct RowList {
    const std::byte* const* rows;
    inline const std::byte* operator[](size_t r) const { return rows[r]; }
    inline RowList from(size_t r) const { return {rows + r}; }
    inline void prefetch(size_t r, size_t offset) const { __builtin_prefetch(rows[V::lanes + r] + offset); }
};
struct RowRun {
    const std::byte* first;
    size_t stride;
    inline const std::byte* operator[](size_t r) const { return first + r * stride; }
    inline RowRun from(size_t r) const { return {first + r * stride, stride}; }
    inline void prefetch(size_t r, size_t offset) const { __builtin_prefetch(first + r * stride + offset + 4096); }
};

// A line takes two or three instructions a field. Four rows run side by side.
template <int Bits, class Rows>
inline V::i packed_sums(Rows rows, size_t lines, const int8_t* query) {
    constexpr int step = 4 * V::lanes, fields = 8 / Bits;
    V::i sum[4] = {V::izero(), V::izero(), V::izero(), V::izero()};
    for (size_t at = 0; at < lines * kCacheLine; at += kCacheLine) {
        for (int r = 0; r < 4; ++r) rows.prefetch(r, at);
        for (size_t b = 0; b < kCacheLine; b += step)
            for (int r = 0; r < 4; ++r) {
                const std::byte* codes = rows[r] + at + b;
                if constexpr (Bits == 8)
                    sum[r] = V::dot4(sum[r], V::row_bytes(codes), V::load_bytes(query + at + b));
                else
                    sum[r] = packed_fields<Bits, 0>(sum[r], V::load_raw(codes), query + fields * at + b);
            }
    }
    return V::four_sums(sum);
}

// The sums of as many rows as a register has lanes, in one register.
template <int Bits, class Rows>
inline V::i tile_sums(Rows rows, size_t lines, const int8_t* query) {
    V::i sums[V::lanes / 4];
#pragma GCC unroll 4
    for (int g = 0; g < V::lanes; g += 4) sums[g / 4] = packed_sums<Bits>(rows.from(g), lines, query);
    return V::join_sums(sums);
}

inline void rows_tile_i8(const std::byte* const* rows, const float* row_factors, Int8Query query, size_t lines,
                         float* out) {
    const V::i sums = V::isub(tile_sums<8>(RowList{rows}, lines, query.codes), V::iset(V::code_offset * query.sum));
    float dots[V::lanes];
    V::store(dots, V::to_float(sums));
    for (int r = 0; r < V::lanes; ++r) out[r] = query.factor * (row_factors[2 * r] * dots[r]) - row_factors[2 * r + 1];
}

void rows_kernel_i8(const std::byte* const* rows, const float* row_factors, size_t n, Int8Query query, size_t width,
                    float* out) {
    const size_t lines = width / kCacheLine;
    for (; n >= V::lanes; n -= V::lanes, rows += V::lanes, row_factors += 2 * V::lanes, out += V::lanes)
        rows_tile_i8(rows, row_factors, query, lines, out);
    if (n == 0) return;
    const std::byte* last[2 * V::lanes];  // the last tile is filled up
    float factors[2 * V::lanes], scores[V::lanes];
    for (size_t r = 0; r < 2 * V::lanes; ++r) last[r] = rows[r < n ? r : n - 1];
    for (size_t r = 0; r < 2 * V::lanes; ++r) factors[r] = row_factors[r < 2 * n ? r : 0];
    rows_tile_i8(last, factors, query, lines, scores);
    __builtin_memcpy(out, scores, n * sizeof(float));
}

// What is done with the sums is done for all rows of a tile at once.
template <int Bits, class Rows>
inline void packed_tile(Rows rows, size_t lines, const PackedQuery& query, float* out) {
    V::i dots = tile_sums<Bits>(rows, lines, query.codes);
    const float* ends[V::lanes];
    for (int r = 0; r < V::lanes; ++r) ends[r] = reinterpret_cast<const float*>(rows[r] + lines * kCacheLine) - 4;
    V::f tail[4];  // the last four floats of each row, the last three of which are scale, low and bias
    V::columns(ends, tail);
    if constexpr (Bits == 8) dots = V::isub(dots, V::iset((V::code_offset - 128) * query.sum));
    const V::f total = V::broadcast(static_cast<float>(query.sum));
    const V::f scaled = V::fma(tail[1], V::to_float(dots), V::mul(tail[2], total));
    const V::f rest = V::sub(V::broadcast(query.constant), V::mul(V::broadcast(query.weight), tail[3]));
    V::store(out, V::fma(V::broadcast(query.factor), scaled, rest));
}

// `lines`: as a constant where it is one, which saves a quarter of the time.
template <int Bits, class Rows>
inline void packed_tiles(Rows rows, size_t n, size_t lines, const PackedQuery& query, float* out) {
    for (; n >= V::lanes; n -= V::lanes, rows = rows.from(V::lanes), out += V::lanes)
        packed_tile<Bits>(rows, lines, query, out);
    if (n == 0) return;
    const std::byte* last[2 * V::lanes];  // the last tile is filled up
    float scores[V::lanes];
    for (size_t r = 0; r < 2 * V::lanes; ++r) last[r] = rows[r < n ? r : n - 1];
    packed_tile<Bits>(RowList{last}, lines, query, scores);
    __builtin_memcpy(out, scores, n * sizeof(float));
}

template <int Bits>
void packed_list(const std::byte* const* rows, size_t n, const PackedQuery& query, float* out) {
    if (query.lines == 1) return packed_tiles<Bits>(RowList{rows}, n, 1, query, out);
    packed_tiles<Bits>(RowList{rows}, n, query.lines, query, out);
}

template <int Bits>
void packed_run(const std::byte* first, size_t n, const PackedQuery& query, float* out) {
    if (query.lines == 1) return packed_tiles<Bits>(RowRun{first, kCacheLine}, n, 1, query, out);
    packed_tiles<Bits>(RowRun{first, query.lines * kCacheLine}, n, query.lines, query, out);
}

template <int Bits, int Field>
inline std::byte* unpack_fields(const std::byte* line, size_t used, std::byte* codes) {
    for (size_t b = 0; b < kCacheLine; b += 4 * V::lanes)
        V::store_codes(codes + b, V::template field<Field * Bits, Bits>(V::load_raw(line + b)));
    if constexpr ((Field + 1) * Bits < 8) return unpack_fields<Bits, Field + 1>(line, used, codes + used);
    return codes + used;
}

template <int Bits>
void unpack(const std::byte* row, size_t lines, std::byte* codes) {
    for (size_t line = 1; line <= lines; ++line, row += kCacheLine)
        codes = unpack_fields<Bits, 0>(row, line < lines ? kCacheLine : kCacheLine - kPackedTail, codes);
}

template <int Bits, int Part>
inline void unfold_line(const std::byte* codes, const std::byte* table, const std::byte* base, std::byte* bytes) {
    constexpr size_t at = Part * 4 * V::lanes;
    V::store_codes(bytes + at, V::looked_up(table, V::template spread<Bits, Part>(codes), base + at));
    if constexpr ((Part + 1) * 4 * V::lanes < kCacheLine) unfold_line<Bits, Part + 1>(codes, table, base, bytes);
}

template <int Bits>
void unfold(const std::byte* codes, size_t lines, const std::byte* table, const std::byte* base, std::byte* bytes) {
    for (; lines; --lines, codes += 8 * Bits, base += kCacheLine, bytes += kCacheLine)
        unfold_line<Bits, 0>(codes, table, base, bytes);
}

template <int Part>
inline void unpack_signs_line(const std::byte* codes, std::byte* bytes) {
    constexpr size_t at = Part * 4 * V::lanes;
    V::store_codes(bytes + at, V::template spread<1, Part>(codes));
    if constexpr (at + 4 * V::lanes < kCacheLine) unpack_signs_line<Part + 1>(codes, bytes);
}

void unpack_signs(const std::byte* codes, size_t lines, std::byte* bytes) {
    for (; lines; --lines, codes += 8, bytes += kCacheLine) unpack_signs_line<0>(codes, bytes);
}

template <bool Twelve, bool Far, int R>
inline void adaptive_tile(const std::byte* const* rows, const AdaptiveQuery& query, float* out) {
    constexpr size_t header = 8, group_bytes = Twelve ? 48 : 32;
    V::f sum[R], scale[R], low[R];
    for (int r = 0; r < R; ++r) {
        sum[r] = V::zero();
        scale[r] = V::broadcast(tail_float(rows[r] + 4, 4));
        low[r] = V::broadcast(tail_float(rows[r] + 8, 4));
    }
    for (size_t g = 0; g < query.groups; ++g) {
        for (int r = 0; r < R; ++r) __builtin_prefetch(rows[R + r] + header + g * group_bytes);
        for (int h = 0; h < 32; h += V::lanes) {
            const V::f q = V::load(query.values + g * 32 + h);
            for (int r = 0; r < R; ++r) {
                const std::byte* group = rows[r] + header + g * group_bytes;
                V::i code = V::widen_bytes(group + h);
                if constexpr (Twelve) {
                    const V::i rest = V::widen_bytes(group + 32 + h % 16);
                    code = V::ior(V::ishl4(code), h < 16 ? V::iand15(rest) : V::ishr4(rest));
                }
                if constexpr (Far) {
                    const V::f difference = V::sub(q, V::fma(V::to_float(code), scale[r], low[r]));
                    sum[r] = V::fma(difference, difference, sum[r]);
                } else {
                    sum[r] = V::fma(V::to_float(code), q, sum[r]);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        const float s = tail_float(rows[r] + 4, 4), l = tail_float(rows[r] + 8, 4), total = V::sum(sum[r]);
        out[r] = Far ? query.padding * l * l - total : s * total + l * query.sum + query.constant;
    }
}

template <bool Twelve, bool Far>
void adaptive_kernel(const std::byte* const* rows, size_t n, const AdaptiveQuery& query, float* out) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) adaptive_tile<Twelve, Far, 4>(rows + i, query, out + i);
    for (; i < n; ++i) adaptive_tile<Twelve, Far, 1>(rows + i, query, out + i);
}

inline void add_line(const std::byte* codes, const uint8_t* table, uint32_t* sum) {
    uint32_t sums[2] = {0, 0};
    for (size_t m = 0; m < kCacheLine; m += 8) {
        uint64_t word;
        __builtin_memcpy(&word, codes + m, 8);
        for (size_t b = 0; b < 8; ++b, word >>= 8) sums[b % 2] += table[(m + b) * kCentroids + (word & 255)];
    }
    *sum += sums[0] + sums[1];
}

// Line by line over a group of rows, so that the tables of a line (16 KiB) stay in the first-level cache.
void score_product(const std::byte* const* rows, size_t n, const ProductQuery& query, float* out) {
    constexpr size_t group = 128;
    for (size_t first = 0; first < n; first += group) {
        const size_t here = n - first < group ? n - first : group;
        uint32_t sums[group] = {};
        for (size_t line = 0; line < query.lines; ++line)
            for (size_t r = 0; r < here; ++r) {
                __builtin_prefetch(rows[first + r] + (line + 1) * kCacheLine);
                add_line(rows[first + r] + line * kCacheLine, query.table + line * kCacheLine * kCentroids, sums + r);
            }
        for (size_t r = 0; r < here; ++r) out[first + r] = query.step * static_cast<float>(sums[r]) + query.constant;
    }
}

template <size_t N>
inline void centroid_scores(const float* x, const float* codebook, bool near, float* scores) {
    for (size_t c = 0; c < kCentroids; c += N * V::lanes) {
        V::f sum[N];
        for (size_t j = 0; j < N; ++j)
            sum[j] = near ? V::load(codebook + kProductWidth * kCentroids + c + j * V::lanes) : V::zero();
        for (size_t d = 0; d < kProductWidth; ++d) {
            const V::f value = V::broadcast(x[d]);
            for (size_t j = 0; j < N; ++j)
                sum[j] = V::fma(value, V::load(codebook + d * kCentroids + c + j * V::lanes), sum[j]);
        }
        for (size_t j = 0; j < N; ++j) V::store(scores + c + j * V::lanes, sum[j]);
    }
}

void score_centroids(const float* x, const float* codebook, bool near, float* scores) {
    centroid_scores<8>(x, codebook, near, scores);
}

void nearest_centroids(const float* x, size_t stride, size_t n, const float* codebook, std::byte* codes,
                       size_t code_stride) {
    float scores[kCentroids];
    for (size_t i = 0; i < n; ++i, x += stride, codes += code_stride) {
        centroid_scores<8>(x, codebook, true, scores);
        V::f best[4];
        for (int j = 0; j < 4; ++j) best[j] = V::load(scores + j * V::lanes);
        for (size_t c = 4 * V::lanes; c < kCentroids; c += 4 * V::lanes)
            for (int j = 0; j < 4; ++j) best[j] = V::max(best[j], V::load(scores + c + j * V::lanes));
        float most[V::lanes], top;
        V::store(most, V::max(V::max(best[0], best[1]), V::max(best[2], best[3])));
        top = most[0];
        for (int l = 1; l < V::lanes; ++l) top = most[l] > top ? most[l] : top;
        const V::f limit = V::broadcast(top);
        size_t c = 0;
        unsigned found = 0;
        while (!(found = V::not_less(V::load(scores + c), limit)) && c + V::lanes < kCentroids) c += V::lanes;
        *codes = static_cast<std::byte>(c + (found ? __builtin_ctz(found) : 0));
    }
}

void range(const float* x, size_t n, float* low, float* high) {
    V::f least[2] = {V::load(x), V::load(x + V::lanes)}, most[2] = {least[0], least[1]};
    for (size_t i = 2 * V::lanes; i < n; i += 2 * V::lanes)
        for (int j = 0; j < 2; ++j) {
            const V::f next = V::load(x + i + j * V::lanes);
            least[j] = V::min(least[j], next);
            most[j] = V::max(most[j], next);
        }
    float lows[V::lanes], highs[V::lanes];
    V::store(lows, V::min(least[0], least[1]));
    V::store(highs, V::max(most[0], most[1]));
    *low = lows[0];
    *high = highs[0];
    for (int l = 1; l < V::lanes; ++l) {
        if (lows[l] < *low) *low = lows[l];
        if (highs[l] > *high) *high = highs[l];
    }
}

struct GridRegisters {
    explicit inline GridRegisters(const Grid& grid)
        : low(V::broadcast(grid.low)), inverse(V::broadcast(grid.inverse)), shift(V::broadcast(grid.shift)),
          most(V::broadcast(grid.most)) {}
    inline V::i code(V::f x) const {
        return V::to_int(V::min(V::max(V::fma(V::sub(x, low), inverse, shift), V::zero()), most));
    }
    V::f low, inverse, shift, most;
};

void quantize(const float* x, size_t n, const Grid& grid, std::byte* codes) {
    const GridRegisters registers(grid);
    for (size_t i = 0; i < n; i += V::lanes) V::store_bytes(codes + i, registers.code(V::load(x + i)));
}

void quantize12(const float* x, size_t n, const Grid& grid, std::byte* codes) {
    const GridRegisters registers(grid);
    for (size_t i = 0; i < n; i += 32, codes += 48)
        for (int h = 0; h < 16; h += V::lanes) {
            const V::i first = registers.code(V::load(x + i + h)), second = registers.code(V::load(x + i + 16 + h));
            V::store_bytes(codes + h, V::ishr4(first));
            V::store_bytes(codes + 16 + h, V::ishr4(second));
            V::store_bytes(codes + 32 + h, V::ior(V::iand15(first), V::ishl4(V::iand15(second))));
        }
}

void dequantize(const std::byte* codes, size_t n, float scale, float low, const float* offset, float* out) {
    const V::f step = V::broadcast(scale), start = V::broadcast(low);
    for (size_t i = 0; i < n; i += V::lanes) {
        const V::f x = V::fma(V::to_float(V::widen_bytes(codes + i)), step, start);
        V::store(out + i, V::add(x, V::load(offset + i)));
    }
}

void dequantize12(const std::byte* codes, size_t n, float scale, float low, const float* offset, float* out) {
    const V::f step = V::broadcast(scale), start = V::broadcast(low);
    for (size_t i = 0; i < n; i += 32, codes += 48)
        for (int h = 0; h < 16; h += V::lanes) {
            const V::i rest = V::widen_bytes(codes + 32 + h);
            const V::i first = V::ior(V::ishl4(V::widen_bytes(codes + h)), V::iand15(rest));
            const V::i second = V::ior(V::ishl4(V::widen_bytes(codes + 16 + h)), V::ishr4(rest));
            const size_t a = i + h, b = a + 16;
            V::store(out + a, V::add(V::fma(V::to_float(first), step, start), V::load(offset + a)));
            V::store(out + b, V::add(V::fma(V::to_float(second), step, start), V::load(offset + b)));
        }
}

void fit(const float* x, size_t n, const Grid& grid, float middle, float* dot, float* norm) {
    const GridRegisters registers(grid);
    const V::f centre = V::broadcast(middle);
    V::f dots[2] = {V::zero(), V::zero()}, norms[2] = {V::zero(), V::zero()};
    for (size_t i = 0; i < n; i += 2 * V::lanes)
        for (int j = 0; j < 2; ++j) {
            const V::f value = V::load(x + i + j * V::lanes);
            const V::f code = V::sub(V::to_float(registers.code(value)), centre);
            dots[j] = V::fma(code, value, dots[j]);
            norms[j] = V::fma(code, code, norms[j]);
        }
    *dot = V::sum(V::add(dots[0], dots[1]));
    *norm = V::sum(V::add(norms[0], norms[1]));
}

uint64_t above(const float* scores, const float* thresholds, size_t n) {
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i += V::lanes)
        bits |= static_cast<uint64_t>(V::not_less(V::load(scores + i), V::load(thresholds + i))) << i;
    return n == 64 ? bits : bits & ((uint64_t{1} << n) - 1);
}

uint64_t above_one(const float* scores, float threshold, size_t n) {
    uint64_t bits = 0;
    const V::f limit = V::broadcast(threshold);
    for (size_t i = 0; i < n; i += V::lanes)
        bits |= static_cast<uint64_t>(V::not_less(V::load(scores + i), limit)) << i;
    return n == 64 ? bits : bits & ((uint64_t{1} << n) - 1);
}

void maxima(const float* scores, size_t n, size_t ld, size_t width, float* best) {
    for (size_t i = 0; i < width; i += V::lanes) {
        V::f most[2] = {V::load(best + i), V::load(best + i)};
        const float* column = scores + i;
        size_t r = 0;
        for (; r + 2 <= n; r += 2, column += 2 * ld) {
            most[0] = V::max(most[0], V::load(column));
            most[1] = V::max(most[1], V::load(column + ld));
        }
        if (r < n) most[0] = V::max(most[0], V::load(column));
        V::store(best + i, V::max(most[0], most[1]));
    }
}

void to_half(const float* from, uint16_t* to, size_t n) {
    for (size_t i = 0; i < n; i += V::lanes) V::store_half(to + i, V::load(from + i));
}

void from_half(const uint16_t* from, float* to, size_t n) {
    for (size_t i = 0; i < n; i += V::lanes) V::store(to + i, V::load_half(from + i));
}

constexpr Kernels kTable{
    V::lanes,
    V::panel_vectors,
    V::tile_rows,
    rows_kernel<Dot, Float32Row>,
    rows_kernel<L2, Float32Row>,
    rows_kernel<Dot, Float16Row>,
    rows_kernel<L2, Float16Row>,
    panel_kernel<Dot>,
    panel_kernel<L2>,
    rows_kernel_i8,
    {panel_kernel_bytes<false>, panel_kernel_bytes<V::code_offset == 0>},
    {packed_list<1>, packed_list<2>, packed_list<4>, packed_list<8>},
    {packed_run<1>, packed_run<2>, packed_run<4>, packed_run<8>},
    {unpack<1>, unpack<2>, unpack<4>, unpack<8>},
    {unfold<2>, unfold<4>},
    unpack_signs,
    {{adaptive_kernel<false, false>, adaptive_kernel<false, true>},
     {adaptive_kernel<true, false>, adaptive_kernel<true, true>}},
    score_product,
    score_centroids,
    nearest_centroids,
    range,
    quantize,
    quantize12,
    dequantize,
    dequantize12,
    fit,
    above,
    above_one,
    maxima,
    to_half,
    from_half,
};
