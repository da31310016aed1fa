// Vectors of floats and half floats against one query, and against many that lie side by side (panels).
// Part of kernels_body.h: see there.

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
