"""One generation of a collection, opened for reading. Immutable, and safe to read from several threads."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection.columns import Columns
from rag.collection.database import (
    BLOCK,
    BlockRow,
    ChunkRow,
    DocumentRow,
    as_json,
    connect_reader,
    damage,
    explained,
)
from rag.collection.filters import parse
from rag.collection.locks import GenerationLock
from rag.collection.manifest import Manifest
from rag.collection.segments import NONE, Segment
from rag.collection.selection import Selection
from rag.errors import CollectionError, InputError, NotFoundError, did_you_mean
from rag.types import Chunk, Document

__all__ = ["Connections", "Snapshot", "chunk_ids", "load_columns"]

MOST_FILTERS = 64

VISIBLE = "born <= ? AND (died IS NULL OR died > ?)"
DOCUMENT = "key, id, digest, mtime_ns, size, metadata, length, first_block, first_chunk, chunks, crc"
CHUNK = "id, document, start, stop, parent_start, parent_stop, metadata, crc"
# Only the constants above are put into statements; values are always bound.
ALL_DOCUMENTS = f"SELECT {DOCUMENT} FROM documents WHERE {VISIBLE} ORDER BY key"  # noqa: S608
DOCUMENTS_BY_KEY = f"SELECT {DOCUMENT} FROM documents WHERE key IN (SELECT value FROM json_each(?)) AND {VISIBLE}"  # noqa: S608
DOCUMENTS_BY_ID = f"SELECT {DOCUMENT} FROM documents WHERE id IN (SELECT value FROM json_each(?)) AND {VISIBLE}"  # noqa: S608
CHUNKS_BY_ID = f"SELECT {CHUNK} FROM chunks WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
CHUNKS_WITH_METADATA = f"SELECT {CHUNK} FROM chunks WHERE metadata IS NOT NULL ORDER BY id"  # noqa: S608
BLOCKS_BY_ID = "SELECT id, line, text, crc FROM blocks WHERE id IN (SELECT value FROM json_each(?))"
BLOCKS_BETWEEN = "SELECT id, line, text, crc FROM blocks WHERE id >= ? AND id < ? ORDER BY id"


class Connections:
    """Read connections to one database, lent to one thread at a time and kept for the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: deque[sqlite3.Connection] = deque()
        self._process = os.getpid()
        self._parents: list[deque[sqlite3.Connection]] = []
        self._closed = threading.Event()

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection, for the time of a `with` block, in which SQLite's errors are explained."""
        if self._closed.is_set():
            raise CollectionError(f"the collection {self._folder} was closed", hint="open it again")
        if self._process != os.getpid():
            # A forked child must neither use nor close its parent's connections.
            self._parents.append(self._idle)
            self._idle, self._process = deque(), os.getpid()
        with explained(self._folder):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect_reader(self._folder)
            try:
                yield connection
            finally:
                self._idle.append(connection)
                if self._closed.is_set():
                    self.drop()

    def drop(self) -> None:
        """Close the idle ones; the next `lend` opens anew."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        self._closed.set()
        self.drop()


class Snapshot:
    """What a collection held at one generation."""

    def __init__(self, folder: Path, manifest: Manifest, lock: GenerationLock, connections: Connections) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock = lock
        self._connections = connections
        self._loading = threading.Lock()
        self._segments: list[Segment] | None = None
        self._live: NDArray[np.int64] | None = None
        self._columns: tuple[NDArray[np.int64], Columns] | None = None
        self._selected: OrderedDict[str, Selection] = OrderedDict()

    @property
    def generation(self) -> int:
        return self.manifest.generation

    def segments(self, known: Sequence[Segment] = ()) -> list[Segment]:
        """The segments, opened and checked at the first call; `known` ones that are unchanged are taken over."""
        with self._loading:
            if self._segments is None:
                engine = self.manifest.engine
                self._segments = [Segment.open(self.folder, stored, engine, known) for stored in self.manifest.segments]
            return self._segments

    def opened(self) -> Sequence[Segment]:
        """The segments if they have been opened."""
        return self._segments or ()

    def live(self) -> NDArray[np.int64]:
        """The ids, sorted, of the chunks in the segments; put together at the first call."""
        if self._live is None:
            self._live = np.concatenate([NONE, *(segment.live for segment in self.segments())])
        return self._live

    # Documents and text

    def documents(self) -> list[DocumentRow]:
        """All rows, in the order they were added. DamagedFileError when there are more or fewer than were written."""
        with self._connections.lend() as db:
            rows = [DocumentRow(*row).checked() for row in db.execute(ALL_DOCUMENTS, (self.generation,) * 2)]
        if len(rows) != self.manifest.documents or sum(row.chunks for row in rows) != self.manifest.chunks:
            raise damage("the list of documents")
        return rows

    def chunk_ids(self, document: str | None) -> NDArray[np.int64]:
        if document is None:
            return chunk_ids(self.documents())
        with self._connections.lend() as db:
            return chunk_ids([self._by_id(db, [document])[document]])

    def document(self, id: str) -> Document:
        with self._connections.lend() as db:
            row = self._by_id(db, [id])[id]
            text = "".join(text for text, _ in self._blocks(db, row))
        return Document(id, text, json.loads(row.metadata))

    def texts(self, spans: Sequence[tuple[str, int, int]]) -> list[str]:
        """Characters start to end of documents: (id, start, end) each."""
        with self._connections.lend() as db:
            rows = self._by_id(db, [span[0] for span in spans])
            return self._spans(db, [(_inside(rows[name], start, end), start, end) for name, start, end in spans])

    def lines(self, places: Sequence[tuple[str, int]]) -> list[int]:
        """The line, from 1, of characters of documents: (id, offset) each."""
        with self._connections.lend() as db:
            rows = self._by_id(db, [place[0] for place in places])
            at = [_block_at(_inside(rows[name], offset, offset), offset) for name, offset in places]
            blocks = self._read_blocks(db, {block for block in at if block is not None})
        lines = []
        for (name, offset), number in zip(places, at, strict=True):
            text, line = ("", 0) if number is None else blocks[number]
            begin = 0 if number is None else (number - rows[name].first_block) * BLOCK
            lines.append(line + text.count("\n", 0, offset - begin) + 1)
        return lines

    def chunks(self, ids: NDArray[np.int64]) -> list[Chunk]:
        wanted: list[int] = np.asarray(ids, np.int64).tolist()
        with self._connections.lend() as db:
            rows = {
                row[0]: ChunkRow(*row).checked() for row in db.execute(CHUNKS_BY_ID, (as_json(sorted(set(wanted))),))
            }
            keys = as_json(sorted({row.document for row in rows.values()}))
            documents = {
                row[0]: DocumentRow(*row).checked()
                for row in db.execute(DOCUMENTS_BY_KEY, (keys, self.generation, self.generation))
            }
            for number in wanted:
                if number not in rows or rows[number].document not in documents:
                    raise self._missing(number)
            texts = self._spans(
                db, [(documents[row.document], row.start, row.stop) for row in map(rows.__getitem__, wanted)]
            )
        metadata = {key: json.loads(row.metadata) for key, row in documents.items()}
        return [
            Chunk(
                documents[row.document].id,
                text,
                row.start,
                row.stop,
                row.id,
                None if row.parent_start is None or row.parent_stop is None else (row.parent_start, row.parent_stop),
                metadata[row.document]
                if row.metadata is None
                else {**metadata[row.document], **json.loads(row.metadata)},
            )
            for row, text in zip(map(rows.__getitem__, wanted), texts, strict=True)
        ]

    def _missing(self, id: int) -> Exception:
        for segment in self.segments():
            at = int(np.searchsorted(segment.ids, id))
            if at < len(segment.ids) and segment.ids[at] == id and id not in segment.deleted:
                return damage(f"chunk {id} is in the index but not in the tables, which means that the file")
        return NotFoundError(
            f"chunk {id} is not in generation {self.generation} of {self.folder}",
            hint="it was deleted, or the hits come from another collection or generation: search again",
        )

    def _by_id(self, db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, DocumentRow]:
        found = db.execute(DOCUMENTS_BY_ID, (json.dumps(sorted(set(ids))), self.generation, self.generation))
        rows = {row[1]: DocumentRow(*row).checked() for row in found}
        for name in ids:
            if name not in rows:
                known = [row[0] for row in db.execute("SELECT id FROM documents WHERE died IS NULL LIMIT 10000")]
                raise NotFoundError(f"{self.folder} holds no document {name!r}", hint=did_you_mean(name, known) or None)
        return rows

    def _blocks(self, db: sqlite3.Connection, row: DocumentRow) -> list[tuple[str, int]]:
        expected = -(-row.length // BLOCK)
        found = db.execute(BLOCKS_BETWEEN, (row.first_block, row.first_block + expected)).fetchall()
        if len(found) != expected:
            raise damage(f"the text of document {row.id!r}")
        return [BlockRow.checked(*row) for row in found]

    def _read_blocks(self, db: sqlite3.Connection, numbers: set[int]) -> dict[int, tuple[str, int]]:
        found = db.execute(BLOCKS_BY_ID, (as_json(sorted(numbers)),))
        blocks = {row[0]: BlockRow.checked(*row) for row in found}
        if len(blocks) != len(numbers):
            raise damage(f"text block {min(numbers - blocks.keys())}")
        return blocks

    def _spans(self, db: sqlite3.Connection, spans: Sequence[tuple[DocumentRow, int, int]]) -> list[str]:
        """Characters start to stop of each document, reading only the blocks they touch, each once."""
        touched = [
            range(row.first_block + start // BLOCK, row.first_block + -(-stop // BLOCK)) if stop > start else range(0)
            for row, start, stop in spans
        ]
        blocks = self._read_blocks(db, {number for numbers in touched for number in numbers})
        texts = []
        for (_, start, stop), numbers in zip(spans, touched, strict=True):
            begin = start % BLOCK
            if len(numbers) == 1:
                texts.append(blocks[numbers[0]][0][begin : begin + stop - start])
            else:
                texts.append("".join([blocks[n][0] for n in numbers])[begin : begin + stop - start])
        return texts

    # Filters

    def columns(self) -> tuple[NDArray[np.int64], Columns]:
        """All chunk ids, sorted, and their metadata as columns; read at the first call."""
        with self._loading:
            if self._columns is None:
                rows = self.documents()
                with self._connections.lend() as db:
                    self._columns = load_columns(db, rows)
            return self._columns

    def select(self, filter: str) -> Selection:
        """The chunks that pass; the last results are kept."""
        selected = self._selected.get(filter)
        if selected is None:
            parsed = parse(filter)
            ids, columns = self.columns()
            passing = ids[parsed.mask(columns.of_chunks, columns.names, len(ids))]
            passing.flags.writeable = False
            selected = Selection(passing)
            with self._loading:
                selected = self._selected.setdefault(filter, selected)
                if len(self._selected) > MOST_FILTERS:
                    self._selected.popitem(last=False)
        return selected


def chunk_ids(rows: Sequence[DocumentRow]) -> NDArray[np.int64]:
    """The ids of these documents' chunks, document by document."""
    return np.concatenate([NONE, *(np.arange(row.first_chunk, row.first_chunk + row.chunks) for row in rows)])


def load_columns(db: sqlite3.Connection, rows: Sequence[DocumentRow]) -> tuple[NDArray[np.int64], Columns]:
    """The chunk ids of these documents, sorted, and the metadata of both as columns."""
    ids = chunk_ids(rows)
    document_of = np.repeat(np.arange(len(rows)), [row.chunks for row in rows])

    def own() -> Iterator[tuple[int, str]]:
        for row in map(ChunkRow._make, db.execute(CHUNKS_WITH_METADATA)):
            at = int(np.searchsorted(ids, row.id))
            if at < len(ids) and ids[at] == row.id:
                yield at, row.checked().metadata or "{}"

    return ids, Columns([row.id for row in rows], [row.metadata for row in rows], document_of, own())


def _block_at(row: DocumentRow, offset: int) -> int | None:
    """The number of the block that holds a character, or, for the end of the text, the last one; None without text."""
    return row.first_block + min(offset, row.length - 1) // BLOCK if row.length else None


def _inside(row: DocumentRow, start: int, end: int) -> DocumentRow:
    if not 0 <= start <= end <= row.length:
        raise InputError(f"document {row.id!r} has {row.length} characters, so none from {start} to {end}")
    return row
