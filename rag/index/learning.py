"""What compressing codecs learn from a sample before they store anything: the mean, and a turn or a reduction.

- `lvq*`: the mean alone (Aguerrebere et al., PVLDB 2023, section 3).
- `rabitq*`: a random rotation, which spreads every vector evenly over its components (Gao and Long, SIGMOD 2024).
- `leanvec`: the directions that matter, as many as one cache line of 2-bit codes holds (208), then a rotation within
  them. Without queries these are the principal directions of the vectors; with a sample of queries, the pair of
  matrices that keeps inner products of queries and vectors best (`rag.index.reduction`).
- `pq`: 256 centroids for each 8 components, by k-means (`rag.index.product`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.index.product import choose, learn_centroids, product_rows
from rag.index.protocol import Metric
from rag.index.reduction import Reduction, reduced

__all__ = ["Learned", "learn", "learns"]

MOST_ROWS = 50_000
REDUCED = {"leanvec": 208, "leanvec4": 232}
_SEED = 20240101
_WIDE = 1024  # beyond it only the leading directions are worked out,
_WIDE_NUMBERS = 2**25  # from so many numbers
_ROUNDS, _SPARE = 6, 32


class Learned(NamedTuple):
    """`mean` float32[dim]; `base` and `query` float32[reduced, dim], for stored vectors and for queries, or None.

    `centroids` float32[parts, 256, 8] of a product codec, or None.
    """

    mean: NDArray[np.float32]
    base: NDArray[np.float32] | None
    query: NDArray[np.float32] | None
    centroids: NDArray[np.float32] | None = None


def learns(codec: str) -> bool:
    """Whether a codec needs `learn`."""
    return codec.startswith(("lvq", "rabitq", "leanvec", "pq"))


def learn(
    codec: str,
    metric: Metric,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32] | None = None,
    reduction: Reduction = "sphering",
) -> Learned:
    """Learn from vectors float32[n, dim] and perhaps queries float32[m, dim].

    From 50,000 vectors, for pq up to 65,536, chosen by a seed. Without queries the `reduction` of leanvec is pca. The
    vectors must be finite and, under cosine, of any length but zero. Deterministic.
    """
    rng = np.random.default_rng(_SEED)
    if codec == "pq":
        sample = _unit(choose(vectors, product_rows(vectors.shape[1]), rng), metric)
        middle = _float32(sample.mean(0, dtype=np.float64))
        return Learned(middle, None, None, learn_centroids(sample, middle, rng))
    sample = _unit(choose(vectors, MOST_ROWS, rng), metric)
    dim = sample.shape[1]
    mean = sample.mean(0, dtype=np.float64)
    if codec.startswith("lvq"):
        return Learned(_float32(mean), None, None)
    if codec.startswith("rabitq"):
        base = query = _rotation(dim, rng)
    else:
        centred = sample - mean.astype(np.float32)
        if queries is None and dim > _WIDE:
            base = query = _leading(centred[: max(_WIDE_NUMBERS // dim, REDUCED[codec])], REDUCED[codec], rng)
            return _turned(mean, base, query, rng)
        spread = (centred.T @ centred).astype(np.float64) / max(len(centred), 1)
        asked = None if queries is None or not len(queries) else _unit(choose(queries, MOST_ROWS, rng), metric)
        if asked is not None and metric == "l2":
            asked = asked - mean.astype(np.float32)
        count = min(REDUCED[codec], dim)
        if asked is None:
            base, query = reduced(spread, spread, count, "pca")
        else:
            moment = (asked.T @ asked).astype(np.float64) / len(asked)
            base, query = reduced(spread, moment, count, reduction)
        return _turned(mean, base, query, rng)
    return Learned(_float32(mean), _float32(base), _float32(query))


def _turned(
    mean: NDArray[np.float64], base: NDArray[np.float64], query: NDArray[np.float64], rng: np.random.Generator
) -> Learned:
    """With the directions mixed, so that each component of a code matters as much as any other."""
    turn = _rotation(len(base), rng)
    return Learned(_float32(mean), _float32(turn @ base), _float32(turn @ query))


def _leading(rows: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The directions [count, dim] in which rows vary most, by subspace iteration (Halko et al. 2011, algorithm 4.4).

    What it costs grows with the dimension, where that of all eigenvectors grows with its cube.
    """
    basis = np.linalg.qr(rng.standard_normal((rows.shape[1], count + _SPARE)).astype(np.float32))[0]
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    small = (rows @ basis).astype(np.float64)
    return np.asarray((basis @ np.linalg.eigh(small.T @ small)[1][:, ::-1][:, :count]).T, dtype=np.float64)


def _rotation(dim: int, rng: np.random.Generator) -> NDArray[np.float64]:
    turn, upper = np.linalg.qr(rng.standard_normal((dim, dim)))
    return np.asarray(turn * np.sign(np.diag(upper)), dtype=np.float64)


def _unit(rows: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    if metric != "cosine":
        return rows
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-300), dtype=np.float32)


def _float32(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)
