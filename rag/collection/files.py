"""Files that survive a crash: written beside the old one, synced, swapped in; and checked when they are read."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rag._native import crc32c
from rag.errors import DamagedFileError

__all__ = ["REBUILD", "FileRecord", "checksum", "read_checked", "record", "sync", "write_atomic", "write_new"]

REBUILD = "remake it from the stored text: `rag repair`, or Collection.open(path, repair=True).rebuild()"

_PIECE = 1 << 22


class FileRecord(BaseModel):
    """What the manifest knows of a file: its name below the collection's folder, length and CRC-32C."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # A manifest may come from elsewhere: its names must not lead out of the folder.
    name: str = Field(pattern=r"^segments/[0-9]{8}[0-9a-z.-]*$")
    bytes: int = Field(ge=0)
    crc32c: int = Field(ge=0, lt=1 << 32)

    def check_size(self, folder: Path) -> Path:
        """The file's path, when it is there in full length; DamagedFileError otherwise."""
        path = folder / self.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DamagedFileError(f"{path} is missing", hint=REBUILD) from None
        if size != self.bytes:
            raise DamagedFileError(f"{path} has {size} bytes, the manifest says {self.bytes}", hint=REBUILD)
        return path

    def check(self, folder: Path) -> Path:
        """The file's path, when its length and every byte are as written; DamagedFileError otherwise."""
        path = self.check_size(folder)
        if checksum(path) != self.crc32c:
            raise DamagedFileError(f"{path} has changed since it was written (checksum differs)", hint=REBUILD)
        return path


def record(folder: Path, name: str) -> FileRecord:
    """The record of a finished file."""
    path = folder / name
    return FileRecord(name=name, bytes=path.stat().st_size, crc32c=checksum(path))


def checksum(path: Path) -> int:
    """CRC-32C of a file."""
    value = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            value = crc32c(piece, value)
    return value


def read_checked(folder: Path, expected: FileRecord) -> bytes:
    """A small file's content; DamagedFileError when it is not what was written."""
    path = expected.check_size(folder)
    content = path.read_bytes()
    if crc32c(content) != expected.crc32c:
        raise DamagedFileError(f"{path} has changed since it was written (checksum differs)", hint=REBUILD)
    return content


def write_new(path: Path, content: bytes) -> None:
    """Write a file that nobody reads yet, to the disk; its name is not safe there before its folder is synced."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file: after a crash it holds either all of the old or all of the new content."""
    temporary = path.with_name(path.name + ".new")
    write_new(temporary, content)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
