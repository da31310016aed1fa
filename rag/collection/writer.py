"""Changing a collection: one writer at a time, and every commit a new generation, whole or not at all.

A commit writes new segment files and syncs them, then commits the rows, which nobody sees yet, and then swaps the
manifest. What a writer that died before the swap has left behind, the next one removes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.collection import locks
from rag.collection.columns import Columns
from rag.collection.database import (
    DocumentRow,
    connect_writer,
    dump_metadata,
    explained,
    purge,
)
from rag.collection.engine import Mirror
from rag.collection.files import sync
from rag.collection.filters import parse
from rag.collection.generations import publish, recover
from rag.collection.manifest import SegmentRecord
from rag.collection.rows import Fingerprint, NewRows
from rag.collection.segments import NONE, Part, alike, between, merged, plan, write_tombstones
from rag.collection.snapshot import ALL_DOCUMENTS, Snapshot
from rag.collection.storage import Keeping, StoredIndex
from rag.collection.tokens import add_tokens, check_tokens
from rag.encoders import TokenVectors
from rag.errors import CollectionError, InputError
from rag.index.lexical import LexicalIndex
from rag.index.multivector import TokenStore
from rag.index.neighbours import Progress
from rag.types import Chunk, Document

__all__ = ["Writer"]

Plan: TypeAlias = Callable[[Sequence[int], Sequence[int]], list[tuple[int, int]]]
"""From the chunks of segments, and how many of each are deleted, the half-open ranges to write anew as one."""

LIVE = (
    "SELECT key, born, first_chunk, chunks FROM documents WHERE died IS NULL AND id IN (SELECT value FROM json_each(?))"
)


class Writer:
    """Adds and deletes documents; made by `Collection.writer`, used in a `with` block.

    Nothing is kept before `commit`, which may be called many times; what was not committed when the block ends is
    dropped. After an error in a commit the last generation is still in force, and the writer can be used again.
    Needs memory for the vectors and texts since the last commit.
    """

    settings: dict[str, Any]
    """JSON values kept with the collection; changes count with the next commit."""

    _base: Snapshot
    _next_chunk: int
    _new_vectors: StoredIndex
    _new_tokens: TokenStore | None
    _new_texts: dict[int, str]
    _grown: NDArray[np.int64]
    _dead: list[NDArray[np.int64]]

    def __init__(
        self,
        folder: Path,
        newest: Callable[[], Snapshot],
        mirror: Mirror | None,
        wait: float,
        progress: Progress | None = None,
    ) -> None:
        self._folder = folder
        self._newest = newest
        self._mirror = mirror
        self._in_step = mirror is None
        self._wait = wait
        self._progress = progress
        self._stack = ExitStack()
        self._db: sqlite3.Connection | None = None
        self._settled = False

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            stack.enter_context(locks.writing(self._folder, self._wait))
            with explained(self._folder):
                db = connect_writer(self._folder)
                stack.callback(db.close)
                self._settle(db)
                self._db = db
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            db, self._db = self._connection, None
            if db.in_transaction:
                db.rollback()
            with suppress(sqlite3.Error):  # on a full disk the log simply stays
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def generation(self) -> int:
        """The last one committed."""
        return self._base.generation

    @property
    def base(self) -> Snapshot:
        """The last generation committed, on which the next one is built."""
        return self._base

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise CollectionError("this writer is not open", hint="use it inside `with collection.writer() as writer:`")
        return self._db

    # Changes

    def add(
        self,
        documents: Sequence[Document],
        chunks: Sequence[Sequence[Chunk]],
        vectors: ArrayLike,
        *,
        tokens: TokenVectors | None = None,
        sources: Sequence[Fingerprint] | None = None,
        texts: Sequence[str] | None = None,
    ) -> NDArray[np.int64]:
        """Add documents with their chunks, replacing the ones of the same id; returns the new chunk ids int64[total].

        `chunks[i]` are those of `documents[i]`; `vectors` float32[total, dim] are those of all chunks in order;
        `tokens` are the token vectors of all chunks, for a collection that holds such, and only for that;
        `sources` (default: a digest of the text) tell later whether a document's source has changed; `texts` (default:
        the chunks' own) are what the word index gets for each chunk, for example with its title.
        Raises InputError, and adds nothing, when these do not fit together or a vector holds NaN or infinity.
        """
        matrix = np.array(vectors, dtype=np.float32, ndmin=2)
        total = sum(map(len, chunks))
        dim = self._base.manifest.encoder.dim
        if len(chunks) != len(documents) or (sources is not None and len(sources) != len(documents)):
            raise InputError(
                f"{len(documents)} documents, {len(chunks)} lists of chunks, {len(sources or documents)} sources"
            )
        if matrix.shape != (total, dim) and (total or matrix.size):
            raise InputError(f"vectors have shape {matrix.shape}, expected ({total}, {dim}): one for each chunk")
        words = [piece.text for own in chunks for piece in own] if texts is None else list(texts)
        if len(words) != total:
            raise InputError(f"{len(words)} texts for {total} chunks")
        ids = [document.id for document in documents]
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise InputError(f"document {twice!r} is given twice in one call")

        check_tokens(self._folder, self._base.manifest.tokens, tokens, total)
        with self._changing() as db:
            key = int((db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone() or (0,))[0])
            block = int(db.execute("SELECT coalesce(max(id), -1) + 1 FROM blocks").fetchone()[0])
        rows = NewRows(self.generation + 1, key, block, self._next_chunk)
        for number, (document, own) in enumerate(zip(documents, chunks, strict=True)):
            rows.append(document, own, None if sources is None else sources[number])
        added = np.arange(self._next_chunk, rows.chunk, dtype=np.int64)
        if total:
            self._take_up(added, matrix, tokens)
        with self._changing() as db:
            self._remove(db, ids)
            rows.insert(db)
        self._next_chunk = rows.chunk
        self._grown += (len(documents), total)
        self._new_texts.update(zip(added.tolist(), words, strict=True))
        return added

    def _take_up(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], tokens: TokenVectors | None) -> None:
        """Take up vectors and tokens, or none of both: InputError for what cannot be indexed."""
        self._new_vectors.add(ids, vectors)
        if tokens is not None and self._new_tokens is not None:
            try:
                add_tokens(self._new_tokens, ids, tokens)
            except BaseException:
                self._new_vectors.delete(ids)
                raise

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents by id; returns how many were there."""
        if isinstance(ids, str):
            raise InputError("delete takes a list of document ids", hint=f"write [{ids!r}]")
        with self._changing() as db:
            return self._remove(db, list(ids))

    def delete_where(self, filter: str) -> int:
        """Delete the documents whose own metadata pass a filter expression; returns how many."""
        parsed = parse(filter)
        with self._changing() as db:
            rows = [DocumentRow(*row).checked() for row in db.execute(ALL_DOCUMENTS, (self.generation + 1,) * 2)]
        columns = Columns([row.id for row in rows], [row.metadata for row in rows], NONE, ())
        mask = parsed.mask(columns.of_documents, columns.names, len(rows))
        return self.delete([rows[i].id for i in np.flatnonzero(mask)])

    def touch(self, sources: Mapping[str, Fingerprint]) -> None:
        """Note a new file time and size of documents, by id, whose content (digest) was found unchanged."""
        with self._changing() as db:
            db.executemany(
                "UPDATE documents SET mtime_ns = ?, size = ? WHERE id = ? AND digest = ? AND died IS NULL",
                [(s.mtime_ns, s.size, name, s.digest) for name, s in sources.items()],
            )

    def _remove(self, db: sqlite3.Connection, ids: Sequence[str]) -> int:
        rows = db.execute(LIVE, (json.dumps(list(ids)),)).fetchall()
        for _, born, first, chunks in rows:
            own = np.arange(first, first + chunks)
            if born > self.generation:
                self._new_vectors.delete(own)
                if self._new_tokens is not None:
                    self._new_tokens.delete(own)
                for chunk in own.tolist():
                    del self._new_texts[chunk]
            else:
                self._dead.append(own)
            self._grown -= (1, chunks)
        db.executemany("UPDATE documents SET died = ? WHERE key = ?", [(self.generation + 1, row[0]) for row in rows])
        return len(rows)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """The transaction, begun at the first change; an error in the middle of a change drops all of it."""
        db = self._connection
        try:
            with explained(self._folder):
                if not self._settled:
                    self._settle(db)
                if not db.in_transaction:
                    db.execute("BEGIN IMMEDIATE")
                    self._purge(db)
                yield db
        except BaseException:
            self._rollback()
            raise

    def _settle(self, db: sqlite3.Connection) -> None:
        """Start from the newest generation, without what a commit that did not finish has left behind."""
        self._base = self._newest()
        self._forget()
        recover(db, self._folder, self._base.manifest)
        if self._mirror is not None and not self._in_step:
            self._mirror.settle(db, self._base.segments())
            self._in_step = True
        self._settled = True

    def _purge(self, db: sqlite3.Connection) -> None:
        """Drop what nobody can see: rows that died at a generation are seen by readers of earlier ones only."""
        horizon = min([self.generation, *locks.held_generations(self._folder, self.generation)])
        if self._mirror is not None:
            self._mirror.delete_dead(db, horizon)
        purge(db, "died <=", horizon)

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.rollback()
        self._forget()

    def _forget(self) -> None:
        """There is nothing to commit."""
        manifest = self._base.manifest
        self.settings = json.loads(json.dumps(dict(manifest.settings)))
        self._next_chunk = manifest.next_chunk
        self._new_vectors = manifest.storage.buffer()
        self._new_tokens = None if manifest.token_storage is None else manifest.token_storage.buffer()
        self._new_texts = {}
        self._grown = np.zeros(2, np.int64)  # documents, chunks
        self._dead = []

    # Commits

    def commit(self) -> int:
        """Make the changes since the last commit the newest generation; returns its number.

        Raises CollectionError when they cannot be written, for example because the disk is full: then they are
        dropped, and the last generation stays.
        """
        changed = self._connection.in_transaction or self.settings != self._base.manifest.settings
        return self._commit() if changed else self.generation

    def compact(self) -> None:
        """Commit, merge all segments into one without deleted chunks, and give free space back to the disk."""
        if self._connection.in_transaction or len(self._base.manifest.segments) > 1 or self._base.manifest.deleted:
            self._commit(lambda sizes, deleted: [(0, len(sizes))] if len(sizes) > 1 or any(deleted) else [])
        with explained(self._folder):
            self._purge(self._connection)
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def upgrade(self, codec: Keeping = "auto") -> int:
        """Commit, keep vectors like this from now on, and write the segments anew that are kept otherwise, one commit
        each; returns how many these were. InputError for what there is not."""
        manifest = self._base.manifest
        if manifest.engine is not None:
            raise InputError(
                f"{self._folder} keeps its vectors in {manifest.engine}, which decides by itself how",
                hint="index the sources again into a new folder, without --engine",
            )
        storage = manifest.model_copy(update={"codec": codec}).storage
        storage.buffer()  # refuses what cannot be
        self.commit()
        if codec != manifest.codec:
            self.change(codec=codec)
        at = rewritten = 0
        while at < len(segments := self._base.segments()):
            if not storage.suits(segments[at]):
                self._commit(lambda sizes, deleted: [(at, at + 1)])  # noqa: B023  called at once
                rewritten += 1
            at += 1
        return rewritten

    def change(self, **changes: Any) -> int:
        """Commit, without merging, with these fields of the manifest changed; returns the generation."""
        return self._commit(lambda sizes, deleted: [], changes)

    def _commit(self, planned: Plan = plan, changes: Mapping[str, Any] | None = None) -> int:
        """`changes` to the manifest come on top of those that follow from what was added and deleted."""
        settings = json.loads(dump_metadata(self.settings, "settings"))
        with self._changing() as db:
            try:
                numbers = count(self._base.manifest.next_file)
                segments = self._segments(numbers, planned)
                sync(self._folder / "segments")
                manifest = self._base.manifest.model_copy(
                    update={
                        "generation": self.generation + 1,
                        "updated": datetime.now(timezone.utc),
                        "settings": settings,
                        "documents": self._base.manifest.documents + int(self._grown[0]),
                        "chunks": self._base.manifest.chunks + int(self._grown[1]),
                        "next_chunk": self._next_chunk,
                        "next_file": next(numbers),
                        "segments": tuple(segments),
                        **(changes or {}),
                    }
                )
                if self._mirror is not None:
                    self._in_step = False
                    self._mirror.add(np.array(list(self._new_texts), np.int64), self._new_vectors)
                publish(db, self._folder, manifest)
                self._in_step = True
            except BaseException:
                if db.in_transaction:
                    db.rollback()
                self._settled = False
                with suppress(OSError, sqlite3.Error, CollectionError):  # if not now, then before the next change
                    self._settle(db)
                raise
        self._settled = False
        with explained(self._folder):
            self._settle(db)
        if self._mirror is not None:
            # It has no generations of its own. What cannot be deleted from it now is deleted before the next change.
            with suppress(CollectionError), self._changing() as db:
                db.commit()
        return self.generation

    def _segments(self, numbers: Iterator[int], planned: Plan) -> list[SegmentRecord]:
        """The segments of the next generation: with the new chunks, without what is too much deleted, merged."""
        storage, token_storage = self._base.manifest.storage, self._base.manifest.token_storage
        parts: list[Part] = list(self._base.segments())
        dead = np.unique(np.concatenate([NONE, *self._dead]))
        deleted = [np.union1d(part.deleted, between(dead, part)) for part in parts]
        if (new := self._new_part()) is not None:
            parts.append(new)
            deleted.append(NONE)
        sizes = [len(part.ids) for part in parts]
        counts = [len(ids) for ids in deleted]
        runs = dict(alike(planned(sizes, counts), [part.tokens is not None for part in parts]))

        records: list[SegmentRecord] = []
        at = 0
        while at < len(parts):
            end = runs.get(at, at + 1)
            run = [replace(p, deleted=d) for p, d in zip(parts[at:end], deleted[at:end], strict=True)]
            stored = self._base.manifest.segments[at] if at < len(self._base.manifest.segments) else None
            if not any(len(part.deleted) < len(part.ids) for part in run):
                pass  # nothing is left of it
            elif at in runs or stored is None:
                part = merged(run, storage, token_storage, parts, self._progress)
                records.append(part.write(self._folder, next(numbers)))
            elif len(run[0].deleted) > stored.deleted:
                tombstones = write_tombstones(self._folder, next(numbers), run[0].deleted)
                records.append(stored.model_copy(update={"deleted": len(run[0].deleted), "tombstones": tombstones}))
            else:
                records.append(stored)
            at = end
        return records

    def _new_part(self) -> Part | None:
        if not self._new_texts:
            return None
        ids, texts = np.array(list(self._new_texts), np.int64), list(self._new_texts.values())
        postings = LexicalIndex.build(ids, texts, language=self._base.manifest.language)
        return Part(self._new_vectors, postings, NONE, tokens=self._new_tokens)
