"""Fitting all methods to labelled candidate lists, with queries held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.relevance.adapter import Base, Inputs
from rag.relevance.answerable import Answerable
from rag.relevance.lists import CandidateLists
from rag.relevance.mappings import Mapping
from rag.relevance.measures import pr_auc
from rag.relevance.model import METHODS, FittedMethod, Method, RelevanceModel
from rag.relevance.scorers import SIMPLE, Scorer
from rag.relevance.training import Progress, train_adapter
from rag.relevance.truncation import Truncation

__all__ = ["LEAST_QUERIES", "Recipe", "fit", "folds"]

LEAST_QUERIES = 20
"""Queries with a relevant candidate, below which nothing can be said."""

_KINDS: dict[Method, tuple[Inputs, Literal["cosine", "standardised", "truncation"]]] = {
    "adapter": ("query", "cosine"),
    "list_adapter": ("scores", "standardised"),
    "joint_adapter": ("both", "truncation"),
}
"""What an adapter reads, and what it maps."""


@dataclass(frozen=True)
class Recipe:
    """How adapters are made: the mapping, whether in the magnitude-invariant form (see `Encoding`), which was no better
    than the plain one on the collections of `benchmarks/relevance_filter.py`, units and epochs at most; and the seed,
    which also deals out the queries."""

    mapping: Mapping = "linear"
    invariant: bool = False
    hidden: int = 256
    epochs: int = 100
    seed: int = 0


def fit(
    lists: CandidateLists,
    *,
    encoder: str,
    scorer: str = "dense",
    methods: Sequence[Method] = METHODS,
    recipe: Recipe = Recipe(),
    progress: Progress | None = None,
) -> RelevanceModel:
    """Fit methods to labelled lists of the hits of one scorer (see `RelevanceModel`).

    Three fifths of the queries train, one ends the training, and one, which no method sees, calibrates probabilities,
    sets thresholds and tells which method is best. Methods that learn nothing are calibrated on all queries.

    Raises InputError with fewer than `LEAST_QUERIES` queries that have a relevant candidate, or without candidates that
    are not relevant; MissingExtraError when an adapter is asked for and there is no torch.
    """
    train, stop, held_out = (lists.take(rows) for rows in _dealt(lists, recipe.seed))
    fitted, quality = {}, {}
    for name in methods:
        learns = name in _KINDS or name == "truncation"
        method = FittedMethod.of(_scorer(name, train, stop, recipe, progress), held_out if learns else lists)
        fitted[name] = method
        quality[name] = pr_auc(method.scorer(held_out).values, held_out.judged)
    about = {
        "queries": len(lists),
        "relevant": int(lists.judged.sum()),
        "mapping": recipe.mapping,
        "invariant": recipe.invariant,
        "seed": recipe.seed,
        "pr_auc": {name: round(value, 4) for name, value in quality.items()},
    }
    best = max(fitted, key=lambda name: quality[name])
    answerable = Answerable.fit(train, held_out)
    return RelevanceModel(encoder, scorer, lists.scores.shape[1], best, fitted, answerable, about)


def folds(lists: CandidateLists, count: int, seed: int = 0) -> Iterator[tuple[CandidateLists, CandidateLists]]:
    """The lists of all other queries and those of a part, for each of `count` parts: cross-validation by query."""
    order = np.random.default_rng(seed).permutation(len(lists))
    for part in np.array_split(order, count):
        yield lists.take(np.setdiff1d(order, part)), lists.take(np.sort(part))


def _scorer(
    name: Method, train: CandidateLists, stop: CandidateLists, recipe: Recipe, progress: Progress | None
) -> Scorer:
    if name in _KINDS:
        inputs, of = _KINDS[name]
        base: Base = Truncation.fit(train) if of == "truncation" else of
        return train_adapter(
            train,
            stop,
            mapping=recipe.mapping,
            inputs=inputs,
            base=base,
            invariant=recipe.invariant,
            hidden=recipe.hidden,
            epochs=recipe.epochs,
            seed=recipe.seed,
            progress=progress,
        )
    if name == "truncation":
        return Truncation.fit(train)
    return SIMPLE["raw" if name == "platt" else name]  # every method is calibrated as Platt's is


def _dealt(lists: CandidateLists, seed: int) -> list[NDArray[np.int64]]:
    """Rows of the three parts; queries with a relevant candidate are dealt out evenly."""
    has = lists.judged.any(axis=1)
    if has.sum() < LEAST_QUERIES:
        raise InputError(
            f"{has.sum()} of {len(lists)} queries have a relevant candidate, a relevance filter needs {LEAST_QUERIES}",
            hint="label more queries, retrieve more candidates, or train on synthetic questions",
        )
    if not (lists.mask & ~lists.judged).any():
        raise InputError(
            "all candidates are labelled relevant: there is nothing to tell apart",
            hint="label what was retrieved and is not relevant too, or leave it without a label",
        )
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(has)), rng.permutation(np.flatnonzero(~has))])
    turn = np.arange(len(order)) % 5
    return [np.sort(order[part]) for part in (turn < 3, turn == 3, turn == 4)]
