"""The mirror: an engine outside that searches a copy of a collection's vectors.

Our own engine and faiss keep an index in each segment (`rag.collection.storage`). A mirror holds a copy of the vectors
of all segments. It holds at least the chunks of every generation that is read, and whatever else it holds is left out
of the results: see docs/engines.md.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.collection.manifest import Manifest
from rag.collection.storage import StoredIndex
from rag.errors import EngineError
from rag.index import Matches
from rag.index.engines import MilvusIndex, is_faiss
from rag.index.engines.milvus import connect
from rag.index.engines.widen import contained

__all__ = ["Mirror"]

BATCH = 8192


class _Part(Protocol):
    """What is used here of a segment."""

    @property
    def live(self) -> NDArray[np.int64]: ...

    @property
    def vectors(self) -> StoredIndex: ...


class Mirror:
    """The copy of a collection's vectors in an engine outside; connects when it is first needed.

    Safe to use from several threads; methods that change it are for the writer. All raise EngineError.
    """

    def __init__(self, folder: Path, manifest: Manifest, uri: str) -> None:
        self._folder = folder
        self._uri = uri
        self._dim, self._metric = manifest.encoder.dim, manifest.metric
        self.name = f"rag_{manifest.collection}"
        self._connecting = threading.Lock()
        self._index: MilvusIndex | None = None
        self._counted = False

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> Mirror | None:
        """The mirror that a manifest names, if it does."""
        return None if manifest.engine is None or is_faiss(manifest.engine) else cls(folder, manifest, manifest.engine)

    def connect(self) -> MilvusIndex:
        """The engine's index, made when it is not there."""
        with self._connecting:
            if self._index is None:
                folder = self._folder.absolute()
                self._index = connect(self._uri, self._dim, self._metric, self.name, folder)
            return self._index

    def close(self) -> None:
        with self._connecting:
            if self._index is not None:
                self._index.close()
                self._index, self._counted = None, False

    def search(
        self,
        live: NDArray[np.int64],
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None,
        threads: int,
    ) -> Matches:
        """The k nearest of the `live` chunks of a generation (sorted), or of the `allowed` ones among them.

        Until it was once found to hold enough vectors, they are counted first.
        """
        index = self.connect()
        if not self._counted:
            if (there := len(index)) < len(live):
                raise self._incomplete(f"holds {there} of {len(live)} vectors")
            self._counted = True
        found = index.search(queries, k, filter=allowed, threads=threads)
        if allowed is None:
            beyond = ((found.ids >= 0) & ~contained(found.ids, live)).any(axis=1)
            if beyond.any():
                again = index.search(queries[beyond], k, filter=live, threads=threads)
                found.ids[beyond], found.scores[beyond] = again.ids, again.scores
        return found

    def check(self, live: NDArray[np.int64]) -> None:
        """EngineError when chunks are missing."""
        missing = np.setdiff1d(live, self.connect().ids())
        if len(missing):
            raise self._incomplete(f"lacks {len(missing)} of {len(live)} vectors, such as that of chunk {missing[0]}")

    def _incomplete(self, what: str) -> EngineError:
        return EngineError(
            f"{self._uri} {what} of {self._folder}",
            hint=f"add them from the stored ones: rag repair {self._folder}",
        )

    # For the writer

    def add(self, ids: NDArray[np.int64], vectors: StoredIndex) -> None:
        """Add these ids with their vectors."""
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            self.connect().add(batch, vectors.vectors(batch))

    def delete_dead(self, db: sqlite3.Connection, horizon: int) -> None:
        """Delete the chunks of all documents that died up to a generation, and of which the rows are still there."""
        dead = db.execute("SELECT first_chunk, chunks FROM documents WHERE died <= ?", (horizon,)).fetchall()
        if dead:
            self.connect().delete(_chunks(dead))

    def settle(self, db: sqlite3.Connection, parts: Sequence[_Part], *, thorough: bool = False) -> None:
        """Bring it in step with the rows of all generations that are read; compare ids if counts differ, or always."""
        stored = _chunks(db.execute("SELECT first_chunk, chunks FROM documents").fetchall())
        index = self.connect()
        if len(index) == len(stored) and not thorough:
            return
        there = index.ids()
        index.delete(np.setdiff1d(there, stored))
        for part in parts:
            self.add(np.setdiff1d(part.live, there), part.vectors)


def _chunks(rows: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The ids of documents' chunks, from the first and the number of each."""
    return np.concatenate([np.empty(0, np.int64), *(np.arange(first, first + count) for first, count in rows)])
