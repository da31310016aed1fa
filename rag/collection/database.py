"""Documents and chunks in SQLite: the schema, connections, and rows that carry their own checksum.

A document's text is kept once, in blocks of `BLOCK` characters: any span of it, a chunk or its parent, is read from
the few blocks it touches, however long the document. A document's blocks and chunks have consecutive numbers.

A document row is visible from the generation `born` until before the generation `died`; its chunks with it. Rows of a
newer generation than the manifest's come from a commit that did not finish, and are not seen.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rag._native import crc32c
from rag.collection.manifest import Manifest
from rag.errors import CollectionError, DamagedFileError, InputError

__all__ = [
    "BLOCK",
    "NAME",
    "BlockRow",
    "ChunkRow",
    "DocumentRow",
    "as_json",
    "blocks_of",
    "connect_reader",
    "connect_writer",
    "damage",
    "dump_metadata",
    "explained",
    "purge",
    "recall",
    "remember",
]

NAME = "collection.sqlite"
BLOCK = 2000
"""Characters of text a row: small enough that a chunk costs little more than itself, and fits a page of the file."""

_LOST = "restore the folder from a backup, or index the sources again into a new folder"
# What SQLite says when the file itself may be sound.
_CIRCUMSTANCES = ("full", "I/O", "readonly", "locked", "unable to open", "interrupted")

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    born INTEGER NOT NULL,
    died INTEGER,
    digest TEXT NOT NULL,
    mtime_ns INTEGER NOT NULL,
    size INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    length INTEGER NOT NULL,
    first_block INTEGER NOT NULL,
    first_chunk INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS documents_id ON documents (id);
CREATE INDEX IF NOT EXISTS documents_died ON documents (died) WHERE died IS NOT NULL;
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY,
    line INTEGER NOT NULL,
    text BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY,
    document INTEGER NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    parent_start INTEGER,
    parent_stop INTEGER,
    metadata TEXT,
    crc INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_metadata ON chunks (id) WHERE metadata IS NOT NULL;
"""


class DocumentRow(NamedTuple):
    """A row of `documents` without its generations."""

    key: int
    id: str
    digest: str
    mtime_ns: int
    size: int
    metadata: str
    length: int
    first_block: int
    first_chunk: int
    chunks: int
    crc: int

    @classmethod
    def make(cls, *fields: Any) -> DocumentRow:
        return cls._make((*fields, _document_crc(*fields)))

    def checked(self) -> DocumentRow:
        if _document_crc(*self[:-1]) != self.crc:
            raise damage(f"the row of document {self.id!r}")
        return self


class ChunkRow(NamedTuple):
    """A row of `chunks`; `document` is the key of the document's row."""

    id: int
    document: int
    start: int
    stop: int
    parent_start: int | None
    parent_stop: int | None
    metadata: str | None
    crc: int

    @classmethod
    def make(cls, *fields: Any) -> ChunkRow:
        return cls._make((*fields, _chunk_crc(*fields)))

    def checked(self) -> ChunkRow:
        if _chunk_crc(*self[:-1]) != self.crc:
            raise damage(f"the row of chunk {self.id}")
        return self


class BlockRow(NamedTuple):
    """A row of `blocks`: UTF-8 text, and the line of the document (from 0) on which it begins."""

    id: int
    line: int
    text: bytes
    crc: int

    @classmethod
    def make(cls, id: int, line: int, text: bytes) -> BlockRow:
        return cls(id, line, text, _block_crc(id, line, text))

    @staticmethod
    def checked(id: int, line: int, text: bytes, crc: int) -> tuple[str, int]:
        """Text and line of a row as it is stored."""
        if _block_crc(id, line, text) != crc:
            raise damage(f"text block {id}")
        return text.decode(), line


def _document_crc(
    key: int, id: str, digest: str, mtime_ns: int, size: int, metadata: str, length: int, block: int, chunk: int, n: int
) -> int:
    # A file's time and size may be noted anew, so they are left out.
    return crc32c(f"{key} {id} {digest} {metadata} {length} {block} {chunk} {n}".encode("utf-8", "surrogatepass"))


def _chunk_crc(id: int, document: int, start: int, stop: int, a: int | None, b: int | None, own: str | None) -> int:
    return crc32c(f"{id} {document} {start} {stop} {a} {b} {own}".encode("utf-8", "surrogatepass"))


def _block_crc(id: int, line: int, text: bytes) -> int:
    return crc32c(text, (id ^ line << 16) & 0xFFFFFFFF)


def blocks_of(document: str, text: str, first: int) -> Iterator[BlockRow]:
    """The text cut into rows, numbered from `first`."""
    line = 0
    for start in range(0, len(text), BLOCK):
        piece = text[start : start + BLOCK]
        try:
            content = piece.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"document {document!r}: character {start + error.start} is half of a surrogate pair, not text",
                hint="decode the source with errors='replace'",
            ) from None
        yield BlockRow.make(first, line, content)
        line += piece.count("\n")
        first += 1


def dump_metadata(metadata: Mapping[str, Any], owner: str) -> str:
    """Metadata as JSON; InputError naming `owner` for what JSON cannot hold."""
    try:
        if not all(isinstance(name, str) for name in metadata):
            raise TypeError("names must be strings")
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{owner}: its metadata cannot be stored: {error}", hint="use str, int, float, bool, None and lists of them"
        ) from None
    return text


def damage(what: str) -> DamagedFileError:
    """The error for content of the database that fails its check."""
    return DamagedFileError(
        f"{NAME}: {what} has changed since it was written",
        hint=_LOST,
    )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into an error that says what to do."""
    hint = "is the disk full, or are the rights of the folder wrong? The last generation is intact"
    try:
        yield
    except OSError as error:
        raise CollectionError(f"{error.filename or folder}: {error.strerror or error}", hint=hint) from error
    except sqlite3.Error as error:
        path = folder / NAME
        if any(sign in str(error) for sign in _CIRCUMSTANCES):
            raise CollectionError(f"{path}: {error}", hint=hint) from error
        raise DamagedFileError(f"{path} is damaged: {error}", hint=_LOST) from error


def connect_writer(folder: Path) -> sqlite3.Connection:
    """A connection that commits durably; makes the tables where they are missing."""
    db = sqlite3.connect(folder / NAME, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(SCHEMA)
    return db


def connect_reader(folder: Path) -> sqlite3.Connection:
    """A connection that cannot write. Works in a folder, or on a medium, that cannot be written to."""
    path = folder / NAME
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing", hint=_LOST)
    uri = path.absolute().as_uri() + "?mode=ro"
    try:
        return _probed(uri)
    except sqlite3.OperationalError:
        log = path.with_name(NAME + "-wal")
        if log.exists() and log.stat().st_size:
            raise
        # Without a log there is nothing that the shared-memory file, which cannot be made here, would coordinate.
        return _probed(uri + "&immutable=1")


def _probed(uri: str) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA cache_size = -16384")  # KiB: the pages of a thousand chunks fit
        db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def as_json(numbers: Sequence[int]) -> str:
    """Numbers as one bound value for `IN (SELECT value FROM json_each(?))`: a statement for any count of them."""
    return str(list(numbers))


def remember(db: sqlite3.Connection, manifest: Manifest) -> None:
    """Keep a copy of the manifest that is about to be written, and with it the generation these tables are at."""
    values = {
        "collection": manifest.collection,
        "generation": str(manifest.generation),
        "manifest": manifest.dump(),
    }
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def recall(db: sqlite3.Connection) -> dict[str, str]:
    """What `remember` kept."""
    return dict(db.execute("SELECT key, value FROM meta").fetchall())


def purge(db: sqlite3.Connection, condition: str, generation: int) -> None:
    """Delete the documents for which "`condition` `generation`" holds, with all that is theirs.

    `condition` is one of "born >" and "died <=".
    """
    found = "SELECT first_chunk, first_chunk + chunks, first_block, first_block + (length + ?) / ? FROM documents"
    rows = db.execute(f"{found} WHERE {condition} ?", (BLOCK - 1, BLOCK, generation)).fetchall()
    db.executemany("DELETE FROM chunks WHERE id >= ? AND id < ?", [row[:2] for row in rows])
    db.executemany("DELETE FROM blocks WHERE id >= ? AND id < ?", [row[2:] for row in rows])
    db.execute(f"DELETE FROM documents WHERE {condition} ?", (generation,))  # noqa: S608
