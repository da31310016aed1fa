"""Boosted regression trees, evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trees"]


@dataclass(frozen=True)
class Trees:
    """A sum of regression trees (Friedman 2001, "Greedy function approximation: a gradient boosting machine").

    Nodes of all trees are numbered through; `roots` int32[trees]. A node with `feature` >= 0 sends a row on to `left`
    when its value is <= `threshold`, else to `right`; one with `feature` -1 is a leaf that adds `threshold`.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    depth: int

    @classmethod
    def read(cls, tensors: Mapping[str, NDArray[np.generic]], name: str) -> Trees:
        """The trees stored under `name.`; the left child of a node stands right behind it."""
        feature = tensors[f"{name}.feature"].astype(np.int16)
        here = np.arange(len(feature), dtype=np.int32)
        inner = feature >= 0
        left = np.where(inner, here + 1, here).astype(np.int32)
        right = np.where(inner, here + tensors[f"{name}.right"].astype(np.int32), here).astype(np.int32)
        roots = tensors[f"{name}.roots"].astype(np.int32)
        level = np.zeros(len(feature), np.int32)
        for node in np.flatnonzero(inner):  # parents stand before their children
            level[left[node]] = level[right[node]] = level[node] + 1
        depth = int(level.max(initial=0))
        return cls(roots, np.maximum(feature, -1), tensors[f"{name}.threshold"].astype(np.float32), left, right, depth)

    def predict(self, rows: NDArray[np.float32], first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """float32[n] for rows float32[n, features]: the sum of trees `first` to `last` (all by default)."""
        roots = self.roots[first:last]
        node = np.broadcast_to(roots, (len(rows), len(roots))).copy()
        at = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            goes_left = rows[at, self.feature[node]] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return np.asarray(self.threshold[node].sum(axis=1, dtype=np.float32))
