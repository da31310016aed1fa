// Numbers into codes and back, half floats, thresholds and maxima.
// Part of kernels_body.h: see there.

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
