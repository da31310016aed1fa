"""What token codecs learn from a sample of tokens.

Residual codes: a rotation, centroids, and how far tokens lie from them. The centroids are those of k-means (ColBERTv2:
Santhanam et al., NAACL 2022, section 3.3). The rotation is random, which spreads what is left of a token evenly over
its components (RaBitQ: Gao and Long, SIGMOD 2024).

Sign codes: the mean; a matrix that whitens what is beside it, half as much as it could (directions that vary no more
than the average keep most of their say), and rotates it at random; a matrix that leads back from signs; and the line
from the cosine with signs to the inner product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.index.multivector.kmeans import k_means, sampled, unit

__all__ = ["LearnedResiduals", "LearnedSigns", "LearnedTokens", "learn_tokens", "learned_form"]

CENTROIDS = 256
MOST_ROWS = 65_536
_ROUNDS = 8
_ROOM = 1.25  # for tokens that lie farther from their centroid than any of the sample
_FEW = 4096
_RUN = 8192
_SEED = 20240101
_ANY = 32
"""Tokens in all directions that are thought to have been seen besides the sample, which may be a single one."""
_DOCUMENT = 128
"""Tokens in which the best match of another one is looked for, as in a document."""
_PAIRED = 256
"""Tokens, and at most half as many documents, from which the line of sign codes is learned."""


class LearnedResiduals(NamedTuple):
    """`base` float32[dim, dim], orthonormal rows; `centroids` float32[n, dim]; `spread`: the largest root mean square
    of a residual's components."""

    base: NDArray[np.float32]
    centroids: NDArray[np.float32]
    spread: float

    @staticmethod
    def shapes(dim: int) -> Mapping[str, tuple[int, ...]]:
        """Of the arrays; -1: any number."""
        return {"base": (dim, dim), "centroids": (-1, dim)}


class LearnedSigns(NamedTuple):
    """`mean` float32[dim]; the code of a token is the signs of `base` float32[dim, dim] times what is beside the mean,
    of which `inverse` float32[dim, dim] times the signs is the best linear estimate. The inner product with a unit
    vector q is estimated to be `slope` * cosine + `mean_slope` * q·mean + `constant`, for the cosine of the signs with
    `base` times (q - mean)."""

    mean: NDArray[np.float32]
    base: NDArray[np.float32]
    inverse: NDArray[np.float32]
    slope: float
    mean_slope: float
    constant: float

    @staticmethod
    def shapes(dim: int) -> Mapping[str, tuple[int, ...]]:
        """Of the arrays; -1: any number."""
        return {"mean": (dim,), "base": (dim, dim), "inverse": (dim, dim)}


LearnedTokens: TypeAlias = LearnedResiduals | LearnedSigns


def learned_form(codec: str) -> type[LearnedTokens] | None:
    """What a codec needs from `learn_tokens`: None if it learns nothing."""
    if codec == "sign":
        return LearnedSigns
    return LearnedResiduals if codec.startswith("residual") else None


def learn_tokens(codec: str, tokens: NDArray[np.float32]) -> LearnedTokens:
    """Learn from finite tokens float32[t, dim] of any length but zero, of which up to 65,536 are chosen by a seed.

    There are 256 centroids, or one for every 32 tokens when these are few. Deterministic.
    """
    rng = np.random.default_rng(_SEED)
    sample = unit(sampled(tokens, MOST_ROWS, rng))
    return _signs(sample, rng) if codec == "sign" else _residuals(sample, rng)


def _rotation(dim: int, rng: np.random.Generator) -> NDArray[np.float64]:
    turn, upper = np.linalg.qr(rng.standard_normal((dim, dim)))
    return np.asarray(turn * np.sign(np.diag(upper)), dtype=np.float64)


# Residual codes


def _residuals(sample: NDArray[np.float32], rng: np.random.Generator) -> LearnedResiduals:
    base = _rotation(sample.shape[1], rng).astype(np.float32)
    turned = sample @ base.T
    centroids = k_means(turned, int(np.clip(len(turned) // 32, 1, CENTROIDS)), rng, _ROUNDS)
    left = np.concatenate([part - centroids[_nearest(part, centroids)] for part in _parts(turned)])
    spread = _ROOM * float(np.sqrt(np.square(left).mean(1).max()))
    if len(sample) < _FEW:  # they say little about those to come, which may lie at a right angle to all of them
        spread = max(spread, np.sqrt(2 / len(base)))
    return LearnedResiduals(np.ascontiguousarray(base), centroids, float(np.float32(spread)))


def _nearest(rows: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(np.argmax(rows @ centroids.T - np.square(centroids).sum(1) / 2, axis=1), np.int64)


def _parts(rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [rows[first : first + _RUN] for first in range(0, len(rows), _RUN)]


# Sign codes


def _signs(sample: NDArray[np.float32], rng: np.random.Generator) -> LearnedSigns:
    count, dim = sample.shape
    mean = sample.sum(axis=0, dtype=np.float64) / (count + _ANY)
    beside = (sample - mean).astype(np.float32)
    squares = sum(((part.T @ part).astype(np.float64) for part in _parts(beside)), _ANY / dim * np.eye(dim))
    variances, axes = np.linalg.eigh(squares / (count + _ANY))
    variances = np.maximum(variances, 0)
    whitening = 1 / np.sqrt(variances / variances.mean() + 1)
    turn = _rotation(dim, rng)

    # For normal variables, E[x sign(z)] is their covariance times sqrt(2 / (pi E[z²])), and the signs have the
    # correlations of z, 2/pi times as large, besides noise of variance 1 - 2/pi, evenly in all directions.
    said = whitening * np.sqrt(2 / np.pi / (variances * whitening**2).mean())
    back = variances * said / (variances * said**2 + 1 - 2 / np.pi)

    learned = LearnedSigns(
        mean.astype(np.float32),
        np.ascontiguousarray((axes * whitening @ turn).T, np.float32),
        np.ascontiguousarray(axes * back @ turn, np.float32),
        *(1.0, 0.0, 0.0),
    )
    slope, mean_slope, constant = _line(sample, learned, rng)
    return learned._replace(slope=slope, mean_slope=mean_slope, constant=constant)


def _line(sample: NDArray[np.float32], learned: LearnedSigns, rng: np.random.Generator) -> tuple[float, float, float]:
    """The line that fits best how well tokens are matched in the documents of others: the largest inner product over
    the largest cosine, since MaxSim takes the largest of what is estimated."""
    size = int(np.clip(len(sample) // 8, 1, _DOCUMENT))
    number = np.arange(len(sample)) // size  # of the piece that stands for a document
    pieces = rng.permutation(len(sample) // size)[: _PAIRED // 2]
    asked = rng.permutation(len(sample))[:_PAIRED]
    queries, rows = sample[asked], (pieces[:, None] * size + np.arange(size)).reshape(-1)
    turned = (queries - learned.mean) @ learned.base.T
    turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-30)
    signs = np.where((sample[rows] - learned.mean) @ learned.base.T > 0, 1, -1) / np.float32(np.sqrt(sample.shape[1]))

    def best(products: NDArray[np.floating]) -> NDArray[np.float64]:
        others = np.abs(number[asked][:, None] - pieces) > 1
        return np.asarray(products.reshape(len(asked), len(pieces), size).max(axis=2)[others], np.float64)

    cosines, products = best(turned @ signs.T), best(queries @ sample[rows].T)
    along = best(np.repeat((queries @ learned.mean)[:, None], len(rows), axis=1))
    known = np.stack([cosines, along, np.ones_like(along)], axis=1)
    # Without any pairs: that of tokens in all directions, whose signs are at a cosine of sqrt(2/pi).
    start = np.array([np.sqrt(np.pi / 2), 1, 0])
    step = np.linalg.solve(known.T @ known + np.eye(3), known.T @ (products - known @ start))
    slope, mean_slope, constant = (float(np.float32(x)) for x in start + step)
    return max(slope, 0.1), mean_slope, constant
