// The kernels, written once over a vector type V that each kernels_*.cpp defines for its instruction set.
//
// Included after V, inside an anonymous namespace, and free of the standard library: each including file is compiled
// for other processors than the rest of the program, so nothing here may be shared with other files by the linker.

#include "kernels_float.h"
#include "kernels_codes.h"
#include "kernels_product.h"
#include "kernels_numbers.h"

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
