"""How far a search has to look for the recall that is asked for: a curve that an index measures on itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Effort", "EffortCurve", "measure"]

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
    """Recall@10 by slack, and how many vectors were expanded, measured when the index held `vectors`."""

    vectors: int
    slacks: tuple[float, ...]
    recalls: tuple[float, ...]
    expanded: tuple[float, ...]

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> EffortCurve | None:
        """Out of a file; None when it was written while effort was still measured by windows."""
        if "slacks" not in saved:
            return None
        series = (tuple(map(float, saved[name])) for name in ("slacks", "recalls", "expanded"))
        return cls(int(saved["vectors"]), *series)

    def effort(self, recall: float) -> Effort | None:
        """What this recall takes, or None when nothing that was measured reaches it."""
        wanted = 1 - (1 - recall) * _MARGIN
        rising = np.maximum.accumulate(self.recalls)
        if wanted > rising[-1]:
            return None
        at = int(np.searchsorted(rising, wanted))
        part = 0.0 if at == 0 else (wanted - rising[at - 1]) / max(rising[at] - rising[at - 1], 1e-12)
        before = max(at - 1, 0)
        return Effort(
            *(series[before] + part * (series[at] - series[before]) for series in (self.slacks, self.expanded))
        )


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
        points.append((slack, float(same.sum()) / there, expanded))
        if points[-1][1] >= _ENOUGH:
            break
    slacks, recalls, counts = zip(*points, strict=True)
    return EffortCurve(vectors, slacks, recalls, counts)
