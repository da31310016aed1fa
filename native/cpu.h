// Which instruction set the kernels use: found once at run time, or forced by a test.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace rag {

enum class Isa { portable, avx2, avx512, avx512vbmi, neon };

std::string_view name(Isa isa);
std::vector<Isa> available_isas();  // usable on this machine, best last
Isa active_isa();
void force_isa(std::string_view name);  // throws InputError for one that this machine or build lacks

}  // namespace rag
