"""Comparing relevance filters on labelled queries, by cross-validation, and recommending one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rag.relevance import METHODS, CandidateLists, FittedMethod, Method, Recipe, fit, folds
from rag.relevance.measures import auroc, calibration_error, cut, pr_auc
from rag.relevance.thresholds import OperatingCurve
from rag.relevance.training import Progress

__all__ = ["Comparison", "MethodFigures", "compare"]

_AS_GOOD = 0.98
"""Share of the best PR AUC from which on a simpler method is as good."""


@dataclass(frozen=True)
class MethodFigures:
    """A method on queries that it was not fitted to.

    `pr_auc`: area under the pooled precision-recall curve. `filtered_at`: share of candidates removed where exactly the
    target recall is kept. What the threshold did that was set on other queries: `recall`, `precision`, `filtered`,
    `null` (queries left with nothing), `mrr`, `damaged` (queries that lose something relevant). `unanswerable`: AUROC
    of the best value, of queries as they are against the same ones with everything relevant removed. `ece`: expected
    calibration error of the probabilities.
    """

    method: Method
    pr_auc: float
    filtered_at: float
    recall: float
    precision: float
    filtered: float
    null: float
    mrr: float
    damaged: float
    unanswerable: float
    ece: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Figures of all methods, simplest first; the recommended one; and what each said of every candidate when its query
    was held out: `relevance` float32[n, k] for the candidates of `lists`."""

    queries: int
    relevant: int
    candidates: int
    target_recall: float
    figures: tuple[MethodFigures, ...]
    recommended: Method
    lists: CandidateLists
    relevance: dict[Method, NDArray[np.float32]]


def compare(
    lists: CandidateLists,
    *,
    methods: Sequence[Method] = METHODS,
    recipe: Recipe | None = None,
    target_recall: float = 0.95,
    parts: int = 4,
    progress: Progress | None = None,
) -> Comparison:
    """Fit and measure methods by cross-validation over queries: each part is judged by what the others taught.

    Means over the parts; the recommendation is the simplest method with a PR AUC of at least 98 % of the best one's.
    Raises what `rag.relevance.fit` raises.
    """
    recipe = recipe or Recipe()
    rows: dict[Method, list[MethodFigures]] = {name: [] for name in methods}
    said: dict[Method, list[NDArray[np.float32]]] = {name: [] for name in methods}
    held_out = []
    for number, (rest, held) in enumerate(folds(lists, parts, recipe.seed)):
        if progress is not None:
            progress("fitting", number, parts)
        model = fit(rest, encoder="", methods=methods, recipe=recipe)
        held_out.append(held)
        for name in methods:
            method = model.methods[name]
            rows[name].append(_figures(name, method, held, target_recall))
            said[name].append(method.relevance(method.scorer(held).values))
    figures = tuple(_mean(rows[name]) for name in METHODS if name in rows)  # which are in order, the simplest first
    best = max(one.pr_auc for one in figures)
    recommended = next(one.method for one in figures if one.pr_auc >= _AS_GOOD * best)
    joined = CandidateLists(
        np.concatenate([part.scores for part in held_out]),
        np.concatenate([part.counts for part in held_out]),
        labels=np.concatenate([part.judged for part in held_out]),
    )
    return Comparison(
        len(lists),
        int(lists.judged.sum()),
        int(lists.counts.sum()),
        target_recall,
        figures,
        recommended,
        joined,
        {name: np.concatenate(each) for name, each in said.items()},
    )


def _figures(name: Method, method: FittedMethod, lists: CandidateLists, target: float) -> MethodFigures:
    values, labels = method.scorer(lists).values, lists.judged
    gone = method.scorer(lists.without_relevant()).values
    exact = cut(values, labels, OperatingCurve.of(values, labels).at_recall(target))
    found = cut(values, labels, method.curve.at_recall(target))
    had = labels.any(axis=1)
    return MethodFigures(
        name,
        pr_auc(values, labels),
        exact.filtered,
        found.recall,
        found.precision,
        found.filtered,
        found.null,
        found.mrr,
        found.damaged,
        auroc(values[had].max(axis=1), gone[had].max(axis=1)),
        calibration_error(method.relevance(values)[lists.mask], labels[lists.mask]),
    )


def _mean(parts: Sequence[MethodFigures]) -> MethodFigures:
    names = [field.name for field in fields(MethodFigures)][1:]
    return MethodFigures(parts[0].method, *(float(np.nanmean([getattr(p, name) for p in parts])) for name in names))
