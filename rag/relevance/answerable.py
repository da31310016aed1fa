"""Whether anything in a list is relevant: what its shape says, where no hit alone says enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.relevance.lists import CandidateLists
from rag.relevance.logistic import fit_logistic
from rag.relevance.summaries import moments
from rag.relevance.thresholds import OperatingCurve

__all__ = ["Answerable"]

_L2 = 1e-3
_PLACES = (0, 1, 4, 9)
_FEATURES = len(_PLACES) + 5


@dataclass(frozen=True, eq=False)
class Answerable:
    """Logistic regression on the shape of a list: first, second, fifth, tenth and last score, mean, spread, how many
    standard deviations the best lies above the mean, and above the next.

    It learns from lists as they are and the same ones with everything relevant taken out, so that its sigmoid is a
    probability at even odds. `weights` float32[features + 1], the offset last; `curve` is of questions that it has not
    seen, where recall is the share of those with something relevant that pass.
    """

    weights: NDArray[np.float32]
    curve: OperatingCurve

    def __post_init__(self) -> None:
        if self.weights.shape != (_FEATURES + 1,):
            raise ValueError(f"weights of shape {self.weights.shape}, expected {(_FEATURES + 1,)}")

    @classmethod
    def fit(cls, train: CandidateLists, held_out: CandidateLists) -> Answerable:
        """Fit to labelled lists; those without anything relevant do not count, since it may only not be labelled."""
        table, answered = _pairs(train)
        mean, spread = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-6)
        weights = fit_logistic((table - mean) / spread, answered, _L2)
        slopes = weights[:-1] / spread
        final = np.append(slopes, weights[-1] - slopes @ mean).astype(np.float32)
        table, answered = _pairs(held_out)
        values = (table @ final[:-1] + final[-1]).astype(np.float32)
        return cls(final, OperatingCurve.of(values[:, None], answered[:, None]))

    def __call__(self, lists: CandidateLists) -> NDArray[np.float32]:
        """Log-odds float32[n] that something in a list is relevant; -inf for an empty list."""
        values = _features(lists) @ self.weights[:-1] + self.weights[-1]
        return np.where(lists.counts > 0, values, np.float32(-np.inf))


def _pairs(lists: CandidateLists) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features of lists with something relevant, as they are and without it, and which of these they are."""
    had = lists.take(np.flatnonzero(lists.judged.any(axis=1)))
    tables = [_features(part).astype(np.float64) for part in (had, had.without_relevant())]
    return np.concatenate(tables), np.repeat([True, False], len(had))


def _features(lists: CandidateLists) -> NDArray[np.float32]:
    """float32[n, _FEATURES]; a list of fewer than ten goes on with its last score, an empty one is zeros."""
    if not lists.scores.shape[1]:
        return np.zeros((len(lists), _FEATURES), np.float32)
    mean, spread = moments(lists)
    last = np.maximum(lists.counts - 1, 0)[:, None]
    at = np.take_along_axis(lists.scores, np.concatenate([np.minimum(_PLACES, last), last], axis=1), axis=1)
    steps = [(at[:, :1] - mean) / spread, (at[:, :1] - at[:, 1:2]) / spread]
    return np.concatenate([at, mean, spread, *steps], axis=1)
