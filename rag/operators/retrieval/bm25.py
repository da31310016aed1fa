"""Best chunks by their words."""

from __future__ import annotations

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.resources import Collection
from rag.operators.retrieval.search import both_hold, filters_of
from rag.types import Hits, Query

__all__ = ["BM25"]


class BM25(Operator, name="retrieval.bm25", waits=True):
    """Find the chunks that share rare words with the query (BM25, Lucene's variant).

    Chunks without any word of the query are not returned. Raises ConfigError for a wrong filter.
    (Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework: BM25 and Beyond".)
    """

    k: int | None = Field(100, ge=1, description="hits to return at most, None for all")
    k1: float = Field(0.9, ge=0, le=10, description="how much a repeated word still adds; 0: only whether it occurs")
    b: float = Field(0.4, ge=0, le=1, description="how much long chunks are held back; 0: not at all")
    filter: str | None = Field(
        None, description='metadata expression to search within, e.g. year >= 2020 and lang == "en"'
    )

    def run(self, query: Query, collection: Collection) -> Hits:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Hits]:
        k = self.k or max(len(collection), 1)
        where = filters_of(query, self.filter)
        return collection.search_lexical([q.text for q in query], k, filter=where, k1=self.k1, b=self.b)

    def limited(self, k: int) -> BM25:
        """This, asking for no more than k."""
        return self.model_copy(update={"k": k if self.k is None else min(self.k, k)})

    def filtered(self, expression: str) -> BM25 | None:
        """This, searching within that filter as well, where it finds then what would be left of its hits; else None.

        That is so when it looks for all, or within that filter already.
        """
        if self.filter == expression:
            return self
        if self.k is not None:
            return None
        return self.model_copy(update={"filter": both_hold(self.filter, expression)})
