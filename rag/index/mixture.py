"""Several interests in one question: components of a mixture over what is near to it, and results in proportion.

After kNN-Embed (El-Kishky et al., 2022, arXiv:2205.06205), where a user's interests are the clusters of what they
chose; here they are the clusters of what the questions find first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mixture", "mix", "shared_out"]

_ROUNDS = 10
_ALIKE = 1e-9  # mean squared distance from the centre below which points are one
_SHARPNESS = 20.0
"""Of soft assignment: the weight of a component falls by e with every 0.05 of cosine."""


class Mixture(NamedTuple):
    """`vectors` float32[c, dim], one a component, of unit length; `shares` float32[c], which add up to 1, largest
    first."""

    vectors: NDArray[np.float32]
    shares: NDArray[np.float32]


def mix(
    queries: NDArray[np.float32],
    near: NDArray[np.float32],
    owners: NDArray[np.int64],
    *,
    components: int,
    smoothing: float,
    least: float,
) -> Mixture:
    """The components of some queries, at most so many, by what lies near to them.

    `queries` float32[q, dim]; `near` float32[n, dim] the unit vectors that they found, each by query `owners` int64[n].
    These are clustered (spherical k-means; deterministic); a component's vector is the query moved by what its part of
    the finds differs from all of them. So one component is the query itself, and with several queries their mean.
    A component's share is that of the finds: `smoothing` 0 counts each for the nearest component, 1 divides it
    by likeness. Components with a share below `least` are left out.
    """
    centres = _clusters(near, components)
    likeness = near @ centres.T
    hard = _belonging(likeness.argmax(axis=1), len(centres))
    soft = np.exp(_SHARPNESS * (likeness - likeness.max(axis=1, keepdims=True)))
    soft /= soft.sum(axis=1, keepdims=True)
    weights = (1 - smoothing) * hard + smoothing * soft
    whose = _belonging(owners, len(queries))
    means = (whose.T @ near) / np.maximum(whose.sum(axis=0), 1)[:, None]
    moved = queries[owners] + near - means[owners]
    vectors = weights.T @ moved
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    shares = weights.sum(axis=0) / len(near)
    kept = np.flatnonzero(shares >= min(least, shares.max()))
    kept = kept[np.argsort(-shares[kept], kind="stable")]
    return Mixture(np.asarray(vectors[kept], np.float32), np.asarray(shares[kept] / shares[kept].sum(), np.float32))


def shared_out(
    found: NDArray[np.int64], shares: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The k best of what the components found, in proportion to their shares: ids, scores, components; best first.

    `found` int64[c, w]: what each component found, best first, -1 for none. The score of a find is share / (2 rank -
    1), which gives out places as the method of Sainte-Laguë does seats: so many as the rounded share of k, and the
    large components first. What several components found counts for the one where it scores best.
    """
    rank = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    scores = (shares[:, None] / (2 * rank + 1)).astype(np.float32)
    component = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
    there = found >= 0
    ids, values, parts = found[there], scores[there], component[there]
    order = np.lexsort((ids, parts, -values))
    _, first = np.unique(ids[order], return_index=True)
    best = order[np.sort(first)][:k]
    return ids[best], values[best], parts[best]


def _clusters(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Unit centres float32[c, dim] of unit vectors, at most `count`: the cluster that scatters most is parted along its
    main direction until there are so many, then all are moved to the means of what is nearest to them."""
    own = np.zeros(len(points), np.int64)
    for new in range(1, min(count, len(points))):
        scatter = [float(np.square(part - part.mean(axis=0)).sum()) for part in (points[own == c] for c in range(new))]
        wide = np.flatnonzero(own == int(np.argmax(scatter)))
        beyond = _along(points[wide]) > 0
        if max(scatter) < _ALIKE * len(points) or beyond.all() or not beyond.any():
            break
        own[wide[beyond]] = new
    centres = _means(points, own, np.empty((int(own.max()) + 1, points.shape[1]), np.float32))
    for _ in range(_ROUNDS):
        centres = _means(points, (points @ centres.T).argmax(axis=1), centres)
    return centres


def _along(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where the points lie along the direction in which they scatter most (power iteration), from their mean."""
    apart = points - points.mean(axis=0)
    direction = apart[int(np.square(apart).sum(axis=1).argmax())]
    for _ in range(_ROUNDS):
        direction = apart.T @ (apart @ direction)
        direction = direction / max(float(np.linalg.norm(direction)), 1e-30)
    return np.asarray(apart @ direction, np.float32)


def _means(points: NDArray[np.float32], own: NDArray[np.int64], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """The directions of the clusters' means; those of empty ones stay what they are."""
    sums = _belonging(own, len(before)).T @ points
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(np.where(lengths > 1e-12, sums / np.maximum(lengths, 1e-12), before), np.float32)


def _belonging(own: NDArray[np.int64], groups: int) -> NDArray[np.float32]:
    """float32[n, groups]: 1 where a point belongs to the group, else 0."""
    return np.asarray(own[:, None] == np.arange(groups), np.float32)
