"""CRC-32C against the check value of its definition and a bit-by-bit computation."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rag import _native


def _bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_check_values_of_rfc_3720() -> None:
    assert _native.crc32c(b"123456789") == 0xE3069283
    assert _native.crc32c(bytes(32)) == 0x8A9136AA
    assert _native.crc32c(bytes(range(32))) == 0x46DD794E
    assert _native.crc32c(b"") == 0


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert _native.crc32c(data) == _bit_by_bit(data)


def test_long_buffers_of_any_kind_and_continuation() -> None:
    data = np.random.default_rng(0).integers(0, 256, 40_001, dtype=np.uint8)
    whole = _bit_by_bit(data.tobytes())
    assert _native.crc32c(data) == _native.crc32c(data.data) == whole
    for cut in (1, 4096, 12_288, 12_289, 40_000):
        assert _native.crc32c(data[cut:], _native.crc32c(data[:cut])) == whole
