"""Token pooling: fewer vectors a document, each the mean of tokens that say nearly the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.encoders.protocol import TokenVectors
from rag.errors import ConfigError

__all__ = ["check_factor", "pool"]


PIECE = 2048
"""Tokens that are clustered together at most: it takes 4 * PIECE**2 bytes, and time that grows in the same way."""


def pool(tokens: TokenVectors, factor: int) -> TokenVectors:
    """About one vector for every `factor` tokens of each text: clusters of tokens become their mean, at unit length.

    Clavié et al. 2024, "Reducing the footprint of multi-vector retrieval with minimal performance impact via token
    pooling" (arXiv:2409.14683): hierarchical clustering with Ward's criterion, down to ceil(tokens / factor) clusters.
    A cluster's span reaches from the begin of its first token to the end of its last. Tokens that stand for no
    characters, such as [CLS], stay as they are. A longer text is clustered in pieces of 2,048 tokens. Raises
    ConfigError for a factor below 1.
    """
    if check_factor(factor) == 1 or not len(tokens.vectors):
        return tokens
    vectors, spans, counts = [], [], []
    for begin, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        pooled = _pool(tokens.vectors[begin:end], tokens.spans[begin:end], factor)
        vectors.append(pooled[0])
        spans.append(pooled[1])
        counts.append(len(pooled[0]))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return TokenVectors(np.concatenate(vectors), offsets, np.concatenate(spans))


def check_factor(factor: int) -> int:
    """The factor; ConfigError below 1."""
    if factor < 1:
        raise ConfigError(f"a pool factor must be 1 or more, got {factor}", hint="1 keeps every token")
    return factor


def _pool(
    vectors: NDArray[np.float32], spans: NDArray[np.int32], factor: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The pooled vectors and spans of one text, in the order of each cluster's first token."""
    label = np.arange(len(vectors))
    words = np.flatnonzero(spans[:, 1] > spans[:, 0])
    for start in range(0, len(words), PIECE):
        piece = words[start : start + PIECE]
        label[piece] = piece[_ward(vectors[piece], -(-len(piece) // factor))]
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    pooled = np.zeros((len(first), vectors.shape[1]), np.float32)
    np.add.at(pooled, label, vectors)
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    merged = (np.bincount(label)[:, None] > 1) & (norms > 1e-6)  # opposite vectors cancel out
    pooled = np.where(merged, pooled / np.maximum(norms, 1e-6), vectors[first])
    begin, end = spans[first, 0], spans[first, 1]
    np.minimum.at(begin, label, spans[:, 0])
    np.maximum.at(end, label, spans[:, 1])
    return pooled, np.stack([begin, end], 1)


def _ward(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """For each unit vector, the first member of its cluster, after merging them into `count` clusters.

    Each step merges the two clusters whose union adds least to the squared distances from the means (Ward 1963), with
    the costs updated after Lance and Williams 1967. A merge never brings a cluster nearer to a third than the nearer of
    its halves was, so only rows whose nearest cluster has changed are searched again: O(n^2) in practice.
    """
    n = len(vectors)
    cost = 1.0 - vectors @ vectors.T  # a pair of unit vectors adds |a - b|^2 / 2
    np.fill_diagonal(cost, np.inf)
    size = np.ones(n, np.float32)
    nearest = cost.argmin(1)
    least = cost[np.arange(n), nearest]
    label = np.arange(n)
    for _ in range(n - count):
        a = int(least.argmin())
        a, b = sorted((a, int(nearest[a])))
        total = size[a] + size[b] + size
        row = ((size[a] + size) * cost[a] + (size[b] + size) * cost[b] - size * cost[a, b]) / total
        row[[a, b]] = np.inf
        cost[a], cost[:, a] = row, row
        cost[b], cost[:, b] = np.inf, np.inf
        size[a] += size[b]
        size[b] = 0
        least[b] = np.inf
        label[label == b] = a
        stale = (nearest == a) | (nearest == b)
        stale[a] = True
        stale = np.flatnonzero(stale & np.isfinite(least))
        nearest[stale] = cost[stale].argmin(1)
        least[stale] = cost[stale, nearest[stale]]
    return label
