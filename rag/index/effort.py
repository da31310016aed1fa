"""How far a search has to look for the recall that is asked for: a curve that an index measures on itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINDOWS", "EffortCurve", "measure"]

WINDOWS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280)
"""Windows to try, in turn, until one finds practically everything."""

_ENOUGH = 0.9995
_MARGIN = 0.75
"""Real queries are harder than those measured with: this share of the misses that are allowed is aimed at."""


@dataclass(frozen=True)
class EffortCurve:
    """Recall@10 by window, measured when the index held `vectors`."""

    vectors: int
    windows: tuple[int, ...]
    recalls: tuple[float, ...]

    def window(self, recall: float, k: int) -> int | None:
        """The window for this recall@k, or None when none that was measured reaches it."""
        wanted = 1 - (1 - recall) * _MARGIN
        rising = np.maximum.accumulate(self.recalls)
        if wanted > rising[-1]:
            return None
        # Between two windows recall grows with the logarithm of the window.
        logs = np.log(self.windows)
        at = int(np.searchsorted(rising, wanted))
        if at == 0:
            window = float(self.windows[0])
        else:
            part = (wanted - rising[at - 1]) / max(rising[at] - rising[at - 1], 1e-12)
            window = float(np.exp(logs[at - 1] + part * (logs[at] - logs[at - 1])))
        return int(np.ceil(window)) + max(k - 10, 0)


def measure(
    search: Callable[[int], NDArray[np.int64]], truth: NDArray[np.int64], vectors: int, windows: Sequence[int]
) -> EffortCurve:
    """The curve of `search(window)`, which gives ids int64[q, 10] or -1, against true neighbours of the same shape."""
    tried: list[int] = []
    recalls: list[float] = []
    there = max(int((truth >= 0).sum()), 1)
    for window in windows:
        found = search(window)
        same = (found[:, :, None] == truth[:, None, :]) & (truth[:, None, :] >= 0)
        tried.append(window)
        recalls.append(float(same.sum()) / there)
        if recalls[-1] >= _ENOUGH:
            break
    return EffortCurve(vectors, tuple(tried), tuple(recalls))
