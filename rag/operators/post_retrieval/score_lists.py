"""The scores of hits as candidate lists, in the form in which relevance models read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, InputError
from rag.operators.resources import Collection
from rag.operators.retrieval.dense import query_vectors
from rag.operators.retrieval.embed_query import query_tokens
from rag.relevance import CandidateLists
from rag.types import Hits, Query

__all__ = ["ScoreLists", "score_lists"]


@dataclass(frozen=True, eq=False)
class ScoreLists:
    """Candidate lists, and for the rows of hits that are not in the order of their scores that order (int64[k])."""

    lists: CandidateLists
    unsorted: dict[int, NDArray[np.int64]]

    def of_hits(self, row: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values float32[n] of the candidates of a row, in the order of its hits."""
        count = int(self.lists.counts[row])
        if row not in self.unsorted:
            return values[:count]
        ordered = np.empty(count, values.dtype)
        ordered[self.unsorted[row]] = values[:count]
        return ordered


def score_lists(
    queries: list[Query], hits: list[Hits], scorer: str, collection: Collection, *, vectors: bool = False
) -> ScoreLists:
    """The scores of each query's hits; with `vectors` the lists carry the embeddings of the queries.

    MaxSim is a sum over the query's tokens and is divided by their number: what is near each of them is relevant,
    however many there are. Raises InputError for scores that are not finite, ConfigError for dense hits of a collection
    that does not score by cosine.
    """
    if scorer == "dense" and collection.metric != "cosine":
        raise ConfigError(
            f"relevance filters read cosines, and {collection.path} scores by {collection.metric!r}",
            hint="index into a collection with metric 'cosine'",
        )
    counts = np.array([len(h) for h in hits], np.int64)
    if len(hits) and (counts == counts[0]).all():
        scores = np.stack([h.scores for h in hits])
    else:
        scores = np.zeros((len(hits), int(counts.max(initial=0))), np.float32)
        for row, own in enumerate(hits):
            scores[row, : len(own)] = own.scores
    if not np.isfinite(scores).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(scores)))
        raise InputError(
            f"hit {column} of query {row} has the score {scores[row, column]}",
            hint="filter hits by relevance before anything gives them scores that are no numbers",
        )
    if scorer == "maxsim" and len(hits):
        tokens = np.diff(query_tokens(queries, collection).offsets)
        scores /= np.maximum(tokens, 1).astype(np.float32)[:, None]
    inside = np.arange(1, scores.shape[1]) < counts[:, None]
    unsorted = {}
    for row in np.flatnonzero(((scores[:, 1:] > scores[:, :-1]) & inside).any(axis=1)).tolist():
        order = np.argsort(-scores[row, : counts[row]], kind="stable")
        scores[row, : counts[row]] = scores[row, order]
        unsorted[row] = order
    embeddings = query_vectors(queries, collection) if vectors and len(hits) else None
    return ScoreLists(CandidateLists(scores, counts, embeddings), unsorted)
