"""Hits that are near the query and unlike each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.index.neighbours import as_points
from rag.operators.base import Operator
from rag.operators.resources import Collection, check_one_collection
from rag.operators.retrieval.dense import query_vectors
from rag.types import Hits, Query

__all__ = ["MMR"]


class MMR(Operator, name="post_retrieval.mmr", waits=True):
    """Keep hits that are near the query and unlike those kept before (maximal marginal relevance).

    One after the other takes the hit with the largest `weight` · cos(query, hit) - (1 - `weight`) · cos(hit, nearest
    hit taken), by the collection's vectors; that value becomes its score. A cosine between hits below 0 counts as 0,
    so that scores only fall. What scored the hits before counts for nothing but the order of equals. (Carbonell and
    Goldstein, SIGIR 1998, "The use of MMR, diversity-based reranking".)
    """

    k: int = Field(8, ge=1, le=10_000, description="hits to keep")
    weight: float = Field(0.5, ge=0, le=1, description="lambda; 1: by relevance alone, 0: by difference alone")

    def run(self, query: Query, hits: Hits, collection: Collection) -> Hits:
        return self.run_batch([query], [hits], collection)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], collection: Collection) -> list[Hits]:
        check_one_collection(hits, collection)
        asked = [q for q, h in zip(query, hits, strict=True) if len(h)]
        vectors = iter(as_points(query_vectors(asked, collection), "cosine") if asked else ())
        return [self._select(next(vectors), h, collection) if len(h) else h for h in hits]

    def _select(self, query: NDArray[np.float32], hits: Hits, collection: Collection) -> Hits:
        vectors = as_points(collection.vectors(hits.ids), "cosine")
        relevance = self.weight * (vectors @ query)
        nearest = np.zeros(len(hits), np.float32)
        count = min(self.k, len(hits))
        rows, scores = np.empty(count, np.int64), np.empty(count, np.float32)
        for place in range(count):
            gain = relevance - (1 - self.weight) * nearest
            gain[rows[:place]] = -np.inf
            row = int(gain.argmax())
            rows[place], scores[place] = row, gain[row]
            np.maximum(nearest, vectors @ vectors[row], out=nearest)
        return hits.take(rows).with_scores(scores)

    def limited(self, k: int) -> MMR:
        """This, keeping no more than k."""
        return self.model_copy(update={"k": min(self.k, k)})
