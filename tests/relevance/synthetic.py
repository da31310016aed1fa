"""Candidate lists whose noise level depends on the query, and is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.collection import Collection
from rag.relevance import CandidateLists, candidate_lists, fit, save_models

K, DIM = 100, 64


def with_relevance_models(collection: Collection, scorers: tuple[str, ...] = ("dense", "bm25", "fused")) -> None:
    """Give a collection models that were fitted to lists which have nothing to do with it."""
    lists = noisy_lists(300, 1)[0]
    made = [
        fit(lists, encoder=collection.encoder_fingerprint, scorer=scorer, methods=("raw", "truncation"))
        for scorer in scorers
    ]
    save_models(made, collection.path / "relevance" / "default.safetensors")


def noisy_lists(count: int, seed: int, *, constant: bool = False) -> tuple[CandidateLists, NDArray[Any]]:
    """Lists and their noise levels mu: 0.3 + 0.2 tanh(4 w·q) for unit embeddings q, or 0.3 for all.

    Of 100 candidates 2 to 5 are relevant, with cosines around mu + 0.15; those of others lie around mu. The direction w
    is the same for every seed.
    """
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((count, DIM))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    w = np.random.default_rng(12345).standard_normal(DIM)
    level = np.full(count, 0.3) if constant else 0.3 + 0.2 * np.tanh(4 * queries @ w / np.linalg.norm(w) * 8**0.5)
    relevant = np.arange(K) < rng.integers(2, 6, count)[:, None]
    scores = level[:, None] + 0.05 * rng.standard_normal((count, K)) + 0.15 * relevant
    return candidate_lists(scores, queries, relevant), level
