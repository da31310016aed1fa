"""Ragged sets of tokens at random, and MaxSim by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ragged(NamedTuple):
    """Sets of tokens float32[t, dim]; set i is tokens[offsets[i]:offsets[i + 1]]."""

    tokens: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @property
    def sets(self) -> list[NDArray[np.float32]]:
        return np.split(self.tokens, self.offsets[1:-1])


def ragged(rng: np.random.Generator, lengths: Sequence[int], dim: int) -> Ragged:
    """Unit tokens around a few directions, as those of texts lie."""
    total = int(sum(lengths))
    topics = rng.standard_normal((8, dim))
    tokens = topics[rng.integers(8, size=total)] + 1.5 * rng.standard_normal((total, dim))
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    return Ragged(tokens.astype(np.float32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def brute_force(queries: Ragged, documents: Ragged) -> NDArray[np.float64]:
    """Scores float64[queries, documents]."""
    scores = [
        [(query.astype(np.float64) @ document.astype(np.float64).T).max(axis=1).sum() for document in documents.sets]
        for query in queries.sets
    ]
    return np.array(scores).reshape(len(queries.offsets) - 1, len(documents.offsets) - 1)


def rounded(queries: Ragged) -> NDArray[np.float64]:
    """How far a score may be off, float64[queries], when query tokens are rounded to 8 bits before they meet tokens of
    length 1 + a fifth at most: half a step a component."""
    steps = np.abs(queries.tokens).max(axis=1) / 127
    error = 1.2 * steps / 2 * np.sqrt(queries.tokens.shape[1])
    return np.array([error[a:b].sum() for a, b in zip(queries.offsets[:-1], queries.offsets[1:], strict=True)])
