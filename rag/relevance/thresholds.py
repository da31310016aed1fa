"""Where to cut: recall and precision of all pairs of query and candidate together, by threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError

__all__ = ["OperatingCurve", "ranked_pairs"]

_POINTS = 1024


@dataclass(frozen=True, eq=False)
class OperatingCurve:
    """What each threshold gives: `thresholds` float32[m], falling, with `recall` and `precision` float32[m] of the
    pairs at or above it. Recall is relative to what was retrieved."""

    thresholds: NDArray[np.float32]
    recall: NDArray[np.float32]
    precision: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], labels: NDArray[np.bool_]) -> OperatingCurve:
        """Of values float32[n, k] (-inf where there is no candidate) and labels bool[n, k], one of them true."""
        threshold, hits, kept = ranked_pairs(values, labels)
        most = hits[-1]
        rises = np.flatnonzero(np.diff(hits, prepend=0))  # between two relevant pairs nothing is gained
        if len(rises) > _POINTS:
            rises = rises[np.unique(np.linspace(0, len(rises) - 1, _POINTS).round().astype(np.int64))]
        recall, precision = hits[rises] / most, hits[rises] / kept[rises]
        return cls(threshold[rises], recall.astype(np.float32), precision.astype(np.float32))

    def at_recall(self, target: float) -> float:
        """The largest threshold with at least this recall, 0 < target <= 1."""
        return float(self.thresholds[np.argmax(self.recall >= np.float32(target))])

    def at_precision(self, target: float) -> float:
        """The threshold of largest recall with at least this precision; ConfigError when none has it."""
        enough = np.flatnonzero(self.precision >= np.float32(target))
        if not len(enough):
            raise ConfigError(
                f"no threshold has a precision of {target:g}: the best is {float(self.precision.max()):.3f}",
                hint="ask for less, or for a recall",
            )
        return float(self.thresholds[enough[-1]])


def ranked_pairs(
    values: NDArray[np.float32], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Each distinct value of a pair, falling; how many relevant pairs are at or above it, and how many pairs."""
    there = np.isfinite(values)
    flat = values[there]
    order = np.argsort(-flat, kind="stable")
    ranked = flat[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, np.int64)
    found = np.cumsum(labels[there][order], dtype=np.int64)
    return ranked[ends], found[ends], ends + 1
