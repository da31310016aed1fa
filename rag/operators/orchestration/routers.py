"""Routers by keywords, by similarity to examples, by both, and by the metadata of what was found.

Each writes the channel `route`, which `Route` reads, and says by `route_names` what it may write, so that the ways can
be checked before anything runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from rag.operators.base import Operator
from rag.operators.orchestration.examples import ExampleIndexes
from rag.operators.orchestration.keywords import key_scores
from rag.operators.resources import Encoder
from rag.operators.signature import Channel
from rag.types import Hits, Query

__all__ = ["RouteByKeywords", "RouteByMetadata", "RouteBySimilarity", "RouteHybrid", "RouteName"]

RouteName: TypeAlias = Annotated[str, Channel("route")]
Texts: TypeAlias = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class RouteByKeywords(Operator, name="orchestration.route_by_keywords"):
    """Choose the route that has the largest share of the question's keywords.

    score_key = |K_j ∩ K'| / |K'|, where K' are the stems of the question's words without stop words, and K_j those of
    the route's keywords. Of equal scores the route named first counts; when no keyword is met, or the best score is
    below `least`, it is `default`. (Modular RAG, arXiv:2407.21059, section 3.6, metadata routing.)
    """

    routes: dict[str, Texts] = Field(description="keywords of each route", min_length=1)
    default: str = Field(description="the route for questions that meet no keyword")
    least: float = Field(0.0, ge=0, le=1, description="least share of the question's keywords")
    language: str = Field("english", description='stemming: a Snowball language, or "none"')

    def route_names(self) -> tuple[str, ...]:
        return (*self.routes, self.default)

    def run(self, query: Query) -> RouteName:
        scores = key_scores([query.text], self.routes, self.language)
        return _choose(scores, list(self.routes), self.default, max(self.least, _MET))[0]


class RouteBySimilarity(Operator, name="orchestration.route_by_similarity", waits=True):
    """Choose the route with the example sentence that is nearest to the question.

    The examples are encoded once and searched on the native index; similarity is the cosine. Of equal ones the route
    named first counts; when the best is below `similarity` it is `default`. (Modular RAG, arXiv:2407.21059, section
    3.6, semantic routing.)
    """

    routes: dict[str, Texts] = Field(description="example questions of each route", min_length=1)
    default: str = Field(description="the route for questions that are near no example")
    similarity: float = Field(0.3, ge=-1, le=1, description="least cosine to the nearest example")
    _examples: ExampleIndexes = PrivateAttr(default_factory=ExampleIndexes)

    def route_names(self) -> tuple[str, ...]:
        return (*self.routes, self.default)

    def run(self, query: Query, encoder: Encoder) -> RouteName:
        return self.run_batch([query], encoder)[0]

    def run_batch(self, query: list[Query], encoder: Encoder) -> list[str]:
        scores = self._examples.similarities([q.text for q in query], self.routes, encoder)
        return _choose(scores, list(self.routes), self.default, self.similarity)


class RouteHybrid(Operator, name="orchestration.route_hybrid", waits=True):
    """Choose the route by keywords and by similarity together.

    Its score is alpha * score_key + (1 - alpha) * the cosine to its nearest example, as in `RouteByKeywords` and
    `RouteBySimilarity`. Of equal scores the route named first counts; when the best is below `least` it is `default`.
    (Modular RAG, arXiv:2407.21059, section 3.6, hybrid routing.)
    """

    keywords: dict[str, Texts] = Field(description="keywords of each route", min_length=1)
    examples: dict[str, Texts] = Field(description="example questions of each route", min_length=1)
    default: str = Field(description="the route for questions that fit none")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the keywords; the rest is that of similarity")
    least: float = Field(0.2, ge=-1, le=1, description="least score")
    language: str = Field("english", description='stemming of keywords: a Snowball language, or "none"')
    _examples: ExampleIndexes = PrivateAttr(default_factory=ExampleIndexes)

    def route_names(self) -> tuple[str, ...]:
        return (*self.keywords, *self.examples, self.default)

    def run(self, query: Query, encoder: Encoder) -> RouteName:
        return self.run_batch([query], encoder)[0]

    def run_batch(self, query: list[Query], encoder: Encoder) -> list[str]:
        texts = [q.text for q in query]
        names = list(dict.fromkeys([*self.keywords, *self.examples]))
        by_key = key_scores(texts, self.keywords, self.language)
        by_example = self._examples.similarities(texts, self.examples, encoder)
        scores = np.zeros((len(texts), len(names)))  # a route without keywords, or without examples, has 0 for them
        scores[:, [names.index(name) for name in self.keywords]] += self.alpha * by_key
        scores[:, [names.index(name) for name in self.examples]] += (1 - self.alpha) * by_example
        return _choose(scores, names, self.default, self.least)


class RouteByMetadata(Operator, name="orchestration.route_by_metadata", waits=True):
    """Choose the route by the value that a metadata field has in most of the first hits.

    So questions about one kind of document can go a way of their own: another prompt, model or source. `routes` gives
    the route for a value, written as text. Of equally frequent values the one found first counts; without hits, or when
    most have no such value, it is `default`. (Modular RAG, arXiv:2407.21059, section 3.6.)
    """

    field: str = Field(min_length=1, description="name of the metadata field")
    routes: dict[str, str] = Field(description="route for each value of the field", min_length=1)
    default: str = Field(description="the route for all other values")
    k: int = Field(10, ge=1, le=1000, description="hits that are looked at")

    def route_names(self) -> tuple[str, ...]:
        return (*self.routes.values(), self.default)

    def run(self, hits: Hits) -> RouteName:
        values = [_as_text(chunk.metadata.get(self.field)) for chunk in hits.top(self.k).chunks()]
        if not values:
            return self.default
        return self.routes.get(Counter(values).most_common(1)[0][0], self.default)


_MET = np.nextafter(0.0, 1.0)  # the least score above none at all


def _choose(scores: NDArray[np.float64], names: Sequence[str], default: str, least: float) -> list[str]:
    """The best route of each row, or the default."""
    best = scores.argmax(axis=1)
    top = scores[np.arange(len(scores)), best]
    return [names[route] if score >= least else default for route, score in zip(best, top, strict=True)]


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
