"""A collection: documents, their chunks, vectors and postings, in one folder on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.collection import locks, segments
from rag.collection.creation import make
from rag.collection.engine import Mirror
from rag.collection.info import Info
from rag.collection.late import LateInteraction, own_texts
from rag.collection.manifest import NAME as MANIFEST
from rag.collection.manifest import Manifest
from rag.collection.repair import Remake, Report, check_database, rebuild, restored_manifest, verify
from rag.collection.rows import Fingerprint
from rag.collection.selection import grouped
from rag.collection.snapshot import Connections, Snapshot
from rag.collection.storage import Keeping
from rag.collection.writer import Writer
from rag.encoders import DEFAULT, Encoder, MultiVectorEncoder, load, load_multi_vector
from rag.errors import CollectionError, DamagedFileError, EncoderMismatchError, InputError, NotFoundError
from rag.index import Matches, Metric
from rag.index.multivector import TokenCodec
from rag.index.neighbours import Progress
from rag.index.recommend import RECALL
from rag.types import Chunk, Document, Hits

__all__ = ["Collection"]


class Collection(LateInteraction):
    """Documents, chunks and their indexes at one generation; `refresh` moves on to the newest.

    Any number of processes and threads may read, and one may write, at the same time. Reading methods are safe to
    call from several threads. Use as a context manager, or call `close`.
    """

    def __init__(self, path: Path, snapshot: Snapshot, connections: Connections, encoder: Encoder | None) -> None:
        self.path = path
        self._snapshot: Snapshot | None = snapshot
        self._connections = connections
        self._encoder = encoder
        self._token_encoder = None
        self._mirror = Mirror.of(path, snapshot.manifest)
        self._changing = threading.Lock()

    # Making and opening

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: str | Encoder = DEFAULT,
        tokens: str | MultiVectorEncoder | None = None,
        token_codec: TokenCodec | None = None,
        metric: Metric = "cosine",
        codec: Keeping = "auto",
        engine: str | None = None,
        language: str = "english",
        settings: Mapping[str, Any] | None = None,
    ) -> Collection:
        """Make an empty collection in a new or empty folder, and open it.

        `encoder` is a name for `rag.encoders.load` or an encoder; `metric` and `codec` are those of
        `rag.index.ScanIndex`. With codec "auto" each segment decides whether it is scanned exactly, scanned compressed,
        or a graph (`rag.index.recommend`); with another one it is scanned in that. `tokens` is an encoder of token
        vectors, or its name for `rag.encoders.load_multi_vector`, if the collection is to hold such as well, and
        `token_codec` that of `rag.index.multivector.TokenStore`. `engine` is another one's URI (see
        `rag.index.engines`), `language` that of `rag.index.LexicalIndex`; `settings` are JSON values kept with it.
        Raises CollectionError when the folder holds a collection or other files, or cannot be written to, EngineError
        when the engine cannot be reached, ConfigError for a wrong URI, and MissingExtraError.
        """
        made_by = load(encoder) if isinstance(encoder, str) else encoder
        token_encoder = load_multi_vector(tokens) if isinstance(tokens, str) else tokens
        make(
            Path(path),
            encoder=made_by,
            token_encoder=token_encoder,
            token_codec=token_codec,
            metric=metric,
            codec=codec,
            engine=engine,
            language=language,
            settings=settings or {},
        )
        return cls.open(path, encoder=made_by, token_encoder=token_encoder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        token_encoder: MultiVectorEncoder | None = None,
        repair: bool = False,
    ) -> Collection:
        """Open the newest generation, checking its files.

        `encoder` and `token_encoder` are used in place of loading those that are named in the manifest. With `repair`,
        what is damaged is no error yet, so that `verify` and `rebuild` can be called. Raises NotFoundError,
        DamagedFileError, EncoderMismatchError, CollectionError (a newer format, no rights).
        """
        folder = Path(path)
        connections = Connections(folder)
        try:
            snapshot = _newest(folder, connections, repair=repair)
            collection = cls(folder, snapshot, connections, None)
            if encoder is not None:
                collection._accept(encoder)
            if token_encoder is not None:
                collection._token_encoder = collection._accepted(token_encoder)
        except BaseException:
            connections.close()
            raise
        return collection

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether the folder holds a collection (damaged or not)."""
        return (Path(path) / MANIFEST).is_file()

    def refresh(self) -> Collection:
        """Move on to the newest generation, when there is one; returns itself."""
        with self._changing:
            current = self._open
            if Manifest.read(self.path).generation != current.generation:
                newest = _newest(self.path, self._connections, known=current.opened())
                self._connections.drop()
                self._snapshot = newest
        return self

    def close(self) -> None:
        """Give back files and locks; the collection cannot be used afterwards."""
        with self._changing:
            self._snapshot = None
            self._connections.close()
            if self._mirror is not None:
                self._mirror.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"generation {self._snapshot.generation}" if self._snapshot else "closed"
        return f"Collection({str(self.path)!r}, {state})"

    @property
    def _open(self) -> Snapshot:
        if self._snapshot is None:
            raise CollectionError(f"the collection {self.path} was closed", hint="open it again")
        return self._snapshot

    # What it is

    @property
    def generation(self) -> int:
        """The number of commits up to what is read here."""
        return self._open.generation

    @property
    def fingerprint(self) -> str:
        """What tells this generation of this collection from every other; results that rest on it are kept under it."""
        return f"{self._open.manifest.collection}@{self.generation}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values kept with the collection, such as those of the chunker."""
        return self._open.manifest.settings

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self._open.manifest.encoder.dim

    @property
    def encoder(self) -> Encoder:
        """The encoder of its vectors, loaded at first use. EncoderMismatchError when it is not what made them."""
        if self._encoder is None:
            return self._accept(load(self._open.manifest.encoder.name))
        return self._encoder

    def _accept(self, encoder: Encoder) -> Encoder:
        made_by = self._open.manifest.encoder
        if (encoder.fingerprint, encoder.dim) != (made_by.fingerprint, made_by.dim):
            raise EncoderMismatchError(
                f"the vectors of {self.path} were made by {made_by.name!r} ({made_by.dim} numbers, fingerprint "
                f"{made_by.fingerprint[:12]}), but the encoder is {encoder.name!r} ({encoder.dim} numbers, fingerprint "
                f"{encoder.fingerprint[:12]})",
                hint=f"use {made_by.name!r} in the version that made them, or index the sources again with "
                f"{encoder.name!r} into a new folder",
            )
        self._encoder = encoder
        return encoder

    def info(self) -> Info:
        """Its figures."""
        snapshot = self._open
        return Info.of(self.path, snapshot.manifest, snapshot.segments())

    def __len__(self) -> int:
        """Chunks."""
        return self._open.manifest.chunks

    # Documents and text

    def documents(self) -> dict[str, Fingerprint]:
        """Every document's id, in the order they were added, with what tells whether its source has changed."""
        return {row.id: Fingerprint(row.digest, row.mtime_ns, row.size) for row in self._open.documents()}

    def document(self, id: str) -> Document:
        """A document with its whole text; NotFoundError."""
        return self._open.document(id)

    def chunks(self, ids: ArrayLike) -> list[Chunk]:
        """The chunks with these ids (int64[n]), in this order; NotFoundError for one that is not there.

        Their metadata is that of their document, overridden by their own.
        """
        return self._open.chunks(np.asarray(ids, np.int64))

    def chunk_ids(self, document: str | None = None) -> NDArray[np.int64]:
        """The ids (int64[n], sorted) of all chunks, or of a document's, which are in the order of its text."""
        return self._open.chunk_ids(document)

    def text(self, document: str, start: int = 0, end: int | None = None) -> str:
        """Characters `start` to `end` of a document, without reading the rest of a long one."""
        if end is None:
            return self._open.document(document).text[start:]
        return self._open.texts([(document, start, end)])[0]

    def texts(self, spans: Sequence[tuple[str, int, int]]) -> list[str]:
        """Many spans (document id, start, end) of text at once, such as the parents of hits."""
        return self._open.texts(spans)

    def lines(self, places: Sequence[tuple[str, int]]) -> list[int]:
        """The line (from 1) on which each character (document id, offset) stands."""
        return self._open.lines(places)

    # Searching

    def search_dense(
        self,
        vectors: ArrayLike,
        k: int,
        *,
        filter: str | Sequence[str | None] | None = None,
        recall: float = RECALL,
        threads: int = 0,
    ) -> list[Hits]:
        """The k chunks with the vectors nearest to each of float32[q, dim], among those that pass the filter.

        `filter` is one for all, or one (or None) for each vector; those that share one are answered together.
        `recall`: the share of the true k nearest that is to be found on average, above 0 to 1, where a graph is walked.
        What is scanned does not get worse by less. 1 ranks every vector by the finest copy that there is.
        """
        snapshot = self._open
        queries = np.atleast_2d(np.ascontiguousarray(vectors, dtype=np.float32))
        _check_k(k)
        if isinstance(recall, bool) or not isinstance(recall, float | int) or not 0 < recall <= 1:
            raise InputError(f"recall is {recall!r}, expected a number above 0, at most 1")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"the vectors have shape {queries.shape}, this collection needs [queries, {self.dim}]")

        def search(rows: NDArray[np.int64], where: str | None) -> list[Hits]:
            allowed = None if where is None else snapshot.select(where)
            asked = queries if len(rows) == len(queries) else queries[rows]
            if self._mirror is not None:
                passing = None if allowed is None else allowed.ids
                return self._hits(self._mirror.search(snapshot.live(), asked, k, passing, threads))
            return self._hits(segments.search_vectors(snapshot.segments(), asked, k, allowed, recall, threads))

        return grouped(filter, len(queries), search)

    def search_lexical(
        self,
        texts: Sequence[str],
        k: int,
        *,
        filter: str | Sequence[str | None] | None = None,
        k1: float = 0.9,
        b: float = 0.4,
        threads: int = 0,
    ) -> list[Hits]:
        """The k chunks with the highest BM25 score for each text, among those that pass the filter: one for all, or
        one (or None) for each text."""
        snapshot = self._open
        _check_k(k)
        if isinstance(texts, str):
            raise InputError("search_lexical takes a list of texts", hint=f"write [{texts[:40]!r}]")
        asked = list(texts)

        def search(rows: NDArray[np.int64], where: str | None) -> list[Hits]:
            allowed = None if where is None else snapshot.select(where).ids
            some = [asked[row] for row in rows]
            return self._hits(segments.search_postings(snapshot.segments(), some, k, allowed, k1, b, threads))

        return grouped(filter, len(asked), search)

    def _hits(self, matches: Matches) -> list[Hits]:
        counts = (matches.ids >= 0).sum(axis=1)
        return [
            Hits(ids[:n], scores[:n], store=self)
            for ids, scores, n in zip(matches.ids, matches.scores, counts, strict=True)
        ]

    def select(self, filter: str) -> NDArray[np.int64]:
        """The ids (int64[n], sorted) of the chunks that pass a filter expression; see `rag.collection.filters`."""
        return self._open.select(filter).ids

    def fields(self) -> list[str]:
        """The names that a filter can use."""
        return self._open.columns()[1].names

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """The stored vectors float32[n, dim] of these chunks; NotFoundError."""
        return segments.vectors_of(self._open.segments(), np.asarray(ids, np.int64), self.dim)

    # Changing

    def writer(self, *, wait: float = 0, progress: Progress | None = None) -> Writer:
        """A writer, to be used in a `with` block; moves this collection on to the newest generation.

        Waits `wait` seconds for another writer to finish, then raises LockedError. `progress` is told what a commit
        builds: what is done, and how much of how much.
        """
        return Writer(self.path, self._refreshed, self._mirror, wait, progress)

    def _refreshed(self) -> Snapshot:
        return self.refresh()._open

    def compact(self, *, wait: float = 0) -> None:
        """Merge all segments into one without deleted chunks, and give space in the database back to the disk."""
        with self.writer(wait=wait) as writer:
            writer.compact()

    def upgrade(self, codec: Keeping = "auto", *, wait: float = 0, progress: Progress | None = None) -> int:
        """Keep vectors like this from now on, and write the segments anew that are kept otherwise; returns how many.

        Each is a generation of its own: readers go on, nothing is lost whenever it is interrupted, and the next call
        goes on from there. What a coarser codec has rounded does not come back. Raises what `writer` raises, and
        InputError for a codec that there is not, or with another engine, which decides by itself.
        """
        with self.writer(wait=wait, progress=progress) as writer:
            return writer.upgrade(codec)

    def verify(self) -> Report:
        """Check every byte of every file, every row, and that database and indexes hold the same chunks."""
        return verify(self.path, self._connections, self._mirror)

    def rebuild(self, *, texts: Callable[[Sequence[Chunk]], Sequence[str]] | None = None, wait: float = 0) -> Report:
        """Remake a damaged manifest, and damaged indexes from the stored chunks; returns what is still wrong.

        What cannot be read is made again from the text of each chunk, or from what `texts` says was indexed for the
        chunks. Raises CollectionError when sound vectors show that it was something else.
        """

        remake = Remake(
            texts or own_texts,
            lambda indexed: self.encoder.encode_documents(indexed),
            lambda indexed: self.token_encoder.encode_documents(indexed),
        )
        with self._changing:
            rebuild(self.path, self._connections, self._mirror, remake, wait)
            self._snapshot = _newest(self.path, self._connections, repair=True)
        return self.verify()


def _newest(
    folder: Path, connections: Connections, *, known: Sequence[segments.Segment] = (), repair: bool = False
) -> Snapshot:
    """The newest generation, checked; with `repair`, as much of it as can be had, unchecked."""
    while True:
        try:
            manifest = Manifest.read(folder)
        except (DamagedFileError, NotFoundError):
            if not repair:
                raise
            manifest = restored_manifest(folder, connections)
        snapshot = Snapshot(folder, manifest, locks.GenerationLock(folder, manifest.generation), connections)
        if repair:
            return snapshot
        try:
            check_database(folder, manifest, connections)
            snapshot.segments(known)
            problem = None
        except (DamagedFileError, NotFoundError) as error:
            problem = error
        # A writer that went on in the meantime may have removed files, or rows before the lock was taken.
        if Manifest.read(folder).generation == manifest.generation:
            if problem is not None:
                raise problem
            return snapshot


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1")
