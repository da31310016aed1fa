"""k-means over tokens: the centroids of residual codes, and those that documents are scored by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag import _native

__all__ = ["k_means", "sampled", "unit"]

_RUN = 8192


def sampled(rows: NDArray[np.float32], most: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """At most so many of the rows, in their order."""
    return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows at unit length."""
    return np.asarray(
        rows / np.maximum(np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True), 1e-300), np.float32
    )


def k_means(rows: NDArray[np.float32], count: int, rng: np.random.Generator, rounds: int) -> NDArray[np.float32]:
    """Centroids float32[count, dim] of rows float32[n, dim], n >= count; one that no row is nearest to becomes a row
    chosen at random. Deterministic, whatever the number of threads."""
    centroids = rows[rng.choice(len(rows), count, replace=False)]
    for _ in range(rounds):
        nearest = _native.CentroidIndex(centroids).nearest(rows)[0]
        sums, sizes = np.zeros(centroids.shape, np.float64), np.bincount(nearest, minlength=count)
        for first in range(0, len(rows), _RUN):
            part = nearest[first : first + _RUN]
            order = np.argsort(part, kind="stable")
            found, starts = np.unique(part[order], return_index=True)
            sums[found] += np.add.reduceat(rows[first : first + _RUN][order], starts, axis=0)
        centroids = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(sizes == 0)
        centroids[empty] = rows[rng.choice(len(rows), len(empty))]
    return centroids
