"""Chunks for each of the interests in a question or conversation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.index.mixture import Mixture, mix, shared_out
from rag.index.neighbours import as_points
from rag.index.recommend import RECALL
from rag.operators.base import Operator
from rag.operators.resources import Collection
from rag.operators.retrieval.dense import query_vectors
from rag.operators.retrieval.search import both_hold
from rag.types import Hits, Message, Query

__all__ = ["MixtureRetrieve"]


class MixtureRetrieve(Operator, name="retrieval.mixture", waits=True):
    """Find chunks for each of the interests that a question has, in proportion to their weight.

    The `seen` chunks nearest to the question, and to the earlier questions of the conversation in `memory`, are
    clustered; each cluster is an interest, whose vector is the question's, moved towards it. Each is searched for by
    itself, and the k hits are shared out by the interests' weights. Scores are weight / (2 rank - 1), which says
    nothing of relevance; the column `interest` is the number of the interest that found a hit, 0 the weightiest.
    Worth it where several things must be found, not as a default: where one interest rules, plain search finds more of
    it. After kNN-Embed (El-Kishky et al., arXiv:2205.06205). Raises ConfigError for a wrong filter.
    """

    k: int = Field(20, ge=1, le=10_000, description="hits to return; fewer when the collection or the filter has fewer")
    interests: int = Field(3, ge=1, le=32, description="most interests to tell apart; 1 is plain dense search")
    seen: int = Field(100, ge=1, le=10_000, description="nearest chunks of each question that tell interests apart")
    smoothing: float = Field(
        0.5, ge=0, le=1, description="0: a chunk counts for one interest alone; 1: for all that it is near to"
    )
    least: float = Field(0.05, ge=0, le=1, description="weight below which an interest is left out")
    earlier: int = Field(4, ge=0, le=100, description="earlier questions of the conversation that count as well")
    filter: str | None = Field(None, description="metadata expression to search within")
    recall: float = Field(RECALL, gt=0, le=1, description="share of the true nearest to find where a graph is walked")

    def run(self, query: Query, memory: list[Message] | None = None, *, collection: Collection) -> Hits:
        return self.run_batch([query], [memory], collection=collection)[0]

    def run_batch(
        self, query: list[Query], memory: list[list[Message] | None], *, collection: Collection
    ) -> list[Hits]:
        asked = [[*self._before(past), one] for one, past in zip(query, memory, strict=True)]
        filters = [both_hold(self.filter, one.filter) for one in query]
        counts = [len(own) for own in asked]
        vectors = query_vectors([one for own in asked for one in own], collection)
        each = [where for where, count in zip(filters, counts, strict=True) for _ in range(count)]
        near = collection.search_dense(vectors, self.seen, filter=each, recall=self.recall)
        mixtures, start = [], 0
        for count in counts:
            mixtures.append(self._mixture(vectors[start : start + count], near[start : start + count], collection))
            start += count
        parts = [where for where, own in zip(filters, mixtures, strict=True) for _ in own.shares]
        wanted = np.concatenate([own.vectors for own in mixtures]) if parts else vectors[:0]
        found = iter(collection.search_dense(wanted, self.k, filter=parts, recall=self.recall) if parts else ())
        return [self._hits([next(found) for _ in own.shares], own.shares, collection) for own in mixtures]

    def _before(self, memory: list[Message] | None) -> list[Query]:
        questions = [Query(turn.content) for turn in memory or () if turn.role == "user" and turn.content.strip()]
        return questions[max(len(questions) - self.earlier, 0) :]

    def _mixture(self, queries: NDArray[np.float32], near: list[Hits], collection: Collection) -> Mixture:
        owners = np.repeat(np.arange(len(near)), [len(hits) for hits in near])
        if not len(owners):
            return Mixture(queries[:0], np.empty(0, np.float32))
        vectors = collection.vectors(np.concatenate([hits.ids for hits in near]))
        return mix(
            as_points(queries, "cosine"),
            as_points(vectors, "cosine"),
            owners,
            components=self.interests,
            smoothing=self.smoothing,
            least=self.least,
        )

    def _hits(self, found: list[Hits], shares: NDArray[np.float32], collection: Collection) -> Hits:
        rows = np.full((len(found), self.k), -1, np.int64)
        for row, hits in zip(rows, found, strict=True):
            row[: len(hits)] = hits.ids
        ids, scores, interest = shared_out(rows, shares, self.k)
        return Hits(ids, scores, {"interest": interest}, collection)

    def limited(self, k: int) -> MixtureRetrieve:
        """This, returning no more than k."""
        return self.model_copy(update={"k": min(self.k, k)})

    def embeds_query(self) -> bool:
        """Whether it embeds the query; it does."""
        return True
