#include "cpu.h"

#include <atomic>

#include "errors.h"

namespace rag {

namespace {

std::vector<Isa> detect() {
    std::vector<Isa> found{Isa::portable};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        found.push_back(Isa::avx2);
        // Without VNNI the AVX2 kernels serve: the first AVX-512 machines lower their clock for wide registers.
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vnni")) {
            found.push_back(Isa::avx512);
            if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni"))
                found.push_back(Isa::avx512vbmi);
        }
    }
#elif defined(__aarch64__)
    found.push_back(Isa::neon);  // part of every 64-bit ARM
#endif
    return found;
}

std::atomic<Isa>& active() {
    static std::atomic<Isa> isa{detect().back()};
    return isa;
}

}  // namespace

std::string_view name(Isa isa) {
    switch (isa) {
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512vbmi: return "avx512vbmi";
        case Isa::neon: return "neon";
        default: return "portable";
    }
}

std::vector<Isa> available_isas() { return detect(); }

Isa active_isa() { return active(); }

void force_isa(std::string_view wanted) {
    std::string known;
    for (Isa isa : detect()) {
        if (name(isa) == wanted) {
            active() = isa;
            return;
        }
        if (!known.empty()) known += ", ";
        known += name(isa);
    }
    throw InputError("instruction set '" + std::string(wanted) + "' is not available here", "available: " + known);
}

}  // namespace rag
