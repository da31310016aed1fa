"""Best chunks by their words."""

from __future__ import annotations

from pydantic import Field

from rag.operators.resources import Collection
from rag.operators.retrieval.search import Retriever
from rag.types import Hits, Query

__all__ = ["BM25"]


class BM25(Retriever, name="retrieval.bm25", waits=True):
    """Find the chunks that share rare words with the query (BM25, Lucene's variant).

    Chunks without any word of the query are not returned. Raises ConfigError for a wrong filter.
    (Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework: BM25 and Beyond".)
    """

    k1: float = Field(0.9, ge=0, le=10, description="how much a repeated word still adds; 0: only whether it occurs")
    b: float = Field(0.4, ge=0, le=1, description="how much long chunks are held back; 0: not at all")

    def run(self, query: Query, collection: Collection) -> Hits:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Hits]:
        k = self.k or max(len(collection), 1)
        return collection.search_lexical([q.text for q in query], k, filter=self.filters(query), k1=self.k1, b=self.b)
