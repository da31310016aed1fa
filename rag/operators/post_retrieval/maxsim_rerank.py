"""Hits in the order of late interaction."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rag.operators.base import Operator
from rag.operators.resources import Collection, check_one_collection
from rag.operators.retrieval.embed_query import query_tokens
from rag.types import Hits, Query

__all__ = ["MaxSimRerank"]


class MaxSimRerank(Operator, name="post_retrieval.maxsim_rerank", waits=True):
    """Reorder hits by late interaction: how well each token of the query fits some token of the chunk.

    Scores become the sum, over the query's tokens, of the largest cosine with a stored token of the chunk (MaxSim).
    Chunks without any token are left out; hits of a query without any keep their order. Raises CollectionError when
    the collection holds no token vectors (`rag upgrade KB --multi-vector` adds them), NotFoundError for hits that are
    not in it. (Khattab and Zaharia 2020, arXiv:2004.12832.)
    """

    k: int = Field(8, ge=1, le=10_000, description="hits to keep")
    depth: int = Field(
        200, ge=1, le=1_000_000, description="hits from the top that are scored; further ones are left out"
    )

    def run(self, query: Query, hits: Hits, collection: Collection) -> Hits:
        return self.run_batch([query], [hits], collection)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], collection: Collection) -> list[Hits]:
        check_one_collection(hits, collection)
        judged = [h.top(self.depth) for h in hits]
        tokens = query_tokens(query, collection)
        ids = np.full((len(judged), max(map(len, judged), default=0)), -1, np.int64)
        for row, own in zip(ids, judged, strict=True):
            row[: len(own)] = own.ids
        scores = collection.maxsim(tokens, ids)
        return [self._ranked(own, row[: len(own)], collection) for own, row in zip(judged, scores, strict=True)]

    def _ranked(self, hits: Hits, scores: np.ndarray, collection: Collection) -> Hits:
        without = np.isneginf(scores)
        if without.any():
            collection.chunks(hits.ids[without])  # raises for what is not there at all
            hits, scores = hits.take(~without), scores[~without]
        return hits.with_scores(scores).top(self.k)

    def limited(self, k: int) -> MaxSimRerank:
        """This, keeping no more than k."""
        return self.model_copy(update={"k": min(self.k, k)})

    def embeds_query(self) -> bool:
        """Whether it embeds the query; it does, by its tokens."""
        return True

    def embeds_tokens(self) -> bool:
        """Whether it uses token vectors of the query; it does."""
        return True
