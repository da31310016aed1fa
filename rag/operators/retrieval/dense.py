"""Nearest chunks by embedding."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rag.index.recommend import RECALL
from rag.operators.resources import Collection
from rag.operators.retrieval.search import Retriever
from rag.types import Hits, Query

__all__ = ["Dense"]


class Dense(Retriever, name="retrieval.dense", waits=True):
    """Find the chunks whose embeddings are nearest to the query's.

    Encodes the query with the collection's own encoder, unless it carries a vector already. Scores are those of the
    collection's metric: larger is nearer. Raises ConfigError for a wrong filter. (Modular RAG, arXiv:2407.21059, 3.3.)
    """

    recall: float = Field(
        RECALL,
        gt=0,
        le=1,
        description="share of the true k nearest to find, on average, in a collection so large that a graph is walked; "
        "1 ranks all by the finest copy",
    )

    def run(self, query: Query, collection: Collection) -> Hits:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Hits]:
        vectors = query_vectors(query, collection)
        k = self.k or max(len(collection), 1)
        return collection.search_dense(vectors, k, filter=self.filters(query), recall=self.recall)

    def embeds_query(self) -> bool:
        """Whether it embeds the query; it does."""
        return True


def query_vectors(queries: list[Query], collection: Collection) -> np.ndarray:
    """float32[n, d]: the vectors that queries carry, and for the others those of the collection's encoder."""
    to_encode = [q.text for q in queries if q.vector is None]
    encoded = iter(collection.encoder.encode_queries(to_encode) if to_encode else ())
    return np.stack([next(encoded) if q.vector is None else q.vector for q in queries])
