"""What residual codes learn from a sample of tokens: a rotation, centroids, and how far tokens lie from them.

The centroids are those of k-means (ColBERTv2: Santhanam et al., NAACL 2022, section 3.3). The rotation is random, which
spreads what is left of a token evenly over its components (RaBitQ: Gao and Long, SIGMOD 2024); `residual1` leaves out
the 16 directions in which tokens matter least, and keeps centroid and scale in their place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.index.multivector.kmeans import k_means, sampled, unit

__all__ = ["CENTROIDS", "LearnedTokens", "learn_tokens", "learns_tokens"]

CENTROIDS = 256
MOST_ROWS = 65_536
_LEFT_OUT = {"residual1": 16}  # directions
_ROUNDS = 8
_ROOM = 1.25  # for tokens that lie farther from their centroid than any of the sample
_FEW = 4096
_RUN = 8192
_SEED = 20240101


class LearnedTokens(NamedTuple):
    """`base` float32[reduced, dim], orthonormal rows; `centroids` float32[n, reduced]; `spread`: the largest root mean
    square of a residual's components."""

    base: NDArray[np.float32]
    centroids: NDArray[np.float32]
    spread: float


def learns_tokens(codec: str) -> bool:
    """Whether a codec needs `learn_tokens`."""
    return codec.startswith("residual")


def learn_tokens(codec: str, tokens: NDArray[np.float32]) -> LearnedTokens:
    """Learn from finite tokens float32[t, dim] of any length but zero, of which up to 65,536 are chosen by a seed.

    There are 256 centroids, or one for every 32 tokens when these are few. Deterministic.
    """
    rng = np.random.default_rng(_SEED)
    sample = unit(sampled(tokens, MOST_ROWS, rng))
    dim = sample.shape[1]
    base = _rotation(dim, rng)
    if (left_out := _LEFT_OUT.get(codec, 0)) and dim >= 4 * left_out:
        kept = dim - left_out
        _, axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))
        base = _rotation(kept, rng) @ axes[:, ::-1][:, :kept].T
    turned = sample @ base.T.astype(np.float32)
    centroids = k_means(turned, int(np.clip(len(turned) // 32, 1, CENTROIDS)), rng, _ROUNDS)
    left = np.concatenate([part - centroids[_nearest(part, centroids)] for part in _parts(turned)])
    spread = _ROOM * float(np.sqrt(np.square(left).mean(1).max()))
    if len(sample) < _FEW:  # they say little about those to come, which may lie at a right angle to all of them
        spread = max(spread, np.sqrt(2 / len(base)))
    return LearnedTokens(np.ascontiguousarray(base, np.float32), centroids, float(np.float32(spread)))


def _nearest(rows: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(np.argmax(rows @ centroids.T - np.square(centroids).sum(1) / 2, axis=1), np.int64)


def _parts(rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [rows[first : first + _RUN] for first in range(0, len(rows), _RUN)]


def _rotation(dim: int, rng: np.random.Generator) -> NDArray[np.float64]:
    turn, upper = np.linalg.qr(rng.standard_normal((dim, dim)))
    return np.asarray(turn * np.sign(np.diag(upper)), dtype=np.float64)
