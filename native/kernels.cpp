#include "kernels.h"

#include "cpu.h"

namespace rag {

const Kernels& kernels() {
    switch (active_isa()) {
#if defined(__x86_64__)
        case Isa::avx2: return kernels_avx2();
        case Isa::avx512: return kernels_avx512();
        case Isa::avx512vbmi: return kernels_avx512vbmi();
#elif defined(__aarch64__)
        case Isa::neon: return kernels_neon();
#endif
        default: return kernels_portable();
    }
}

}  // namespace rag
