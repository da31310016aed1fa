"""Ways to make the scores of candidates comparable between queries, that need no training; see `RelevanceFilter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rag.relevance.lists import CandidateLists
from rag.relevance.summaries import standardised

__all__ = ["SIMPLE", "Scored", "Scorer", "largest_gap_cut"]


@dataclass(frozen=True, eq=False)
class Scored:
    """Values float32[n, k], comparable between queries, not rising along a list, -inf where there is no candidate; and
    the parameters float32[n] that made them of each query's scores."""

    values: NDArray[np.float32]
    parameters: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


Scorer = Callable[[CandidateLists], Scored]


def _raw(lists: CandidateLists) -> Scored:
    """The score itself."""
    return Scored(lists.masked(lists.scores))


def _max(lists: CandidateLists) -> Scored:
    """The score as a share of the list's best, or itself where the best is not above 0."""
    best = lists.scores[:, 0] if lists.scores.shape[1] else np.zeros(len(lists), np.float32)
    shares = lists.scores / np.where(best > 0, best, np.float32(1))[:, None]
    return Scored(lists.masked(np.asarray(shares, np.float32)), {"best": best})


def _zscore(lists: CandidateLists) -> Scored:
    """Standard deviations above the mean of the list."""
    return Scored(lists.masked(standardised(lists)))


def _topk(lists: CandidateLists) -> Scored:
    """1 / rank: a threshold of 0.1 keeps the first ten."""
    reciprocal = 1 / np.arange(1, lists.scores.shape[1] + 1, dtype=np.float32)
    return Scored(lists.masked(np.broadcast_to(reciprocal, lists.scores.shape)))


def _gap(lists: CandidateLists) -> Scored:
    """The largest step down to a next score, from here on: a threshold keeps what stands before the last such step."""
    steps = np.zeros(lists.scores.shape, np.float32)
    steps[:, :-1] = lists.scores[:, :-1] - lists.scores[:, 1:]
    rows = np.flatnonzero(lists.counts)
    steps[rows, lists.counts[rows] - 1] = 0  # behind the last there is nothing
    largest = np.maximum.accumulate(steps[:, ::-1], axis=1)[:, ::-1]
    return Scored(lists.masked(largest))


def largest_gap_cut(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The threshold float32[n, 1] of each list by which it is cut at its largest step down."""
    return values[:, :1]


SIMPLE: Mapping[str, Scorer] = {"raw": _raw, "max": _max, "zscore": _zscore, "topk": _topk, "gap": _gap}
"""By the names of methods."""
