"""Giving a collection token vectors afterwards: segment by segment, each in a generation of its own.

What was encoded is kept in pieces of some hundred chunks beside the segments until the segment is done, so that an
interrupted run loses no more than a piece.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.collection.database import explained
from rag.collection.files import record
from rag.collection.manifest import TokensRecord
from rag.collection.segments import Segment
from rag.collection.tokens import TokenPart, TokenStorage, add_tokens
from rag.encoders import TokenVectors
from rag.errors import CollectionError, NotFoundError
from rag.index.multivector import TokenStore
from rag.index.neighbours import Progress
from rag.types import Chunk

if TYPE_CHECKING:
    from rag.collection.writer import Writer

__all__ = ["EncodeChunks", "upgrade_tokens"]

FOLDER = "upgrade"
PIECE = 512
"""Chunks, by their ids, that are encoded and kept together."""

EncodeChunks: TypeAlias = Callable[[Sequence[Chunk]], TokenVectors]
ReadChunks: TypeAlias = Callable[[NDArray[np.int64]], Sequence[Chunk]]


def upgrade_tokens(writer: Writer, wanted: TokensRecord, encode: EncodeChunks, progress: Progress | None) -> int:
    """Hold these tokens from now on, and give them to the segments that have none, or keep them otherwise, one commit
    each; returns how many these were."""
    writer.commit()
    manifest = writer.base.manifest
    known = manifest.tokens
    if known is None or (known.fingerprint, known.dim) != (wanted.fingerprint, wanted.dim):
        writer.change(
            tokens=wanted, segments=tuple(one.model_copy(update={"tokens": None}) for one in manifest.segments)
        )
    elif known != wanted:
        writer.change(tokens=wanted)
    storage = TokenStorage(wanted.dim, wanted.codec)
    left = [segment for segment in writer.base.segments() if not storage.suits(segment)]
    pieces = _Pieces(writer.base.folder, wanted, encode, progress)
    pieces.total = sum(len(segment.live) for segment in left if segment.tokens is None)
    for segment in left:
        parts: list[TokenPart] = [segment]
        if segment.tokens is None:
            parts = list(pieces.of(segment, writer.base.chunks))
        store = storage.build(parts, writer.base.segments(), progress)
        assert store is not None
        with explained(writer.base.folder):
            _give(writer, segment, store)
    pieces.remove()
    return len(left)


def _give(writer: Writer, segment: Segment, store: TokenStore) -> None:
    """Commit these tokens as those of the segment."""
    folder, manifest = writer.base.folder, writer.base.manifest
    name = f"segments/{manifest.next_file:08d}.tokens"
    store.save(folder / name)
    file = record(folder, name)
    writer.change(
        next_file=manifest.next_file + 1,
        segments=tuple(
            one.model_copy(update={"tokens": file}) if one == segment.record else one for one in manifest.segments
        ),
    )


@dataclass(frozen=True)
class _Piece:
    """Tokens of neighbouring chunks."""

    ids: NDArray[np.int64]
    live: NDArray[np.int64]
    tokens: TokenStore
    tokens_file: Path | None = None


class _Pieces:
    """The encoded pieces of segments, in files; those that an earlier run has made are not made again."""

    def __init__(self, folder: Path, wanted: TokensRecord, encode: EncodeChunks, progress: Progress | None) -> None:
        self.total = 0
        self._done = 0
        self._folder = folder / FOLDER
        self._wanted = wanted
        self._encode = encode
        self._progress = progress

    def of(self, segment: Segment, chunks: ReadChunks) -> Iterator[_Piece]:
        """Of all that is live in the segment, in order."""
        live, ends = segment.live, segment.record
        for start in range(ends.first // PIECE * PIECE, ends.last + 1, PIECE):
            first, last = max(start, ends.first), min(start + PIECE - 1, ends.last)
            ids = live[np.searchsorted(live, first) : np.searchsorted(live, last + 1)]
            if len(ids):
                self._tell(0)
                store = self._store(first, last, ids, chunks)
                yield _Piece(ids, ids, store)
                self._tell(len(ids))

    def _store(self, first: int, last: int, ids: NDArray[np.int64], chunks: ReadChunks) -> TokenStore:
        """The piece of the chunks `first` to `last`, as an earlier run has left it, else encoded now."""
        store = TokenStorage(self._wanted.dim, self._wanted.codec).buffer()
        path = self._folder / f"{first:08d}-{last:08d}-{self._wanted.fingerprint[:16]}-{store.codec}.tokens"
        with suppress(NotFoundError, CollectionError):  # damaged ones are made again as well
            return TokenStore.open(path)
        add_tokens(store, ids, self._encode(chunks(ids)))
        with explained(self._folder):
            self._folder.mkdir(exist_ok=True)
            store.save(path)
        return TokenStore.open(path)

    def _tell(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress("encoding token vectors", self._done, self.total)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
