"""From documents and chunks to rows of the database, checked."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from rag.collection.database import BLOCK, BlockRow, ChunkRow, DocumentRow, blocks_of, dump_metadata
from rag.errors import InputError
from rag.types import Chunk, Document

__all__ = ["Fingerprint", "NewRows"]

INSERT_DOCUMENT = (
    "INSERT INTO documents (born, key, id, digest, mtime_ns, size, metadata, length, first_block, first_chunk, chunks,"
    " crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Fingerprint(NamedTuple):
    """What tells whether the source of a document has changed: a digest of it, and its file's time and size."""

    digest: str
    mtime_ns: int = 0
    size: int = 0


class NewRows:
    """Rows for the tables, numbered on from the ones that are there; all is checked before any is inserted."""

    def __init__(self, generation: int, key: int, block: int, chunk: int) -> None:
        self.generation, self.key, self.block, self.chunk = generation, key, block, chunk
        self.documents: list[tuple[str | int, ...]] = []
        self.blocks: list[BlockRow] = []
        self.chunks: list[ChunkRow] = []

    def append(self, document: Document, chunks: Sequence[Chunk], source: Fingerprint | None) -> None:
        """Take up a document; InputError, naming it, when its chunks or metadata are not right."""
        check(document, chunks)
        source = source or fingerprint(document)
        self.key += 1
        metadata = dump_metadata(document.metadata, f"document {document.id!r}")
        row = DocumentRow.make(
            self.key,
            document.id,
            source.digest,
            int(source.mtime_ns),
            int(source.size),
            metadata,
            len(document.text),
            self.block,
            self.chunk,
            len(chunks),
        )
        self.documents.append((self.generation, *row))
        self.blocks.extend(blocks_of(document.id, document.text, self.block))
        self.block += -(-len(document.text) // BLOCK)
        for piece in chunks:
            own = dump_metadata(piece.metadata, f"a chunk of document {document.id!r}") if piece.metadata else None
            parent = piece.parent or (None, None)
            span = [None if at is None else int(at) for at in (piece.start, piece.end, *parent)]
            self.chunks.append(ChunkRow.make(self.chunk, self.key, *span, own))
            self.chunk += 1

    def insert(self, db: sqlite3.Connection) -> None:
        db.executemany(INSERT_DOCUMENT, self.documents)
        db.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", self.blocks)
        db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self.chunks)


def check(document: Document, chunks: Sequence[Chunk]) -> None:
    if not document.id or any("\ud800" <= char <= "\udfff" for char in document.id):
        raise InputError(f"{document.id!r} cannot be the id of a document", hint="it must be text, and not empty")
    length = len(document.text)
    for chunk in chunks:
        where = f"document {document.id!r}: the chunk from {chunk.start} to {chunk.end}"
        if chunk.document != document.id:
            raise InputError(f"{where} says it belongs to {chunk.document!r}")
        if not 0 <= chunk.start <= chunk.end <= length:
            raise InputError(f"{where} is not inside its text of {length} characters")
        if document.text[chunk.start : chunk.end] != chunk.text:
            raise InputError(f"{where} does not read like the text there", hint="offsets count characters of the text")
        if chunk.parent and not 0 <= chunk.parent[0] <= chunk.start <= chunk.end <= chunk.parent[1] <= length:
            raise InputError(f"{where} is not inside its parent {chunk.parent}, or that not inside the text")


def fingerprint(document: Document) -> Fingerprint:
    content = document.text.encode("utf-8", "surrogatepass")
    return Fingerprint(hashlib.sha256(content).hexdigest(), 0, len(content))
