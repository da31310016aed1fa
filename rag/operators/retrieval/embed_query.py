"""The embedding of a query, carried along by it."""

from __future__ import annotations

from dataclasses import replace

from rag.operators.base import Operator
from rag.operators.resources import Collection
from rag.operators.retrieval.dense import query_vectors
from rag.types import Query

__all__ = ["EmbedQuery"]


class EmbedQuery(Operator, name="retrieval.embed_query", waits=True):
    """Embed the query once for all retrievals that follow.

    Uses the collection's own encoder; a query that carries a vector keeps it. Pipelines put it in by themselves where
    several retrievals use one query.
    """

    def run(self, query: Query, collection: Collection) -> Query:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Query]:
        return [replace(q, vector=v) for q, v in zip(query, query_vectors(query, collection), strict=True)]
