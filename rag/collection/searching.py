"""Searching a collection by vectors and by words, with filters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.collection import segments
from rag.collection.columns import MISSING, Column
from rag.collection.engine import Mirror
from rag.collection.selection import grouped
from rag.collection.snapshot import Snapshot
from rag.errors import InputError
from rag.index import Matches
from rag.index.recommend import RECALL
from rag.types import Chunk, Hits

__all__ = ["Searching"]


class Searching:
    """The side of a `rag.collection.Collection` that finds chunks by their vectors and words."""

    _mirror: Mirror | None

    @property
    @abstractmethod
    def _open(self) -> Snapshot: ...

    @abstractmethod
    def chunks(self, ids: ArrayLike) -> list[Chunk]: ...

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self._open.manifest.encoder.dim

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

    def metadata(self, field: str) -> tuple[NDArray[np.int64], Column]:
        """All chunk ids (int64[n], sorted) and a metadata field as a column over them; MISSING where none has it."""
        ids, columns = self._open.columns()
        found = columns.of_chunks(field)
        return ids, found or Column([MISSING], np.zeros(len(ids), np.int32))

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """The stored vectors float32[n, dim] of these chunks; NotFoundError."""
        return segments.vectors_of(self._open.segments(), np.asarray(ids, np.int64), self.dim)


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1")
