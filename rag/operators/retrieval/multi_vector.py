"""Best chunks by late interaction."""

from __future__ import annotations

from pydantic import Field

from rag.index.recommend import RECALL
from rag.operators.resources import Collection
from rag.operators.retrieval.dense import query_vectors
from rag.operators.retrieval.embed_query import query_tokens
from rag.operators.retrieval.search import Retriever
from rag.types import Hits, Query

__all__ = ["MultiVector"]


class MultiVector(Retriever, name="retrieval.multi_vector", waits=True):
    """Find the chunks whose tokens fit the query's best (late interaction).

    The chunks nearest by single vectors are scored exactly by MaxSim: the sum, over the query's tokens, of the largest
    cosine with a token of the chunk. Where there are up to twice as many chunks, all are. Chunks without any
    token are not returned. Raises CollectionError when the collection holds no token vectors (`rag upgrade KB
    --multi-vector` adds them), ConfigError for a wrong filter. (Khattab and Zaharia 2020, arXiv:2004.12832.)
    """

    recall: float = Field(
        RECALL,
        gt=0,
        le=1,
        description="share of the nearest candidates to find, on average, where a graph is walked; 1 scores all chunks",
    )
    candidates: int = Field(200, ge=1, le=1_000_000, description="chunks that are scored by MaxSim; k at least")

    def run(self, query: Query, collection: Collection) -> Hits:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Hits]:
        carried = any(q.vector is not None or q.tokens is not None for q in query)
        return collection.search_multi_vector(
            query_tokens(query, collection) if carried else [q.text for q in query],
            self.k or max(len(collection), 1),
            vectors=query_vectors(query, collection) if carried else None,
            filter=self.filters(query),
            recall=self.recall,
            candidates=self.candidates,
        )

    def limited(self, k: int) -> MultiVector:
        """This, asking for no more than k out of the same candidates."""
        if self.k is None:
            return self.model_copy(update={"k": k, "recall": 1.0})
        return self.model_copy(update={"k": min(self.k, k), "candidates": max(self.candidates, self.k)})

    def embeds_query(self) -> bool:
        """Whether it embeds the query; it does, by vector and tokens."""
        return True

    def embeds_tokens(self) -> bool:
        """Whether it uses token vectors of the query; it does."""
        return True
