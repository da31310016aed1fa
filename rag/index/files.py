"""The files of the engine: named sections behind a checked header, mapped into memory when they are read.

    offset 0   header, 64 bytes: magic, version, lengths, checksum (struct HEADER below)
    offset 64  table: JSON {"kind": ..., "meta": {...}, "sections": [{"name", "offset", "length", "crc32c"}, ...]}
    then       the sections, each at the next multiple of 64, zeros between them

All numbers are little-endian; checksums are CRC-32C: one for the table, which covers those of the sections, one for
each mebibyte of a section. So a file is opened by reading its table, and what is large is checked when it is first
needed. The format is described in docs/file-formats.md.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import struct
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import CollectionError, DamagedFileError, NotFoundError

__all__ = ["REBUILD", "SectionFile", "read_sections", "write_sections"]

MAGIC = b"RAGINDEX"
VERSION = 2
ALIGNMENT = 64
CHUNK = 1 << 20  # bytes under one checksum; in version 1 it was the whole section
# magic, version, length of the table, length of the file, checksum of the table, checksum of the bytes before this one
HEADER = struct.Struct("<8sIIQII")
REBUILD = "rebuild it from the stored chunks, or restore a copy"

_RUN = 16 * CHUNK  # what a thread checks at a time: a few milliseconds, after which an interrupt counts
_MOST_THREADS = 8


@dataclass(frozen=True)
class _Section:
    """Where a section lies, and the checksum of each chunk of so many bytes."""

    name: str
    offset: int
    length: int
    chunk: int
    checksums: Sequence[int]


class SectionFile:
    """A mapped file of which header and table were checked. Its sections are checked before they are used, or at once.

    `kind` and `meta` are as they were written. Safe to use from several threads.
    """

    def __init__(
        self,
        path: Path,
        mapping: mmap.mmap,
        kind: str,
        meta: Mapping[str, Any],
        sections: Sequence[_Section],
        prefix: str = "",
    ) -> None:
        self.path = path
        self.kind = kind
        self.meta = meta
        self._mapping = mapping
        self._data = np.frombuffer(mapping, np.uint8)
        self._sections = {section.name.removeprefix(prefix): section for section in sections}
        self._checked: set[str] = set()
        self._damage: str | None = None
        self._checking = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The sections, in the order in which they lie."""
        return list(self._sections)

    @property
    def sizes(self) -> dict[str, int]:
        """The length of each section in bytes."""
        return {name: section.length for name, section in self._sections.items()}

    def part(self, name: str) -> SectionFile:
        """What `meta` holds under this name and the sections "NAME/...", as a file of their own: one index of several.

        KeyError when `meta` holds nothing of that name.
        """
        own = [section for section in self._sections.values() if section.name.startswith(f"{name}/")]
        return SectionFile(self.path, self._mapping, self.kind, self.meta[name], own, f"{name}/")

    def section(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a section, checked: read-only uint8[length]. DamagedFileError."""
        found = self.unchecked(name)
        self._check([name])
        return found

    def unchecked(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a section, which are not to be used before `check` has returned; up to a chunk it is done here.

        DamagedFileError when there is no such section.
        """
        if name not in self._sections:
            _damaged(self.path, f"has no section {name!r}")
        section = self._sections[name]
        if section.length <= CHUNK:
            self._check([name])
        return self._data[section.offset : section.offset + section.length]

    def check(self) -> None:
        """Check all that was not checked yet, on all cores. DamagedFileError, now and whenever it is called again."""
        self._check(self._sections)

    def _check(self, names: Collection[str]) -> None:
        with self._checking:
            sections = [self._sections[name] for name in names if name not in self._checked]
            if sections and self._damage is None:
                if (size := self._mapping.size()) < len(self._data):  # reading beyond the end would end the process
                    self._damage = f"is {size} bytes long, it was {len(self._data)} when it was opened"
                else:
                    self._damage = self._first_damage(sections)
            if self._damage is not None:
                _damaged(self.path, self._damage)
            self._checked.update(names)

    def _first_damage(self, sections: Sequence[_Section]) -> str | None:
        runs = [
            (section, first, min(first + max(_RUN // section.chunk, 1), len(section.checksums)))
            for section in sections
            for first in range(0, len(section.checksums), max(_RUN // section.chunk, 1))
        ]
        threads = min(len(runs), os.cpu_count() or 1, _MOST_THREADS)
        if threads <= 1 or sum(section.length for section in sections) <= _RUN:
            return next(filter(None, map(self._damage_of, runs)), None)
        pool = ThreadPoolExecutor(threads)
        try:
            return next(filter(None, pool.map(self._damage_of, runs)), None)
        finally:
            pool.shutdown(cancel_futures=True)

    def _damage_of(self, run: tuple[_Section, int, int]) -> str | None:
        section, first, last = run
        for number in range(first, last):
            start = number * section.chunk
            stop = min(start + section.chunk, section.length)
            if _native.crc32c(self._data[section.offset + start : section.offset + stop]) != section.checksums[number]:
                return f"section {section.name!r} fails its checksum (between its bytes {start} and {stop})"
        return None


def write_sections(
    path: Path, kind: str, meta: Mapping[str, Any], sections: Mapping[str, Sequence[NDArray[np.uint8]]]
) -> None:
    """Write a file that is there completely or not at all: a temporary file beside it, synced, takes its name.

    Each section is given in pieces uint8[n], written one after the other. `meta` must be JSON values.
    Raises CollectionError when the file cannot be written; an older file of that name is then left as it was.
    """
    _need_little_endian()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _write(file, kind, meta, sections)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise CollectionError(
                f"cannot write {path}: {error.strerror}", hint="check free space and permissions; nothing was changed"
            ) from error
        raise


def read_sections(path: Path, kind: str | None = None) -> SectionFile:
    """Map a file and check its header and table: magic, version, kind (any when None), and where everything lies.

    Takes time for the table alone, however large the sections are. Raises NotFoundError when there is no file,
    DamagedFileError when a check fails, and CollectionError for a version or kind that this release does not read.
    """
    _need_little_endian()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < ALIGNMENT:
                _damaged(path, f"is {size} bytes long, shorter than a header")
            mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise CollectionError(f"cannot read {path}: {error.strerror}") from error
    data = np.frombuffer(mapping, np.uint8)
    version, start, table = _read_table(path, data)
    found = table.get("kind"), table.get("meta"), table.get("sections")
    if not (isinstance(found[0], str) and isinstance(found[1], dict) and isinstance(found[2], list)):
        _damaged(path, "has a table that is none")
    if kind is not None and found[0] != kind:
        raise CollectionError(f"{path} holds an index of kind {found[0]!r}, not {kind!r}")
    return SectionFile(path, mapping, found[0], found[1], _sections(path, data, version, start, found[2]))


def _write(
    file: BinaryIO, kind: str, meta: Mapping[str, Any], sections: Mapping[str, Sequence[NDArray[np.uint8]]]
) -> None:
    entries: list[dict[str, Any]] = [
        {"name": name, "offset": 0, "length": sum(map(len, pieces)), "crc32c": _checksums(pieces)}
        for name, pieces in sections.items()
    ]
    table, length = _place(entries, kind, meta)
    start = HEADER.pack(MAGIC, VERSION, len(table), length, _native.crc32c(table), 0)[:-4]
    file.write((start + struct.pack("<I", _native.crc32c(start))).ljust(ALIGNMENT, b"\0") + table)
    for entry, pieces in zip(entries, sections.values(), strict=True):
        file.write(b"\0" * (entry["offset"] - file.tell()))
        for piece in pieces:
            file.write(piece.data)


def _checksums(pieces: Sequence[NDArray[np.uint8]]) -> list[int]:
    """The checksum of each chunk of what the pieces are together."""
    checksums, value, room = [], 0, CHUNK
    for piece in pieces:
        at = 0
        while at < len(piece):
            part = piece[at : at + room]
            value = _native.crc32c(part, value)
            at, room = at + len(part), room - len(part)
            if room == 0:
                checksums.append(value)
                value, room = 0, CHUNK
    return checksums if room == CHUNK else [*checksums, value]


def _place(entries: list[dict[str, Any]], kind: str, meta: Mapping[str, Any]) -> tuple[bytes, int]:
    """The table and the length of the file. Offsets are part of the table, so its own length is settled first."""
    room = 0
    while True:
        end = ALIGNMENT + room
        for entry in entries:
            entry["offset"] = _aligned(end)
            end = entry["offset"] + entry["length"]
        table = json.dumps({"kind": kind, "meta": dict(meta), "sections": entries}).encode()
        if len(table) <= room:
            return table.ljust(room), end
        room = len(table)


def _read_table(path: Path, data: NDArray[np.uint8]) -> tuple[int, int, dict[str, Any]]:
    """The version, where the table ends, and what it says."""
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
    if version == 0 or _native.crc32c(header[:-4]) != checksum or data[HEADER.size : ALIGNMENT].any():
        _damaged(path, "section 'header' fails its checksum")
    if length != len(data):
        _damaged(path, f"is {len(data)} bytes long, its header says {length}")
    table = data[ALIGNMENT : ALIGNMENT + table_length].tobytes()
    if len(table) != table_length or _native.crc32c(table) != table_checksum:
        _damaged(path, "section 'table' fails its checksum")
    try:
        parsed = json.loads(table)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        _damaged(path, "has a table that is none")
    return version, ALIGNMENT + table_length, parsed


def _sections(
    path: Path, data: NDArray[np.uint8], version: int, end: int, entries: Sequence[Any]
) -> Sequence[_Section]:
    """The sections that a table lists, which lie one after the other, from its end to the end of the file."""
    sections: dict[str, _Section] = {}
    for entry in entries:
        try:
            name, offset, length, checksums = (entry[key] for key in ("name", "offset", "length", "crc32c"))
        except (KeyError, TypeError):
            _damaged(path, "has a table that is none")
        if not (isinstance(name, str) and name not in sections and type(offset) is type(length) is int):
            _damaged(path, f"has a table that is none, at section {name!r}")
        if offset != _aligned(end) or not 0 <= length <= len(data) - offset:
            _damaged(path, f"has its section {name!r} where it cannot be")
        if data[end:offset].any():
            _damaged(path, f"holds something before its section {name!r}, where nothing belongs")
        if version == 1:
            checksums, chunk = [checksums], max(length, 1)
        else:
            chunk = CHUNK
        if not (isinstance(checksums, list) and len(checksums) == max(-(-length // chunk), version == 1)):
            _damaged(path, f"has a table with too few or too many checksums of section {name!r}")
        sections[name] = _Section(name, offset, length, chunk, checksums)
        end = offset + length
    if end != len(data):
        _damaged(path, f"is {len(data)} bytes long, its sections end at {end}")
    return list(sections.values())


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _damaged(path: Path, what: str) -> NoReturn:
    raise DamagedFileError(f"{path} {what}", hint=REBUILD)


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
