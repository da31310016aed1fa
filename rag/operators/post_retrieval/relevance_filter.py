"""Hits that are relevant, and whether any is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rag.errors import ConfigError, InputError
from rag.operators.base import Operator
from rag.operators.post_retrieval.relevance_files import relevance_model
from rag.operators.resources import Collection
from rag.operators.retrieval.dense import query_vectors
from rag.relevance import SIMPLE, CandidateLists, CosineAdapter, FittedMethod, Scored
from rag.relevance.scorers import largest_gap_cut
from rag.types import Hits, Query

__all__ = ["Filtering", "RelevanceFilter"]

_READ_QUERY = ("adapter", "joint_adapter", "best")


@dataclass(frozen=True, slots=True)
class Filtering:
    """What was done to the hits of a query: how many came in and were kept; the largest value of one (None without
    hits) and the least that is kept, as the method gives them; and the parameters of the method for this query, such as
    slope a and offset b of an adapter."""

    method: str
    n_in: int
    n_kept: int
    best: float | None
    threshold: float
    parameters: Mapping[str, float]


class Filtered(NamedTuple):
    """The hits that are kept, the route "relevant" or "no_relevant", and how it came about."""

    hits: Hits
    route: Literal["relevant", "no_relevant"]
    filtering: Filtering


class RelevanceFilter(Operator, name="post_retrieval.relevance_filter"):
    """Keep the hits that are relevant, in their order; the route is "no_relevant" when none is.

    Made for the hits of `Dense` with cosines. What is kept has the same score, also in the column `score_raw`, and in
    the column `relevance` its probability of being relevant, where a fitted model says so. The channel `filtering`
    tells what was done.

    `method` is `adapter` (Rossi et al. 2024, arXiv:2408.04887: a network reads the query's embedding and says what a
    cosine means for it), `list_adapter` (it reads what the list of scores is like), `joint_adapter` (both),
    `truncation` (rank and shape of the list), `platt` (one probability for each score), `raw` (the score), `max` (its
    share of the list's best), `zscore` (standard deviations above the list's mean), `topk` (1 / rank), `gap` (the
    largest step down from here on), or `best`: the one that did best when the model was fitted.

    `model` is a file below the working directory, or RAG_FILES, or the name of one that `rag filter train` made in the
    collection. The threshold is the model's for `target_recall`, the share of what is relevant that is kept, or for
    `target_precision`, the share of what is kept that is relevant; or it is given: with a model as least `relevance`,
    without one as the least value of raw, max, zscore, topk or gap. `gap` without both cuts at the largest step.

    Raises NotFoundError without the model that is needed, EncoderMismatchError for the model of another encoder,
    ConfigError for a collection that does not score by cosine, InputError for scores that are no cosines or no
    numbers. Lists that are longer or shorter than those of the training are judged all the same, but not as well.
    """

    method: Literal[
        "best",
        "adapter",
        "list_adapter",
        "joint_adapter",
        "truncation",
        "platt",
        "raw",
        "max",
        "zscore",
        "topk",
        "gap",
    ] = Field("best", description="how a score is judged")
    model: str | None = Field(
        None, description='name of a model in the collection, or a .safetensors file; "default" where one is needed'
    )
    threshold: float | None = Field(
        None, description="least relevance, 0 to 1, or without a model the least value of the method"
    )
    target_recall: float = Field(
        0.95, gt=0, le=1, description="where no threshold is given: share of the relevant hits that is kept"
    )
    target_precision: float | None = Field(
        None, gt=0, le=1, description="in place of a recall: share of the kept hits that is relevant"
    )
    min_keep: int = Field(0, ge=0, description="first hits that are kept in any case; the route stays no_relevant")

    @model_validator(mode="after")
    def _fits_together(self) -> RelevanceFilter:
        if self.threshold is not None and self.target_precision is not None:
            raise ValueError("give `threshold` or `target_precision`, one of them")
        if self._fitted and self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"`threshold` is {self.threshold:g}; with a model it is a relevance, between 0 and 1")
        return self

    @property
    def _fitted(self) -> bool:
        """Whether a fitted model is used."""
        if self.model is not None or self.method not in SIMPLE:
            return True
        return self.threshold is None and (self.method != "gap" or self.target_precision is not None)

    def run(self, query: Query, hits: Hits, collection: Collection) -> Filtered:
        return self.run_batch([query], [hits], collection)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], collection: Collection) -> list[Filtered]:
        if collection.metric != "cosine":
            raise ConfigError(
                f"relevance filters read cosines, and {collection.path} scores by {collection.metric!r}",
                hint="index into a collection with metric 'cosine'",
            )
        lists, unsorted = _lists(hits)
        if not self._fitted:
            scored = SIMPLE[self.method](lists)
            least = largest_gap_cut(scored.values) if self.threshold is None else np.float32(self.threshold)
            return self._filtered(hits, unsorted, lists, scored, least, None)
        model = relevance_model("default" if self.model is None else self.model, collection)
        model.check(lists)
        fitted = model.method(self.method)
        if len(lists) and isinstance(fitted.scorer, CosineAdapter) and fitted.scorer.reads_query:
            lists = CandidateLists(lists.scores, lists.counts, query_vectors(query, collection))
        return self._filtered(hits, unsorted, lists, fitted.scorer(lists), self._least(fitted), fitted)

    def _least(self, fitted: FittedMethod) -> np.float32:
        """The least value of a hit that is kept."""
        if self.threshold is not None:
            return np.float32(fitted.value_of(self.threshold))
        if self.target_precision is not None:
            return np.float32(fitted.curve.at_precision(self.target_precision))
        return np.float32(fitted.curve.at_recall(self.target_recall))

    def _filtered(
        self,
        hits: list[Hits],
        unsorted: Mapping[int, NDArray[np.int64]],
        lists: CandidateLists,
        scored: Scored,
        least: NDArray[np.float32] | np.float32,
        fitted: FittedMethod | None,
    ) -> list[Filtered]:
        values = scored.values
        passing = np.count_nonzero(values >= least, axis=1).tolist()  # values fall: what passes is the beginning
        best = values.max(axis=1, initial=-np.inf).tolist()
        thresholds = np.broadcast_to(least, (len(lists), 1))[:, 0].tolist()
        names, parameters = list(scored.parameters), [p.tolist() for p in scored.parameters.values()]
        relevance = None if fitted is None else fitted.relevance(values)
        result = []
        for row, own in enumerate(hits):
            count = min(max(passing[row], self.min_keep), len(own))
            kept = own.top(count) if row not in unsorted else own.take(np.sort(unsorted[row][:count]))
            columns = {"score_raw": kept.scores}
            if relevance is not None:
                columns["relevance"] = relevance[row, :count]
                if row in unsorted:
                    columns["relevance"] = columns["relevance"][np.argsort(unsorted[row][:count])]
            about = Filtering(
                self.method,
                len(own),
                count,
                best[row] if len(own) else None,
                thresholds[row],
                {name: column[row] for name, column in zip(names, parameters, strict=True)},
            )
            route: Literal["relevant", "no_relevant"] = "relevant" if passing[row] else "no_relevant"
            result.append(Filtered(kept.with_columns(**columns), route, about))
        return result

    def embeds_query(self) -> bool:
        """Whether it may need the query's embedding."""
        return self.method in _READ_QUERY


def _lists(hits: list[Hits]) -> tuple[CandidateLists, dict[int, NDArray[np.int64]]]:
    """The scores of hits as candidate lists, and, for those that are not in the order of their scores, that order."""
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
    inside = np.arange(1, scores.shape[1]) < counts[:, None]
    unsorted = {}
    for row in np.flatnonzero(((scores[:, 1:] > scores[:, :-1]) & inside).any(axis=1)).tolist():
        order = np.argsort(-scores[row, : counts[row]], kind="stable")
        scores[row, : counts[row]] = scores[row, order]
        unsorted[row] = order
    return CandidateLists(scores, counts), unsorted
