"""Orders in which vectors are inserted into a graph, which grows from what came first.

Elliott and Clark (ICTIR 2024) measured that HNSW finds more when vectors of high local dimension come first, which span
the graph before tight clusters attach to it, and less when they come topic by topic. The size of both effects differs
between data and builders: measure before you prefer one to "random".
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError, did_you_mean
from rag.index.inputs import as_vectors, check_count
from rag.index.neighbours import Progress, as_points, filled, local_dimension, nearest_others
from rag.index.protocol import Metric

__all__ = ["ORDERS", "Order", "insertion_order"]

Order: TypeAlias = Literal["given", "random", "lid", "cluster"]
"""given: row by row. random: shuffled, which protects against sorted input. lid: from the highest local intrinsic
dimension to the lowest, copies last. cluster: cluster by cluster of k-means, each in the order given, so that near
vectors lie near each other in memory."""

ORDERS: tuple[Order, ...] = get_args(Order)

SAMPLE = 10_000
NEIGHBOURS = 100
ROUNDS = 10
MOST_CLUSTERS = 256
BLOCK = 8192


def insertion_order(
    vectors: NDArray[np.float32],
    how: Order,
    seed: int = 0,
    *,
    metric: Metric = "cosine",
    threads: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """The rows of vectors float32[n, dim] in the order `how`: a permutation int64[n], the same for the same seed.

    `lid` takes 100 exact neighbours for each vector among 10,000 of them, and `cluster` k-means on 10,000 (sqrt(n)
    clusters, at most 256). Vectors are read in blocks, so that they can be a mapped file. Equal ones keep their order.
    Raises InputError for another order, a negative seed, and, under `lid` and `cluster`, for NaN and infinity.
    """
    if how not in ORDERS:
        raise InputError(f"there is no order {how!r}", hint=did_you_mean(str(how), ORDERS))
    if np.ndim(vectors) != 2:
        raise InputError(f"vectors have shape {np.shape(vectors)}, expected (n, dim)")
    count = len(vectors)
    rng = np.random.default_rng(check_count(seed, "seed"))
    if how == "random":
        return rng.permutation(count).astype(np.int64)
    if how == "given" or count < 3:
        return np.arange(count)
    rows = _Points(vectors, metric)
    chosen = np.sort(rng.choice(count, min(count, SAMPLE), replace=False))
    sample = rows[chosen]
    if how == "lid":
        return np.argsort(-_local_dimensions(rows, chosen, sample, threads, progress), kind="stable")
    clusters = min(int(count**0.5), MOST_CLUSTERS)
    return np.argsort(_clusters(rows, sample, clusters, rng, threads, progress), kind="stable")


class _Points:
    """Vectors as points of Euclidean space, made when they are read."""

    def __init__(self, vectors: NDArray[np.float32], metric: Metric) -> None:
        self._vectors, self._metric = vectors, metric

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        return as_points(as_vectors(self._vectors[rows], self._vectors.shape[1]), self._metric)


def _local_dimensions(
    points: _Points,
    chosen: NDArray[np.int64],
    sample: NDArray[np.float32],
    threads: int,
    progress: Progress | None,
) -> NDArray[np.float64]:
    """The local dimension float64[n] of each point, by its nearest in the sample."""
    index = filled(sample)
    own = np.full(len(points), -1)
    own[chosen] = np.arange(len(chosen))
    k = min(NEIGHBOURS, len(sample) - 1)
    out = np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        part = slice(start, start + BLOCK)
        found = nearest_others(index, points[part], own[part], k, threads=threads)
        out[part] = local_dimension(np.sqrt(-found.scores.astype(np.float64)))
        if progress is not None:
            progress("local dimensions", min(start + BLOCK, len(points)), len(points))
    return out


def _clusters(
    points: _Points,
    sample: NDArray[np.float32],
    clusters: int,
    rng: np.random.Generator,
    threads: int,
    progress: Progress | None,
) -> NDArray[np.int64]:
    """The cluster int64[n] of each point, by Lloyd's k-means on the sample."""
    centres = sample[np.sort(rng.choice(len(sample), clusters, replace=False))]
    for _ in range(ROUNDS):
        members = filled(centres).search(sample, 1, threads=threads).ids[:, 0]
        counts = np.bincount(members, minlength=len(centres))
        ends = np.cumsum(counts)[counts > 0]
        # A cluster that lost all its members is left out.
        sums = np.add.reduceat(sample[np.argsort(members, kind="stable")], ends - counts[counts > 0], axis=0)
        centres = (sums / counts[counts > 0, None]).astype(np.float32)
    index = filled(centres)
    out = np.empty(len(points), np.int64)
    for start in range(0, len(points), BLOCK):
        out[start : start + BLOCK] = index.search(points[start : start + BLOCK], 1, threads=threads).ids[:, 0]
        if progress is not None:
            progress("clusters", min(start + BLOCK, len(points)), len(points))
    return out
