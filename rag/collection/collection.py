"""A collection: documents, their chunks, vectors and postings, in one folder on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.collection.creation import make
from rag.collection.engine import Mirror
from rag.collection.info import Info
from rag.collection.late import LateInteraction, own_texts
from rag.collection.manifest import NAME as MANIFEST
from rag.collection.manifest import Manifest
from rag.collection.opening import newest_snapshot
from rag.collection.repair import Remake, Report, rebuild, verify
from rag.collection.rows import Fingerprint
from rag.collection.snapshot import Connections, Snapshot
from rag.collection.storage import Keeping
from rag.collection.writer import Writer
from rag.encoders import DEFAULT, Encoder, MultiVectorEncoder, load, load_multi_vector
from rag.errors import CollectionError, EncoderMismatchError
from rag.index import Metric
from rag.index.multivector import TokenCodec
from rag.index.neighbours import Progress
from rag.types import Chunk, Document

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
            snapshot = newest_snapshot(folder, connections, repair=repair)
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
                newest = newest_snapshot(self.path, self._connections, known=current.opened())
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
    def metric(self) -> Metric:
        """What the scores of a dense search are."""
        return self._open.manifest.metric

    @property
    def encoder_fingerprint(self) -> str:
        """The fingerprint of the encoder that made its vectors; nothing is loaded for it."""
        return self._open.manifest.encoder.fingerprint

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
            self._snapshot = newest_snapshot(self.path, self._connections, repair=True)
        return self.verify()
