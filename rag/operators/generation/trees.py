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

    Nodes of all trees are numbered through; `roots` int64[trees]. A row goes from a node to `children[2 * node]` when
    its value of the node's `feature` is <= `value`, else to `children[2 * node + 1]`. A leaf is its own child, and adds
    `value`. All int64[nodes] and float32[nodes]; `depth` is the longest way to a leaf.
    """

    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float32]
    children: NDArray[np.int64]
    depth: int

    @classmethod
    def read(cls, tensors: Mapping[str, NDArray[np.generic]], name: str) -> Trees:
        """The trees stored under `name.`: nodes in preorder, feature -1 for a leaf, `right` relative to the node."""
        feature = tensors[f"{name}.feature"].astype(np.int64)
        here = np.arange(len(feature))
        inner = feature >= 0
        left = here + inner
        right = here + np.where(inner, tensors[f"{name}.right"].astype(np.int64), 0)
        level = np.zeros(len(feature), np.int64)
        for node in np.flatnonzero(inner):  # parents stand before their children
            level[left[node]] = level[right[node]] = level[node] + 1
        return cls(
            tensors[f"{name}.roots"].astype(np.int64),
            np.maximum(feature, 0),
            tensors[f"{name}.threshold"].astype(np.float32),
            np.stack([left, right], axis=1).ravel(),
            int(level.max(initial=0)),
        )

    def predict(self, rows: NDArray[np.float32], first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """float32[n] for rows float32[n, features]: the sum of trees `first` to `last` (all by default)."""
        roots = self.roots[first:last]
        values = np.ascontiguousarray(rows, np.float32).ravel()
        begin = (np.arange(len(rows)) * rows.shape[1])[:, None]
        node = np.tile(roots, (len(rows), 1))
        for _ in range(self.depth):
            goes_right = values.take(begin + self.feature.take(node)) > self.value.take(node)
            node = self.children.take(2 * node + goes_right)
        return np.asarray(self.value.take(node).sum(axis=1, dtype=np.float32))
