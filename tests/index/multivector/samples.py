"""Token sets to search, and what an exhaustive search finds in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class TokenSets(NamedTuple):
    """Set i is tokens[offsets[i]:offsets[i + 1]]."""

    tokens: Floats
    offsets: Ids

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, i: int) -> Floats:
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]


def unit(rows: NDArray[np.floating]) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_sets(rng: np.random.Generator, lengths: list[int] | Ids, dim: int) -> TokenSets:
    """Token sets of these lengths, of directions drawn by chance."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenSets(unit(rng.normal(size=(int(offsets[-1]), dim))), offsets)


def mixtures(
    rng: np.random.Generator,
    documents: int,
    queries: int,
    lengths: tuple[int, int] = (20, 80),
    dim: int = 64,
    noise: float = 2.5,
) -> tuple[TokenSets, TokenSets]:
    """Documents of five of 40 topics each, with tokens near these; queries of 16 tokens of a document and noise, so
    many times as long as the tokens."""
    topics = rng.normal(size=(40, dim))
    sizes = rng.integers(lengths[0], lengths[1] + 1, documents)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    own = rng.integers(0, len(topics), (documents, 5))
    topic = own[np.repeat(np.arange(documents), sizes), rng.integers(0, 5, offsets[-1])]
    docs = TokenSets(unit(topics[topic] + rng.normal(size=(int(offsets[-1]), dim))), offsets)
    asked = rng.integers(0, documents, queries)
    tokens = np.concatenate([docs.of(i)[rng.integers(0, sizes[i], 16)] for i in asked])
    noisy = unit(tokens + noise / np.sqrt(dim) * rng.normal(size=tokens.shape))
    return docs, TokenSets(noisy, np.arange(0, 16 * queries + 1, 16, dtype=np.int64))


def chamfer(queries: TokenSets, documents: TokenSets) -> NDArray[np.float64]:
    """float64[queries, documents]: the sum of the best inner products, by the definition."""
    best = np.maximum.reduceat(
        queries.tokens.astype(np.float64) @ documents.tokens.astype(np.float64).T, documents.offsets[:-1], axis=1
    )
    return np.add.reduceat(best, queries.offsets[:-1], axis=0)


def first_found(scores: NDArray[np.floating], truth: NDArray[np.float64], depth: int) -> float:
    """The share of queries whose true best document is among the first `depth` by these scores."""
    best = truth.argmax(axis=1)
    own = np.take_along_axis(scores, best[:, None], axis=1)
    return float(((scores > own).sum(axis=1) < depth).mean())
