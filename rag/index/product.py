"""The centroids of product codes: k-means with 256 centroids on each 8 components (PQ: Jegou et al., PAMI 2011)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag import _native

__all__ = ["choose", "learn_centroids", "product_rows"]

CENTROIDS, WIDTH = 256, 8
FEW_ROWS, LEAST_ROWS, MOST_ROWS = 2048, 16_384, 65_536
_NUMBERS = 1 << 26
_ROUNDS = 10
_SPLIT = np.float32(1e-3)


def product_rows(dim: int) -> int:
    """How many vectors to learn from: 65,536, or fewer of long ones, but 64 for each centroid."""
    return int(np.clip(_NUMBERS // dim, LEAST_ROWS, MOST_ROWS))


def choose(rows: NDArray[np.float32], most: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """At most so many rows, in their order."""
    return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]


def learn_centroids(
    sample: NDArray[np.float32], mean: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Centroids float32[parts, 256, 8] of a sample float32[n, dim] less its mean; the last part is padded with zeros.

    Few vectors say little about those to come: up to 2,048, they are joined by random ones of the same spread.
    A centroid that no vector is nearest to takes half of the vectors of the one with the most.
    """
    sample = sample - mean
    if len(sample) < FEW_ROWS:
        spread = np.square(sample).mean(0)
        spread += (np.square(mean).mean() + spread.mean()) / len(sample)  # one vector alone shows none
        more = rng.standard_normal((FEW_ROWS - len(sample), len(mean)), dtype=np.float32)
        sample = np.concatenate([sample, more * np.sqrt(spread)])
    n, dim = sample.shape
    parts = -(-dim // WIDTH)
    padded = np.zeros((n, parts * WIDTH), np.float32)
    padded[:, :dim] = sample
    first = rng.choice(n, CENTROIDS, replace=False)
    centroids = np.ascontiguousarray(padded[first].reshape(CENTROIDS, parts, WIDTH).swapaxes(0, 1))
    for _ in range(_ROUNDS):
        sums, counts = _native.sum_by_centroid(padded, centroids)
        centroids = sums.reshape(centroids.shape) / np.maximum(counts, 1)[..., None].astype(np.float32)
        for part in np.flatnonzero((counts == 0).any(axis=1)):
            _split_largest(centroids[part], counts[part])
    return centroids


def _split_largest(centroids: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
    """Move each empty centroid of a part beside the largest one, which moves a little the other way."""
    for empty in np.flatnonzero(counts == 0):
        largest = int(np.argmax(counts))
        sign = np.where(np.arange(WIDTH) % 2, -_SPLIT, _SPLIT)
        centroids[empty] = centroids[largest] * (1 + sign)
        centroids[largest] *= 1 - sign
        counts[empty] = counts[largest] // 2
        counts[largest] -= counts[empty]
