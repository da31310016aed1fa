"""The files of the engine: named sections behind a checked header, mapped into memory when they are read.

    offset 0   header, 64 bytes: magic, version, lengths, checksum (struct HEADER below)
    offset 64  table: JSON {"kind": ..., "meta": {...}, "sections": [{"name", "offset", "length", "crc32c"}, ...]}
    then       the sections, each at a multiple of 64, zeros between them

All numbers are little-endian; checksums are CRC-32C. The format is described in docs/engine.md.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import CollectionError, DamagedFileError, NotFoundError

__all__ = ["SectionFile", "read_sections", "write_sections"]

MAGIC = b"RAGINDEX"
VERSION = 1
ALIGNMENT = 64
# magic, version, length of the table, length of the file, checksum of the table, checksum of the bytes before this one
HEADER = struct.Struct("<8sIIQII")
_REBUILD = "rebuild it from the stored chunks, or restore a copy"


@dataclass(frozen=True)
class SectionFile:
    """What was read: `meta` as it was written, and each section as read-only uint8[length] over the mapped file."""

    meta: Mapping[str, Any]
    sections: Mapping[str, NDArray[np.uint8]]


def write_sections(
    path: Path, kind: str, meta: Mapping[str, Any], sections: Mapping[str, Sequence[NDArray[np.uint8]]]
) -> None:
    """Write a file that is there completely or not at all: a temporary file beside it, synced, takes its name.

    Each section is given in pieces uint8[n], written one after the other. `meta` must be JSON values.
    Raises CollectionError when the file cannot be written; an older file of that name is then left as it was.
    """
    _need_little_endian()
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            _write(file, kind, meta, sections)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise CollectionError(
                f"cannot write {path}: {error.strerror}", hint="check free space and permissions; nothing was changed"
            ) from error
        raise


def read_sections(path: Path, kind: str) -> SectionFile:
    """Map a file and check all of it: magic, version, kind, lengths, and the checksum of every section.

    Raises NotFoundError when there is none, DamagedFileError (naming file and section) when a check fails, and
    CollectionError for a version or kind that this release does not read.
    """
    _need_little_endian()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < ALIGNMENT:
                _damaged(path, f"is {size} bytes long, shorter than a header")
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise CollectionError(f"cannot read {path}: {error.strerror}") from error
    table = _read_table(path, data)
    if table["kind"] != kind:
        raise CollectionError(f"{path} holds an index of kind {table['kind']!r}, not {kind!r}")
    sections = {}
    for entry in table["sections"]:
        section = data[entry["offset"] : entry["offset"] + entry["length"]]
        if len(section) != entry["length"] or _native.crc32c(section) != entry["crc32c"]:
            _damaged(path, f"section {entry['name']!r} fails its checksum")
        sections[entry["name"]] = section
    return SectionFile(table["meta"], sections)


def _write(
    file: BinaryIO, kind: str, meta: Mapping[str, Any], sections: Mapping[str, Sequence[NDArray[np.uint8]]]
) -> None:
    entries: list[dict[str, Any]] = []
    for name, pieces in sections.items():
        checksum = 0
        for piece in pieces:
            checksum = _native.crc32c(piece, checksum)
        entries.append({"name": name, "offset": 0, "length": sum(len(p) for p in pieces), "crc32c": checksum})
    table = _place(entries, kind, meta)
    length = entries[-1]["offset"] + entries[-1]["length"]
    start = HEADER.pack(MAGIC, VERSION, len(table), length, _native.crc32c(table), 0)[:-4]
    file.write((start + struct.pack("<I", _native.crc32c(start))).ljust(ALIGNMENT, b"\0") + table)
    for entry, pieces in zip(entries, sections.values(), strict=True):
        file.write(b"\0" * (entry["offset"] - file.tell()))
        for piece in pieces:
            file.write(piece.data)


def _place(entries: list[dict[str, Any]], kind: str, meta: Mapping[str, Any]) -> bytes:
    """Give each section its offset behind the table; offsets are part of the table, so its length is settled first."""
    room = 0
    while True:
        position = ALIGNMENT + room
        for entry in entries:
            entry["offset"] = position = -(-position // ALIGNMENT) * ALIGNMENT
            position += entry["length"]
        table = json.dumps({"kind": kind, "meta": dict(meta), "sections": entries}).encode()
        if len(table) <= room:
            return table.ljust(room)
        room = len(table)


def _read_table(path: Path, data: NDArray[np.uint8]) -> dict[str, Any]:
    header = data[: HEADER.size].tobytes()
    magic, version, table_length, length, table_checksum, checksum = HEADER.unpack(header)
    if magic != MAGIC:
        _damaged(path, "is not an index file: its first bytes are wrong")
    # The version stands before the checks that a later version may do otherwise.
    if version > VERSION:
        raise CollectionError(
            f"{path} has format version {version}, this release reads up to {VERSION}",
            hint="upgrade modular-rag, or rebuild the index with this release",
        )
    if _native.crc32c(header[:-4]) != checksum or data[HEADER.size : ALIGNMENT].any():
        _damaged(path, "section 'header' fails its checksum")
    if length != len(data):
        _damaged(path, f"is {len(data)} bytes long, its header says {length}")
    table = data[ALIGNMENT : ALIGNMENT + table_length].tobytes()
    if _native.crc32c(table) != table_checksum:
        _damaged(path, "section 'table' fails its checksum")
    parsed: dict[str, Any] = json.loads(table)
    return parsed


def _damaged(path: Path, what: str) -> NoReturn:
    raise DamagedFileError(f"{path} {what}", hint=_REBUILD)


def _sync_folder(folder: Path) -> None:
    """A rename is safe only once the folder that holds the name is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _need_little_endian() -> None:
    if sys.byteorder != "little":
        raise CollectionError("index files are little-endian, and this machine is not")
