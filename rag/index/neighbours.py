"""Exact neighbours of points among a sample of themselves, and the dimension that their distances tell.

Everything here is Euclidean. Under cosine, that is the geometry of unit vectors: `as_points` makes them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rag.index.protocol import Matches, Metric
from rag.index.scan import ScanIndex

__all__ = ["Progress", "as_points", "filled", "local_dimension", "nearest_others"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of it is done, of how much."""

BLOCK = 1024
NOTHING = 1e-6
"""Distances below this share of the farthest neighbour's are rounding: such points are the same."""


def as_points(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """float32[n, dim] at unit length under cosine, and as given otherwise."""
    if metric != "cosine":
        return vectors
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-300), dtype=np.float32)


def filled(points: NDArray[np.float32], metric: Metric = "l2") -> ScanIndex:
    """An exact index of points float32[n, dim]; the id of each is its row."""
    index = ScanIndex(points.shape[1], metric)
    index.add(np.arange(len(points)), points)
    return index


def nearest_others(
    index: ScanIndex,
    points: NDArray[np.float32],
    own: NDArray[np.int64],
    k: int,
    *,
    threads: int = 0,
    progress: Progress | None = None,
    what: str = "neighbours",
) -> Matches:
    """The k nearest in the index for each of points float32[n, dim], but for the point itself.

    `own` int64[n] is the id of each point in the index, or -1 when it is not there. k is at most len(index) - 1.
    Scores are those of the index's metric; under l2 `np.sqrt(-scores)` is the distance.
    """
    ids, scores = np.empty((len(points), k), np.int64), np.empty((len(points), k), np.float32)
    for start in range(0, len(points), BLOCK):
        part = slice(start, start + BLOCK)
        found = index.search(points[part], k + 1, threads=threads)
        itself = found.ids == own[part, None]
        itself[:, -1] |= ~itself.any(axis=1)  # not among them: then the farthest is one too many
        ids[part], scores[part] = found.ids[~itself].reshape(-1, k), found.scores[~itself].reshape(-1, k)
        if progress is not None:
            progress(what, min(start + BLOCK, len(points)), len(points))
    return Matches(ids, scores)


def local_dimension(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The local intrinsic dimension float64[n] of points, by the distances float64[n, k], ascending, of neighbours.

    It says how fast the number of neighbours grows with the distance. The estimate of largest likelihood: 1 over the
    mean of ln(r_k / r_i) for i < k (Levina and Bickel, NIPS 2004; Amsaleg et al., KDD 2015). Copies of the point are
    left out; 0 where no two different distances remain.
    """
    farthest = distances[:, -1:]
    apart = (distances > NOTHING * farthest) & (farthest > 0)
    logs = np.log(np.where(apart, distances, 1.0) / np.where(apart, farthest, 1.0))
    total = -logs.sum(axis=1)
    out = np.zeros(len(distances))
    np.divide(apart.sum(axis=1) - 1, total, out=out, where=total > 0)
    return out
