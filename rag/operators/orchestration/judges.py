"""Judges by rule: each writes one bool for a loop, and a `route` for a conditional flow."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from rag.operators.base import Operator
from rag.operators.signature import Channel
from rag.types import Context, Hits, Query

__all__ = ["AllAsked", "Graded", "HasHits", "PassOn", "RelevantByScore"]


class Found(NamedTuple):
    """Whether enough was found, and the route "hits" or "no_hits"."""

    has_hits: bool
    route: Literal["hits", "no_hits"]


class HasHits(Operator, name="orchestration.has_hits"):
    """Judge whether there is something to answer from: enough `hits` with a score of at least `score`.

    Where there are no hits the passages of `context` count, such as rows of a database.
    """

    at_least: int = Field(1, ge=1, description="hits, or passages, that are enough")
    score: float | None = Field(None, description="least score of a hit that counts; any when left out")

    def run(self, hits: Hits | None = None, context: Context | None = None) -> Found:
        if hits is not None:
            count = len(hits) if self.score is None else int((hits.scores >= self.score).sum())
        else:
            count = len(context) if context is not None else 0
        enough = count >= self.at_least
        return Found(enough, "hits" if enough else "no_hits")


class Graded(NamedTuple):
    """The hits that are worth reading, and how good retrieval was."""

    hits: Hits
    route: Literal["correct", "ambiguous", "incorrect"]


class RelevantByScore(Operator, name="orchestration.relevant_by_score"):
    """Grade what was retrieved by its best score: correct, ambiguous or incorrect.

    The route is "correct" from `upper` on, "incorrect" below `lower` and without hits, "ambiguous" between. Hits
    below `lower` are left out. Bounds are on the scale of what scored the hits, such as a reranker or the cosine.
    (Corrective RAG, action trigger: Yan et al. 2024, arXiv:2401.15884, section 4.3.)
    """

    upper: float = Field(description="from this best score on retrieval is correct")
    lower: float = Field(description="below this best score retrieval is incorrect")

    @model_validator(mode="after")
    def _in_order(self) -> RelevantByScore:
        if self.lower > self.upper:
            raise ValueError(f"`lower` is {self.lower:g}, more than `upper`, which is {self.upper:g}")
        return self

    def run(self, hits: Hits) -> Graded:
        best = float(hits.scores.max()) if len(hits) else float("-inf")
        kept = hits.take(hits.scores >= self.lower)
        if not len(kept):
            return Graded(kept, "incorrect")
        return Graded(kept, "correct" if best >= self.upper else "ambiguous")


class AllAsked(Operator, name="orchestration.all_asked"):
    """Judge, in a loop over `NextQuery`, whether every one of `queries` had its round."""

    def run(self, queries: list[Query], round: int) -> Annotated[bool, Channel("all_asked")]:
        return round >= len(queries)


class PassOn(Operator, name="orchestration.pass_on"):
    """Leave everything as it is: the empty way of a conditional flow."""

    def run(self) -> None:
        return None
