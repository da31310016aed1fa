"""How many candidates must be compared exactly for the recall that is asked for: a curve measured on the index."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag import _native

__all__ = ["DEPTHS", "OTHERS", "CandidateCurve", "measure", "predicted", "stand_ins"]

DEPTHS = (10, 100)
"""Results of which recall is measured."""

_BUDGETS = tuple(round(10 * 1.5**step) for step in range(18))  # up to 9,853
_ENOUGH = 0.9995
_MARGIN = 0.5
"""Of the misses that are allowed, the share that is aimed at by stand-ins: real queries may be harder."""
_RUN = (12, 20)  # tokens of a stand-in for a query
_ITSELF = 0.55  # of what a token becomes
_RIDGE = 0.01
OTHERS = 16_384  # tokens to lead others to


@dataclass(frozen=True)
class CandidateCurve:
    """Recall@10 and recall@100 by the number of candidates, never falling, when the index held `documents`."""

    documents: int
    budgets: tuple[int, ...]
    recalls: tuple[tuple[float, ...], ...]
    """For each of `DEPTHS`."""
    real: bool = False
    """Whether it was measured with queries that were handed to `calibrate`, not with stand-ins for some."""

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> CandidateCurve:
        """Out of a file. Raises ValueError when it is no curve."""
        budgets = tuple(map(int, saved["budgets"]))
        recalls = tuple(tuple(map(float, one)) for one in saved["recalls"])
        series = [budgets, *recalls]
        if len(recalls) != len(DEPTHS) or not budgets or int(saved["documents"]) < 1:
            raise ValueError("the curve of candidates is none")
        if any(len(one) != len(budgets) or list(one) != sorted(one) for one in series):
            raise ValueError("the curve of candidates is none")
        return cls(int(saved["documents"]), budgets, recalls, bool(saved.get("real", False)))

    def candidates(self, k: int, recall: float, documents: int) -> int | None:
        """How many it takes among so many documents; None when nothing that was measured reaches this recall."""
        wanted = recall if self.real else 1 - (1 - recall) * _MARGIN
        depth = next((place for place, most in enumerate(DEPTHS) if k <= most), len(DEPTHS) - 1)
        recalls = self.recalls[depth]
        if wanted > recalls[-1]:
            return None
        at = next(place for place, reached in enumerate(recalls) if reached >= wanted)
        budget = float(self.budgets[at])
        if at:
            part = (wanted - recalls[at - 1]) / (recalls[at] - recalls[at - 1])
            budget = self.budgets[at - 1] + part * (self.budgets[at] - self.budgets[at - 1])
        more = max(documents / self.documents, 1.0) * max(k / DEPTHS[depth], 1.0)
        return max(math.ceil(budget * more), k)


def measure(
    first: Callable[[int], NDArray[np.int64]],
    truth: NDArray[np.int64],
    documents: int,
    real: bool = False,
) -> CandidateCurve:
    """The curve of the candidates that `first(budget)` gives, int64[q, budget] or -1, against the true best 100.

    `truth` int64[q, 100], best first, -1 where there are fewer.
    """
    budgets: list[int] = []
    recalls: list[list[float]] = [[] for _ in DEPTHS]
    there = [max(int((truth[:, :depth] >= 0).sum()), 1) for depth in DEPTHS]
    for budget in _BUDGETS:
        found = np.sort(first(min(budget, documents)), axis=1)
        met = _contained(truth, found) & (truth >= 0)
        budgets.append(budget)
        for depth, count, series in zip(DEPTHS, there, recalls, strict=True):
            reached = float(met[:, :depth].sum()) / count
            series.append(max(reached, series[-1]) if series else reached)
        if budget >= documents or min(series[-1] for series in recalls) >= _ENOUGH:
            break
    return CandidateCurve(documents, tuple(budgets), tuple(map(tuple, recalls)), real)


def stand_ins(
    tokens: NDArray[np.float32], offsets: NDArray[np.int64], others: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Stand-ins for queries: from each document a run of 12 to 20 tokens, or all it has, each led aside.

    Queries say what documents say in other words, and things besides. So each token is moved nearly half of the way to
    one of the tokens `others` float32[t, dim], which are of other documents: in half of the runs to the one most like
    it, in the rest to any. The document that a run is from must not be found with it, or every search would be easy.
    """
    lengths = np.minimum(np.diff(offsets), rng.integers(_RUN[0], _RUN[1] + 1, len(offsets) - 1))
    starts = offsets[:-1] + (rng.random(len(lengths)) * (np.diff(offsets) - lengths + 1)).astype(np.int64)
    places = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    chosen = tokens[np.repeat(starts - places[:-1], lengths) + np.arange(places[-1])]
    near = others[_native.CentroidIndex(others).nearest(chosen)[0]]
    alike = np.repeat(rng.permutation(len(lengths)) % 2 == 0, lengths)[:, None]
    to = np.where(alike, near, others[rng.integers(len(others), size=len(chosen))])
    between = _ITSELF * chosen + (1 - _ITSELF) * to
    size = np.linalg.norm(between, axis=1, keepdims=True)
    return np.asarray(np.where(size > 0.1, between / np.maximum(size, 0.1), chosen), np.float32), places


def predicted(
    known: NDArray[np.float32], given: NDArray[np.float32], means: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The vectors float32[m, v] that an encoder might give texts whose tokens have these `means` float32[m, dim].

    Learned, by least squares, from those it gave: `given` float32[n, v] where the mean was `known` float32[n, dim].
    """
    ridge = _RIDGE * len(known) / known.shape[1] * np.eye(known.shape[1])
    weights = np.linalg.solve(known.T.astype(np.float64) @ known + ridge, known.T.astype(np.float64) @ given)
    return np.asarray(means @ weights, np.float32)


def _contained(wanted: NDArray[np.int64], there: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each number of a row is in the same row of the other, which is sorted."""
    met = np.empty(wanted.shape, bool)
    for row, (numbers, known) in enumerate(zip(wanted, there, strict=True)):
        at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        met[row] = known[at] == numbers
    return met
