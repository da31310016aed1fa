"""Files of named arrays: checked when they are opened, mapped into memory, replaced as a whole.

Layout: magic (8 bytes), CRC-32 and length of the header (uint32 each, little-endian), the header (JSON: version, length
of the file, meta, and name, dtype, count, offset and CRC-32 of each array), the arrays at multiples of 64 bytes.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import DamagedFileError, NotFoundError

__all__ = ["read_sections", "write_sections"]

ALIGN = 64
PREFIX = struct.Struct("<8sII")
WAY_OUT = "rebuild the index from the stored chunks"


def write_sections(
    path: str | os.PathLike[str],
    magic: bytes,
    version: int,
    meta: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Write arrays under `path`: to a temporary name, synced, then renamed, so that `path` is never half written."""
    path = Path(path)
    table: list[dict[str, Any]] = []
    contents: list[NDArray[np.uint8]] = []
    offset = 0  # from the end of the header
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        content = np.ascontiguousarray(array, dtype).view(np.uint8)
        offset = -(-offset // ALIGN) * ALIGN
        crc = zlib.crc32(content.data)
        table.append({"name": name, "dtype": dtype.str, "count": len(array), "offset": offset, "crc": crc})
        contents.append(content)
        offset += content.nbytes
    header = json.dumps({"version": version, "length": offset, "meta": meta, "sections": table}).encode()
    start = _start(len(header))
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(PREFIX.pack(magic, zlib.crc32(header), len(header)))
            file.write(header)
            for entry, content in zip(table, contents, strict=True):
                file.seek(start + entry["offset"])
                file.write(content.data)
            file.truncate(start + offset)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def read_sections(
    path: str | os.PathLike[str], magic: bytes, version: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The meta data and arrays of a file, the arrays read-only and mapped into memory.

    Raises NotFoundError when there is no such file, DamagedFileError, naming the part, when it fails a check.
    """
    path = Path(path)

    def damaged(what: str) -> DamagedFileError:
        return DamagedFileError(f"{path}: {what}", hint=WAY_OUT)

    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length < PREFIX.size:
                raise damaged(f"only {length} bytes long")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint=WAY_OUT) from None
    found, crc, header_length = PREFIX.unpack_from(data)
    if found != magic:
        raise damaged(f"starts with {found!r}, expected {magic!r}")
    header_bytes = data[PREFIX.size : PREFIX.size + header_length]
    if zlib.crc32(header_bytes) != crc:
        raise damaged("the header fails its checksum")
    header = json.loads(header_bytes)
    if header["version"] != version:
        raise damaged(f"format version {header['version']}, this release reads {version}")
    start = _start(header_length)
    if length != start + header["length"]:
        raise damaged(f"{length} bytes long, expected {start + header['length']}")
    arrays = {}
    for entry in header["sections"]:
        dtype, count, offset = np.dtype(entry["dtype"]), entry["count"], start + entry["offset"]
        array = np.frombuffer(data, dtype, count, offset) if count else np.empty(0, dtype)
        if zlib.crc32(array.view(np.uint8).data) != entry["crc"]:
            raise damaged(f"section {entry['name']!r} fails its checksum")
        arrays[entry["name"]] = array
    return header["meta"], arrays


def _start(header_length: int) -> int:
    return -(-(PREFIX.size + header_length) // ALIGN) * ALIGN


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
