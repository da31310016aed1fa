"""Finding out what is damaged in a collection, and remaking what can be remade from the stored chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.collection import locks
from rag.collection.database import (
    BLOCK,
    NAME,
    BlockRow,
    ChunkRow,
    DocumentRow,
    connect_writer,
    damage,
    explained,
    recall,
)
from rag.collection.engine import Mirror
from rag.collection.generations import publish, recover, sweep
from rag.collection.manifest import NAME as MANIFEST
from rag.collection.manifest import Manifest, SegmentRecord
from rag.collection.merging import merged
from rag.collection.segments import NONE, Part, Segment
from rag.collection.snapshot import ALL_DOCUMENTS, Connections, Snapshot, chunk_ids
from rag.collection.storage import StoredIndex, open_vectors
from rag.collection.tokens import add_tokens
from rag.encoders import TokenVectors
from rag.errors import CollectionError, DamagedFileError, NotFoundError, RagError
from rag.index.lexical import LexicalIndex
from rag.index.multivector import TokenStore
from rag.types import Chunk

__all__ = ["Remake", "Report", "check_database", "rebuild", "restored_manifest", "verify"]

BATCH = 1000
SAMPLE = 8
ALIKE = 0.99


@dataclass(frozen=True)
class Report:
    """What `verify` looked at, and what it found wrong: a sentence each."""

    generation: int
    files: int
    bytes: int
    documents: int
    chunks: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def check_database(folder: Path, manifest: Manifest, connections: Connections) -> None:
    """DamagedFileError unless the tables are those of this collection and reach this generation."""
    with connections.lend() as db:
        stored = recall(db)
    if stored.get("collection") != manifest.collection:
        raise DamagedFileError(f"{folder / NAME} belongs to another collection than {MANIFEST}")
    if int(stored["generation"]) < manifest.generation:
        raise DamagedFileError(
            f"{folder / NAME} is at generation {stored['generation']}, {MANIFEST} at {manifest.generation}",
            hint="one of them was restored from an older backup: restore the whole folder",
        )


def restored_manifest(folder: Path, connections: Connections) -> Manifest:
    """The manifest from its copy in the database; NotFoundError when there is no database."""
    if not (folder / NAME).is_file():
        raise NotFoundError(f"{folder} is not a collection: it has neither {MANIFEST} nor {NAME}")
    with connections.lend() as db:
        copy = recall(db).get("manifest", "")
    return Manifest.parse(copy, folder / NAME)


def verify(folder: Path, connections: Connections, mirror: Mirror | None) -> Report:
    """Check everything; a problem in one part does not hide those in others."""
    problems: list[str] = []

    def noted(check: Callable[[], object]) -> bool:
        try:
            check()
        except RagError as error:
            problems.append(str(error))
            return False
        return True

    if noted(lambda: Manifest.read(folder)):
        manifest = Manifest.read(folder)
    else:
        try:
            manifest = restored_manifest(folder, connections)
        except RagError as error:
            return Report(0, 0, 0, 0, 0, (*problems, str(error)))
    lock = locks.GenerationLock(folder, manifest.generation)
    snapshot = Snapshot(folder, manifest, lock, connections)
    for file in manifest.files:
        noted(partial(file.check, folder))
    whole = noted(snapshot.segments)
    if noted(lambda: check_database(folder, manifest, connections)):
        noted(lambda: _check_rows(connections, manifest))
        if whole:
            noted(lambda: _check_ids(snapshot))
            if mirror is not None:
                noted(lambda: mirror.check(snapshot.live()))
    return Report(
        generation=manifest.generation,
        files=len(manifest.files),
        bytes=sum(file.bytes for file in manifest.files),
        documents=manifest.documents,
        chunks=manifest.chunks,
        problems=tuple(problems),
    )


def _check_rows(connections: Connections, manifest: Manifest) -> None:
    with connections.lend() as db:
        (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise damage(f"its structure ({answer})")
        generation = manifest.generation
        rows = [DocumentRow(*row).checked() for row in db.execute(ALL_DOCUMENTS, (generation, generation))]
        if (len(rows), sum(row.chunks for row in rows)) != (manifest.documents, manifest.chunks):
            raise damage("the list of documents")
        for row in rows:
            blocks = db.execute(
                "SELECT id, line, text, crc FROM blocks WHERE id >= ? AND id < ?",
                (row.first_block, row.first_block - (-row.length // BLOCK)),
            )
            if sum(len(BlockRow.checked(*block)[0]) for block in blocks) != row.length:
                raise damage(f"the text of document {row.id!r}")
            chunks = db.execute(
                "SELECT id, document, start, stop, parent_start, parent_stop, metadata, crc FROM chunks"
                " WHERE id >= ? AND id < ?",
                (row.first_chunk, row.first_chunk + row.chunks),
            )
            if [ChunkRow(*chunk).checked().document for chunk in chunks] != [row.key] * row.chunks:
                raise damage(f"the chunks of document {row.id!r}")


def _check_ids(snapshot: Snapshot) -> None:
    stored = chunk_ids(snapshot.documents())
    indexed = np.concatenate([part.live for part in snapshot.segments()] or [stored[:0]])
    if not np.array_equal(stored, indexed):
        odd = np.setxor1d(stored, indexed)
        raise DamagedFileError(
            f"{snapshot.folder}: tables and indexes do not hold the same chunks: {len(odd)} differ, such as {odd[0]}"
        )


class Remake(NamedTuple):
    """How what was lost is made again: the texts that were indexed for chunks, their vectors and token vectors."""

    texts: Callable[[Sequence[Chunk]], Sequence[str]]
    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    encode_tokens: Callable[[Sequence[str]], TokenVectors]


class _Kept(NamedTuple):
    """What is sound of a segment."""

    vectors: StoredIndex | None
    tokens: TokenStore | None


def rebuild(folder: Path, connections: Connections, mirror: Mirror | None, remake: Remake, wait: float) -> None:
    """Put a damaged manifest back, write the segments that have a damaged file anew, and make the mirror complete."""
    with locks.writing(folder, wait), explained(folder):
        try:
            manifest = Manifest.read(folder)
        except (DamagedFileError, NotFoundError):
            manifest = restored_manifest(folder, connections)
            manifest.write(folder)
        db = connect_writer(folder)
        try:
            recover(db, folder, manifest)
            lock = locks.GenerationLock(folder, manifest.generation)
            snapshot = Snapshot(folder, manifest, lock, connections)
            stored = chunk_ids(snapshot.documents())
            ids = [
                stored[np.searchsorted(stored, segment.first) : np.searchsorted(stored, segment.last + 1)]
                for segment in manifest.segments
            ]
            kept = [_kept(folder, segment, manifest.engine) for segment in manifest.segments]
            records = zip(manifest.segments, kept, strict=True)
            if any(sound.vectors is None or _lost(sound.tokens, one) for one, sound in records):
                _check_encoding(snapshot, ids, [sound.vectors for sound in kept], remake)
            segments: list[SegmentRecord] = []
            number = manifest.next_file
            for segment, own, sound in zip(manifest.segments, ids, kept, strict=True):
                if _is_whole(folder, segment, manifest.engine, own):
                    segments.append(segment)
                elif len(own):
                    segments.append(_remade(snapshot, segment, own, sound, remake).write(folder, number))
                    number += 1
            if segments != list(manifest.segments):
                manifest = manifest.model_copy(
                    update={
                        "generation": manifest.generation + 1,
                        "updated": datetime.now(timezone.utc),
                        "next_file": number,
                        "segments": tuple(segments),
                    }
                )
                db.execute("BEGIN IMMEDIATE")
                publish(db, folder, manifest)
                sweep(folder, manifest)
            if mirror is not None:
                mirror.settle(db, [Segment.open(folder, s, manifest.engine) for s in segments], thorough=True)
        finally:
            db.close()


def _is_whole(folder: Path, stored: SegmentRecord, engine: str | None, ids: NDArray[np.int64]) -> bool:
    try:
        for file in stored.files:
            file.check(folder)
        return np.array_equal(Segment.open(folder, stored, engine).live, ids)
    except RagError:
        return False


def _kept(folder: Path, stored: SegmentRecord, engine: str | None) -> _Kept:
    vectors = tokens = None
    with suppress(RagError):
        vectors = open_vectors(engine, stored.vectors.check(folder), NONE)
    with suppress(RagError):
        tokens = None if stored.tokens is None else TokenStore.open(stored.tokens.check(folder))
    return _Kept(vectors, tokens)


def _lost(tokens: TokenStore | None, stored: SegmentRecord) -> bool:
    """Whether a segment had token vectors that are not sound."""
    return tokens is None and stored.tokens is not None


def _check_encoding(
    snapshot: Snapshot,
    ids: Sequence[NDArray[np.int64]],
    kept: Sequence[StoredIndex | None],
    remake: Remake,
) -> None:
    """CollectionError when vectors that are sound are not those of the same chunks encoded again."""
    for own, vectors in zip(ids, kept, strict=True):
        if vectors is not None and len(own):
            sample = own[:: -(-len(own) // SAMPLE)]
            old, new = vectors.vectors(sample), remake.encode(remake.texts(snapshot.chunks(sample)))
            likeness = (old * new).sum(axis=1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
            if likeness.min() < ALIKE:
                raise CollectionError(
                    f"{snapshot.folder}: chunk {sample[likeness.argmin()]} encoded again gives another vector than the "
                    f"stored one (cosine {likeness.min():.3f}), so lost vectors cannot be remade like this",
                    hint="more than the chunk's text was encoded: pass texts= to rebuild, or index the sources again",
                )


def _remade(snapshot: Snapshot, stored: SegmentRecord, ids: NDArray[np.int64], kept: _Kept, remake: Remake) -> Part:
    """A segment of these chunks; its vectors and token vectors from those kept, else encoded again."""
    manifest = snapshot.manifest
    vectors = manifest.storage.buffer() if kept.vectors is None else kept.vectors
    tokens = kept.tokens
    if _lost(tokens, stored) and manifest.token_storage is not None:
        tokens = manifest.token_storage.buffer()
    words: list[str] = []
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        indexed = list(remake.texts(snapshot.chunks(batch)))
        words += indexed
        if kept.vectors is None:
            vectors.add(batch, remake.encode(indexed))
        if tokens is not None and kept.tokens is None:
            add_tokens(tokens, batch, remake.encode_tokens(indexed))
    part = Part(vectors, LexicalIndex.build(ids, words, language=manifest.language), NONE, tokens=tokens)
    return merged([part], manifest.storage, None if tokens is None else manifest.token_storage)
