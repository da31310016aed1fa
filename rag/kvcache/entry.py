"""The file that one entry of a cache on disk is: a header, a head in JSON, and one block of data.

All of it is covered by checksums but the record of its use, which is written over in place.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag._native import crc32c
from rag.kvcache.eviction import Usage

__all__ = [
    "ALIGNMENT",
    "Header",
    "Unreadable",
    "begin_reading",
    "layout",
    "read_data",
    "read_header",
    "write_entry",
    "write_usage",
]

MAGIC, VERSION = b"RAGSTATE", 1
ALIGNMENT = 64
_HEADER = struct.Struct("<8sIIQIII")  # magic, version, bytes of the head, of the file, tokens, CRC of head, of data
_USAGE = struct.Struct("<Qdd")  # uses, used, age
_USAGE_AT = 40
_PIECE = 1 << 22  # read, and then checked while the disk reads on
_HEAD = 1 << 24

Bytes = NDArray[np.uint8]


class Unreadable(Exception):  # noqa: N818  # no error: the entry is dropped and computed again
    """What is wrong with a file."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first 64 bytes of a file say."""

    head_bytes: int
    nbytes: int
    head_crc: int
    data_crc: int
    usage: Usage

    @property
    def data_at(self) -> int:
        """Where the data begins."""
        return ALIGNMENT + self.head_bytes


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where parts of so many bytes begin in the data, each at a multiple of 64, and where the last one ends."""
    places, end = [], 0
    for size in sizes:
        places.append(_aligned(end))
        end = places[-1] + size
    return places, end


def write_entry(tokens: int, head: Mapping[str, Any], parts: Sequence[Bytes], age: float, used: float) -> list[Any]:
    """The buffers that make up a file, in order: an entry of these parts, used once."""
    text = json.dumps(head, separators=(",", ":")).encode()
    text = text.ljust(_aligned(len(text)))  # with spaces, so that the data is aligned and no byte is unchecked
    places, end = layout([part.nbytes for part in parts])
    data: list[Any] = []
    crc, at = 0, 0
    for place, part in zip(places, parts, strict=True):
        data += [bytes(place - at), part]
        crc = crc32c(part, crc32c(data[-2], crc))
        at = place + part.nbytes
    fixed = _HEADER.pack(MAGIC, VERSION, len(text), ALIGNMENT + len(text) + end, tokens, crc32c(text), crc)
    header = fixed + struct.pack("<I", crc32c(fixed)) + _USAGE.pack(1, used, age)
    return [header, text, *data]


def begin_reading(file: int) -> None:
    """Let the system read all of an open file ahead, while its beginning is looked at."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)


def read_header(file: int) -> Header:
    """The header of an open file, whose length it must tell. Raises Unreadable."""
    raw = os.pread(file, ALIGNMENT, 0)
    if len(raw) < ALIGNMENT:
        raise Unreadable(f"it has {len(raw)} bytes")
    fixed = raw[: _HEADER.size]
    magic, version, head_bytes, nbytes, tokens, head_crc, data_crc = _HEADER.unpack(fixed)
    if magic != MAGIC:
        raise Unreadable("it is another kind of file")
    if raw[_HEADER.size : _USAGE_AT] != struct.pack("<I", crc32c(fixed)):
        raise Unreadable("the checksum of its header differs")
    if version != VERSION:
        raise Unreadable(f"it has version {version}, expected {VERSION}")
    if (size := os.fstat(file).st_size) != nbytes:
        raise Unreadable(f"it has {size} bytes instead of {nbytes}")
    uses, used, age = _USAGE.unpack(raw[_USAGE_AT:])
    sound = math.isfinite(used) and math.isfinite(age)  # no checksum covers them
    return Header(head_bytes, nbytes, head_crc, data_crc, Usage(tokens, nbytes, *((uses, used, age) if sound else ())))


def read_head(file: int, header: Header) -> dict[str, Any]:
    """The head of an open file. Raises Unreadable."""
    text = os.pread(file, min(header.head_bytes, _HEAD), ALIGNMENT)
    if len(text) != header.head_bytes or crc32c(text) != header.head_crc:
        raise Unreadable("the checksum of its head differs")
    head: dict[str, Any] = json.loads(text)
    return head


def read_data(file: int, header: Header) -> Bytes:
    """The data of an open file, read once into memory of its own and checked on the way. Raises Unreadable."""
    size = header.nbytes - header.data_at
    if size < 0:
        raise Unreadable(f"its data begins behind its end, at {header.data_at}")
    data = np.empty(size, np.uint8)
    at, crc = 0, 0
    while at < size:
        count = os.preadv(file, [data.data[at : at + _PIECE]], header.data_at + at)
        if not count:
            raise Unreadable(f"it ends after {at} of {size} bytes of data")
        crc = crc32c(data[at : at + count], crc)
        at += count
    if crc != header.data_crc:
        raise Unreadable("the checksum of its data differs")
    return data


def write_usage(file: int, usage: Usage) -> None:
    """Note in an open file how it was used. Who reads at the same time may see a mixture, which only moves its turn."""
    os.pwrite(file, _USAGE.pack(usage.uses, usage.used, usage.age), _USAGE_AT)


def _aligned(place: int) -> int:
    return -(-place // ALIGNMENT) * ALIGNMENT
