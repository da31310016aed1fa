"""Token pooling against hierarchical clustering by definition, and what it keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.encoders import TokenVectors
from rag.encoders.multivector import pool
from rag.errors import ConfigError


def tokens_of(*texts) -> TokenVectors:
    """Token vectors whose tokens are one character each."""
    vectors = np.concatenate(texts).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    spans = np.concatenate([np.stack([np.arange(len(t)), np.arange(1, len(t) + 1)], 1) for t in texts])
    return TokenVectors(vectors, np.cumsum([0, *map(len, texts)]).astype(np.int64), spans.astype(np.int32))


def scatter(vectors) -> float:
    return float(((vectors - vectors.mean(0)) ** 2).sum())


def ward(vectors, count: int) -> list[list[int]]:
    """By the definition: merge the pair of clusters that adds least to the scatter, until `count` are left."""
    vectors = vectors.astype(np.float64)
    clusters = [[i] for i in range(len(vectors))]
    while len(clusters) > count:
        costs = {
            (i, j): scatter(vectors[clusters[i] + clusters[j]])
            - scatter(vectors[clusters[i]])
            - scatter(vectors[clusters[j]])
            for i in range(len(clusters))
            for j in range(i)
        }
        i, j = min(costs, key=costs.get)
        clusters[j] += clusters.pop(i)
    return sorted(sorted(c) for c in clusters)


@given(n=st.integers(1, 24), factor=st.integers(2, 5), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_pooled_vectors_are_the_means_of_wards_clusters(n, factor, seed):
    tokens = tokens_of(np.random.default_rng(seed).normal(size=(n, 6)))
    pooled = pool(tokens, factor)
    clusters = ward(tokens.vectors, -(-n // factor))
    means = np.array([tokens.vectors[c].sum(0) for c in clusters])
    np.testing.assert_allclose(pooled.vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-4)
    assert pooled.spans.tolist() == [[c[0], c[-1] + 1] for c in clusters]


def test_each_text_is_pooled_by_itself():
    rng = np.random.default_rng(0)
    texts = [rng.normal(size=(n, 8)) for n in (7, 0, 1, 30)]
    together = pool(tokens_of(*texts), 3)
    assert np.diff(together.offsets).tolist() == [3, 0, 1, 10]
    for i, text in enumerate(texts):
        assert (together[i] == pool(tokens_of(text), 3)[0]).all()
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-5)


def test_tokens_without_characters_stay_as_they_are():
    tokens = tokens_of(np.random.default_rng(0).normal(size=(10, 8)))
    tokens.spans[[0, 1, 9]] = 0
    pooled = pool(tokens, 7)
    assert len(pooled.vectors) == 4
    assert (pooled.vectors[[0, 1, 3]] == tokens.vectors[[0, 1, 9]]).all()
    assert pooled.spans.tolist() == [[0, 0], [0, 0], [2, 9], [0, 0]]


def test_tokens_that_say_the_same_become_one():
    a, b = np.eye(4)[[0, 1]]
    pooled = pool(tokens_of(np.array([a, b, a, b, a, a])), 3)
    np.testing.assert_allclose(pooled.vectors, [a, b], atol=1e-6)


def test_opposite_tokens_do_not_vanish():
    pooled = pool(tokens_of(np.array([[1.0, 0], [-1, 0]])), 2)
    assert pooled.vectors.tolist() == [[1, 0]]


def test_a_factor_of_one_changes_nothing_and_less_is_refused():
    tokens = tokens_of(np.random.default_rng(0).normal(size=(5, 4)))
    assert pool(tokens, 1) is tokens
    with pytest.raises(ConfigError, match="pool factor must be 1 or more, got 0"):
        pool(tokens, 0)


def test_long_texts_are_pooled_in_pieces(monkeypatch):
    tokens = tokens_of(np.random.default_rng(1).normal(size=(70, 8)))
    monkeypatch.setattr("rag.encoders.multivector.pooling.PIECE", 20)
    pieces = [pool(tokens_of(tokens.vectors[i : i + 20]), 2) for i in range(0, 70, 20)]
    pooled = pool(tokens, 2)
    assert len(pooled.vectors) == 35
    np.testing.assert_allclose(pooled.vectors, np.concatenate([piece.vectors for piece in pieces]), atol=1e-6)
    assert pooled.spans[-1].max() == 70
