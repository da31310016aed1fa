"""The embedding of a query, carried along by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from rag.encoders import TokenVectors, encode_both_queries
from rag.operators.base import Operator
from rag.operators.resources import Collection
from rag.operators.retrieval.dense import query_vectors
from rag.types import Query

__all__ = ["EmbedQuery", "query_tokens"]


class EmbedQuery(Operator, name="retrieval.embed_query", waits=True):
    """Embed the query once for all retrievals that follow.

    Uses the collection's own encoders; a query that carries a vector, or token vectors, keeps them. Pipelines put it in
    by themselves where several retrievals use one query.
    """

    tokens: bool = Field(
        False, description="also its token vectors, if the collection holds such: often in the same pass of the model"
    )

    def run(self, query: Query, collection: Collection) -> Query:
        return self.run_batch([query], collection)[0]

    def run_batch(self, query: list[Query], collection: Collection) -> list[Query]:
        if not self.tokens or not collection.has_tokens:
            return [replace(q, vector=v) for q, v in zip(query, query_vectors(query, collection), strict=True)]
        made = list(query)
        rows = [row for row, q in enumerate(query) if q.vector is None and q.tokens is None]
        if rows:
            texts = [query[row].text for row in rows]
            vectors, tokens = encode_both_queries(collection.encoder, collection.token_encoder, texts)
            for number, row in enumerate(rows):
                made[row] = replace(query[row], vector=vectors[number], tokens=tokens[number])
        vectors, tokens = query_vectors(made, collection), query_tokens(made, collection)
        return [replace(q, vector=vectors[row], tokens=tokens[row]) for row, q in enumerate(made)]


def query_tokens(queries: list[Query], collection: Collection) -> TokenVectors:
    """The token vectors that queries carry, and for the others those of the collection's encoder."""
    encoder = collection.token_encoder
    to_encode = [q.text for q in queries if q.tokens is None]
    encoded = encoder.encode_queries(to_encode)
    if len(to_encode) == len(queries):
        return encoded
    rest = iter(range(len(to_encode)))
    own = [encoded[next(rest)] if q.tokens is None else q.tokens for q in queries]
    offsets = np.cumsum([0, *map(len, own)], dtype=np.int64)
    vectors = np.concatenate([np.empty((0, encoder.dim), np.float32), *own])
    return TokenVectors(vectors, offsets, np.zeros((len(vectors), 2), np.int32))
