"""Candidates for exact comparison: by one vector a document, by the centroids of its tokens, or by both in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.index.filter import IdFilter
from rag.index.multivector.centroids import CentroidIndex
from rag.index.multivector.first_stage import FirstStage
from rag.index.protocol import Matches

__all__ = ["Stages", "narrowed"]

WIDER, AT_LEAST = 8, 256
"""So many times the candidates that are wanted, and so many more, are found by vectors and looked up by centroids."""
_SHARE = 0.5
"""Of a vector's score beside that of centroids, both in standard deviations. Centroids say which tokens meet, vectors
what centroids leave of the tokens, on average; the best weight lies between 0.4 and 1 on real tokens, and is flat."""


@dataclass(frozen=True, slots=True)
class Stages:
    """By what candidates are found: vectors, centroids, or vectors first and centroids among these."""

    vectors: FirstStage | None
    centroids: CentroidIndex | None

    def search(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        vectors: NDArray[np.float32] | None,
        budget: int,
        filter: IdFilter | None,
        recall: float,
        threads: int,
    ) -> NDArray[np.int64]:
        """Ids int64[q, budget] of candidates, -1 where there are fewer; `vectors` as the first stage makes them, or
        None without one. `recall` is that of a walk along a graph."""
        if self.vectors is None or vectors is None:
            if self.centroids is None:
                raise RuntimeError("there is nothing to find candidates by")
            return self.centroids.search(tokens, offsets, budget, filter=filter, threads=threads).ids
        if self.centroids is None:
            return self.vectors.search(vectors, budget, filter, recall, threads).ids
        found = self.vectors.search(vectors, WIDER * budget + AT_LEAST, filter, recall, threads)
        return narrowed(found, self.centroids.scores(tokens, offsets, found.ids, threads), budget)


def narrowed(found: Matches, approximate: NDArray[np.float32], budget: int) -> NDArray[np.int64]:
    """Of what was found, ids int64[q, budget] of the best by the sum of both standard scores, in any order; -1 where
    there are fewer.

    `approximate` float32[q, w]: the scores by centroids, -inf for what is not there.
    """
    there = np.isfinite(approximate)
    total = _standard(approximate, there) + _SHARE * _standard(found.scores, there)
    total[~there] = -np.inf
    ids = np.where(there, found.ids, -1)
    if budget < ids.shape[1]:
        best = np.argpartition(-total, budget - 1, axis=1)[:, :budget]
        return np.take_along_axis(ids, best, 1)
    return np.pad(ids, ((0, 0), (0, budget - ids.shape[1])), constant_values=-1)


def _standard(scores: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """In standard deviations from the mean of the row's scores that are there, and 0 elsewhere."""
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    known = np.where(there, scores, 0).astype(np.float64)
    known = np.where(there, known - known.sum(axis=1, keepdims=True) / count, 0)
    spread = np.sqrt(np.square(known).sum(axis=1, keepdims=True) / count)
    return np.asarray(known / np.where(spread > 0, spread, 1), np.float64)
