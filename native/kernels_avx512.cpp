// AVX-512 with VNNI: 16 floats, or 64 bytes, an instruction.
#if defined(__x86_64__)
#include "kernels_avx512.h"

namespace rag {
namespace {

#include "kernels_body.h"

}  // namespace

const Kernels& kernels_avx512() { return kTable; }

}  // namespace rag
#endif
