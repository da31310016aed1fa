// Codes of a byte or less a component: panels of bytes, packed codes, what unpacks them, and adaptive codes.
// Part of kernels_body.h: see there.

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
