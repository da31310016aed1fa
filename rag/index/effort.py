"""How far a search has to look for the recall that is asked for: a curve that an index measures on itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Effort", "EffortCurve", "measure", "stand_ins"]

_SLACKS = tuple(round(float(slack), 5) for slack in 0.004 * 1.3 ** np.arange(22))
"""To be tried, in turn, until one finds practically everything."""

_ENOUGH = 0.9995
_MARGIN = 0.75
"""Real queries are harder than those measured with: this share of the misses that are allowed is aimed at."""


class Effort(NamedTuple):
    """A walk expands vectors up to `slack` (a share of the distance) farther off than the k-th best found so far.

    `expanded`: how many these are, on average.
    """

    slack: float
    expanded: float


@dataclass(frozen=True)
class EffortCurve:
    """Recall@10 by slack, never falling, and how many vectors were expanded, when the index held `vectors`."""

    vectors: int
    slacks: tuple[float, ...]
    recalls: tuple[float, ...]
    expanded: tuple[float, ...]

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> EffortCurve | None:
        """Out of a file; None when it was written while effort was still measured by windows."""
        if "slacks" not in saved:
            return None
        series = [tuple(map(float, saved[name])) for name in ("slacks", "recalls", "expanded")]
        if len({len(one) for one in series}) != 1 or not series[0] or list(series[1]) != sorted(series[1]):
            raise ValueError("the effort curve is none")
        return cls(int(saved["vectors"]), *series)

    def effort(self, recall: float) -> Effort | None:
        """What this recall takes, or None when nothing that was measured reaches it."""
        wanted = 1 - (1 - recall) * _MARGIN
        if wanted > self.recalls[-1]:
            return None
        # In plain Python: every search comes here, and a walk takes but microseconds.
        at = bisect_left(self.recalls, wanted)
        if at == 0:
            return Effort(self.slacks[0], self.expanded[0])
        part = (wanted - self.recalls[at - 1]) / (self.recalls[at] - self.recalls[at - 1])
        slack, expanded = self.slacks[at - 1], self.expanded[at - 1]
        return Effort(slack + part * (self.slacks[at] - slack), expanded + part * (self.expanded[at] - expanded))


def measure(
    search: Callable[[float], tuple[NDArray[np.int64], float]],
    truth: NDArray[np.int64],
    vectors: int,
    most: float,
) -> EffortCurve:
    """The curve of `search(slack)` against true neighbours int64[q, 10], up to so many vectors expanded.

    `search` gives ids int64[q, 10] or -1, and how many were expanded.
    """
    points: list[tuple[float, float, float]] = []
    there = max(int((truth >= 0).sum()), 1)
    for slack in _SLACKS:
        found, expanded = search(slack)
        same = (found[:, :, None] == truth[:, None, :]) & (truth[:, None, :] >= 0)
        if points and expanded > most:
            break
        reached = float(same.sum()) / there
        points.append((slack, max(reached, points[-1][1]) if points else reached, expanded))
        if points[-1][1] >= _ENOUGH:
            break
    slacks, recalls, counts = zip(*points, strict=True)
    return EffortCurve(vectors, slacks, recalls, counts)


def stand_ins(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand-ins for queries: between two vectors each, a little nearer to one.

    Queries are seldom like the vectors they look for. Recall with these grows with effort as it does for questions of
    another kind than the passages, where it grows slower than with vectors of the same kind.
    """
    between = np.asarray(0.55 * vectors + 0.45 * np.roll(vectors, 1, axis=0), dtype=np.float32)
    opposite = ~between.any(1)
    between[opposite] = vectors[opposite]
    return between
