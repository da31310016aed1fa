// CRC-32C (Castagnoli, RFC 3720 appendix B.4): the checksum of every stored section.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rag {

// The checksum of the bytes that `value` covers followed by these; 0 for none before.
uint32_t crc32c(const void* data, size_t bytes, uint32_t value = 0);

}  // namespace rag
