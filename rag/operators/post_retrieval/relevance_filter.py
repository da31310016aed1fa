"""Hits that are relevant, and whether any is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rag.operators.base import Operator
from rag.operators.post_retrieval.relevance_files import relevance_model
from rag.operators.post_retrieval.score_lists import ScoreLists, score_lists
from rag.operators.resources import Collection
from rag.relevance import SIMPLE, CosineAdapter, FittedMethod, RelevanceModel, Scored
from rag.relevance.logistic import sigmoid
from rag.relevance.scorers import largest_gap_cut
from rag.types import Hits, Query

__all__ = ["Filtering", "RelevanceFilter"]

_READ_QUERY = ("adapter", "joint_adapter", "best")


@dataclass(frozen=True, slots=True)
class Filtering:
    """What was done to the hits of a query: how many came in and were kept; the largest value of one (None without
    hits) and the least that is kept, as the method gives them; and the parameters of the method for this query, such as
    slope a and offset b of an adapter. By a fitted model, also the relevance of the best hit, and how probable it is
    that anything in the list is relevant, at even odds, with the least probability that is let through (None where none
    was asked for)."""

    method: str
    n_in: int
    n_kept: int
    best: float | None
    threshold: float
    parameters: Mapping[str, float]
    relevance: float | None = None
    answerable: float | None = None
    least_answerable: float | None = None

    def why(self) -> str:
        """What was found, in words, for one who asked."""
        if not self.n_in:
            return "nothing was found"
        best = "" if self.relevance is None else f"best relevance {self.relevance:.2f}"
        if self.answerable is not None and self.least_answerable is not None:
            if self.answerable < self.least_answerable:
                told = f"chance of an answer {self.answerable:.2f}, below {self.least_answerable:.2f}"
                return f"nothing is relevant: {told}; {best}"
            best += f", chance of an answer {self.answerable:.2f}"
        told = f"{self.n_kept} of {self.n_in} hits are relevant" if self.n_kept else "nothing is relevant"
        return f"{told}: {best}" if best else told


class Filtered(NamedTuple):
    """The hits that are kept, the route "relevant" or "no_relevant", and how it came about."""

    hits: Hits
    route: Literal["relevant", "no_relevant"]
    filtering: Filtering


class RelevanceFilter(Operator, name="post_retrieval.relevance_filter"):
    """Keep the hits that are relevant, in their order; the route is "no_relevant" when none is.

    Made for hits as `scorer` says: `dense`, those of `Dense` with cosines; `bm25`; `maxsim`, of `MultiVector` or
    `MaxSimRerank`; `fused`, of `Fuse("probability")` over the first two; or what else a model was trained for. What is
    kept has the same score, also in the column `score_raw`, and in the column `relevance` its probability of being
    relevant, where a fitted model says so. The channel `filtering` tells what was done.

    One hit alone says little about whether there is an answer at all; the shape of the whole list says more. With
    `target_answered` the route is "no_relevant" too, and nothing but `min_keep` hits is left, when that says no.

    `method` is `adapter` (Rossi et al. 2024, arXiv:2408.04887: a network reads the query's embedding and says what a
    cosine means for it), `list_adapter` (it reads what the list of scores is like), `joint_adapter` (both),
    `truncation` (rank and shape of the list), `platt` (one probability for each score), `raw` (the score), `max` (its
    share of the list's best), `zscore` (standard deviations above the list's mean), `topk` (1 / rank), `gap` (the
    largest step down from here on), or `best`: the one that did best when the model was fitted. Adapters are fitted to
    dense hits alone.

    `model` is a file below the working directory, or RAG_FILES, or the name of one that `rag filter train` made in the
    collection. The threshold is the model's for `target_recall`, the share of what is relevant that is kept, or for
    `target_precision`, the share of what is kept that is relevant; or it is given: with a model as least `relevance`,
    without one as the least value of raw, max, zscore, topk or gap. `gap` without both cuts at the largest step.

    Raises NotFoundError without the model that is needed, EncoderMismatchError for the model of another encoder,
    ConfigError for a collection that does not score by cosine, InputError for scores that are no cosines or no
    numbers. Lists that are longer or shorter than those of the training are judged all the same, but not as well.
    """

    scorer: str = Field("dense", description="what scored the hits: dense, bm25, maxsim, fused, or another by name")
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
    target_answered: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the questions with an answer that is let through; None: all questions are",
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
        if self.model is not None or self.method not in SIMPLE or self.target_answered is not None:
            return True
        return self.threshold is None and (self.method != "gap" or self.target_precision is not None)

    def run(self, query: Query, hits: Hits, collection: Collection) -> Filtered:
        return self.run_batch([query], [hits], collection)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], collection: Collection) -> list[Filtered]:
        if not self._fitted:
            table = score_lists(query, hits, self.scorer, collection)
            scored = SIMPLE[self.method](table.lists)
            least = largest_gap_cut(scored.values) if self.threshold is None else np.float32(self.threshold)
            return self._filtered(hits, table, scored, least)
        model = relevance_model("default" if self.model is None else self.model, self.scorer, collection)
        fitted = model.method(self.method)
        reads_query = isinstance(fitted.scorer, CosineAdapter) and fitted.scorer.reads_query
        table = score_lists(query, hits, self.scorer, collection, vectors=reads_query)
        model.check(table.lists)
        return self._filtered(hits, table, fitted.scorer(table.lists), self._least(fitted), model, fitted)

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
        table: ScoreLists,
        scored: Scored,
        least: NDArray[np.float32] | np.float32,
        model: RelevanceModel | None = None,
        fitted: FittedMethod | None = None,
    ) -> list[Filtered]:
        values = scored.values
        passing = np.count_nonzero(values >= least, axis=1)  # values fall: what passes is the beginning
        best = values.max(axis=1, initial=-np.inf).tolist()
        thresholds = np.broadcast_to(least, (len(hits), 1))[:, 0].tolist()
        names, parameters = list(scored.parameters), [p.tolist() for p in scored.parameters.values()]
        relevance = None if fitted is None else fitted.relevance(values)
        likeliest = [] if relevance is None else relevance.max(axis=1, initial=0).tolist()
        if relevance is not None:
            relevance.flags.writeable = False  # so that hits need no copies of its rows
        answerable = least_answerable = None
        if model is not None and self.target_answered is not None:
            odds = model.answerable(table.lists)
            least_odds = np.float32(model.answerable.curve.at_recall(self.target_answered))
            passing = np.where(odds >= least_odds, passing, 0)
            answerable, least_answerable = sigmoid(odds).tolist(), float(sigmoid(np.atleast_1d(least_odds))[0])
        result = []
        for row, own in enumerate(hits):
            count = min(max(int(passing[row]), self.min_keep), len(own))
            rows = slice(count) if row not in table.unsorted else np.sort(table.unsorted[row][:count])
            scores = own.scores[rows]
            columns = {name: column[rows] for name, column in own.columns.items()} | {"score_raw": scores}
            if relevance is not None:
                columns["relevance"] = relevance[row, :count]
                if row in table.unsorted:
                    columns["relevance"] = columns["relevance"][np.argsort(table.unsorted[row][:count])]
            about = Filtering(
                self.method,
                len(own),
                count,
                best[row] if len(own) else None,
                thresholds[row],
                {name: column[row] for name, column in zip(names, parameters, strict=True)},
                likeliest[row] if likeliest and len(own) else None,
                None if answerable is None else answerable[row],
                least_answerable,
            )
            route: Literal["relevant", "no_relevant"] = "relevant" if passing[row] else "no_relevant"
            result.append(Filtered(Hits(own.ids[rows], scores, columns, own.store), route, about))
        return result

    def embeds_query(self) -> bool:
        """Whether it may need the query's embedding."""
        return self.embeds_tokens() or (self.scorer == "dense" and self.method in _READ_QUERY)

    def embeds_tokens(self) -> bool:
        """Whether it makes token vectors of the query, for their number."""
        return self.scorer == "maxsim"
