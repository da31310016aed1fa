"""How good a filter is: measures over all pairs of query and candidate together, and by query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.relevance.thresholds import ranked_pairs

__all__ = ["Cut", "auroc", "calibration_error", "cut", "pr_auc", "reliability"]


def pr_auc(values: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Area under the pooled precision-recall curve, as average precision: the mean, over relevant pairs, of the
    precision at their value; equal values count as one step. NaN without a relevant pair."""
    _, hits, kept = ranked_pairs(values, labels)
    if not len(hits) or not hits[-1]:
        return float("nan")
    return float((np.diff(hits, prepend=0) * (hits / kept)).sum() / hits[-1])


@dataclass(frozen=True)
class Cut:
    """What a threshold does. `recall`, `precision` and `filtered` (the share of candidates that is removed) are pooled
    over pairs; `null` is the share of queries that are left with nothing, `mrr` the mean reciprocal rank of the first
    relevant candidate that is kept, 0 where none is. `damaged` is the share of queries that lose a relevant candidate,
    of those that had one, and `emptied` of those the share that loses all."""

    threshold: float
    recall: float
    precision: float
    filtered: float
    null: float
    mrr: float
    damaged: float
    emptied: float


def cut(values: NDArray[np.float32], labels: NDArray[np.bool_], threshold: float) -> Cut:
    """Measure a threshold on values float32[n, k] (-inf where there is no candidate, falling along a list)."""
    there, kept = np.isfinite(values), values >= threshold
    relevant, found = labels.sum(axis=1), (labels & kept).sum(axis=1)
    had = relevant > 0
    first = np.where(found > 0, 1 / (1 + (labels & kept).argmax(axis=1)), 0)
    return Cut(
        threshold,
        _share(found.sum(), relevant.sum()),
        _share(found.sum(), kept.sum()),
        1 - _share(kept.sum(), there.sum()),
        float(1 - kept.any(axis=1).mean()),
        float(first[had].mean()) if had.any() else float("nan"),
        _share((found < relevant).sum(), had.sum()),
        _share((had & (found == 0)).sum(), had.sum()),
    )


def auroc(positive: NDArray[np.floating], negative: NDArray[np.floating]) -> float:
    """The chance that a positive value is above a negative one; ties count half (Mann and Whitney 1947)."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(ordered))


def reliability(
    chances: NDArray[np.float32], labels: NDArray[np.bool_], bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean probability, share that is relevant, and number of pairs, for bins with equally many pairs each (those with
    equal probability together). `chances` and `labels` [m]."""
    order = np.argsort(chances, kind="stable")
    edges = chances[order][np.linspace(0, len(order) - 1, bins + 1).astype(np.int64)[1:-1]]
    which = np.searchsorted(np.unique(edges), chances, "right")
    count = np.bincount(which)
    some = count > 0
    mean, share = (np.bincount(which, weights=w)[some] / count[some] for w in (chances, labels))
    return mean, share, count[some]


def calibration_error(chances: NDArray[np.float32], labels: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error: the mean, over pairs, of how far a bin's probability is from its share of relevant
    pairs (Naeini et al. 2015), with bins of equally many pairs (Nguyen and O'Connor 2015, arXiv:1508.05154)."""
    mean, share, count = reliability(chances, labels, bins)
    return float((np.abs(mean - share) * count).sum() / count.sum())


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
