"""A small model that reads the shape of a score list and says where to cut it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.relevance.lists import CandidateLists
from rag.relevance.logistic import fit_logistic
from rag.relevance.scorers import Scored
from rag.relevance.summaries import moments

__all__ = ["Truncation"]

_L2 = 1e-4
_FEATURES = 8


@dataclass(frozen=True, eq=False)
class Truncation:
    """Logistic regression on rank, score and the steps around it, made not to rise along the list, so that a threshold
    is a cut: what BiCut and Choppy (Lien et al. 2019; Bahri et al. 2020, arXiv:2004.13012) do with larger networks.

    `weights` float32[features + 1], the offset last.
    """

    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weights.shape != (_FEATURES + 1,):
            raise ValueError(f"weights of shape {self.weights.shape}, expected {(_FEATURES + 1,)}")

    @classmethod
    def fit(cls, lists: CandidateLists) -> Truncation:
        """Fit to the labels of lists."""
        table = _features(lists)[lists.mask].astype(np.float64)
        mean, spread = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-6)
        weights = fit_logistic((table - mean) / spread, lists.judged[lists.mask], _L2)
        slopes = weights[:-1] / spread
        return cls(np.append(slopes, weights[-1] - slopes @ mean).astype(np.float32))

    def __call__(self, lists: CandidateLists) -> Scored:
        return Scored(lists.masked(self.logits(lists)))

    def logits(self, lists: CandidateLists) -> NDArray[np.float32]:
        """float32[n, k], never rising along a list; numbers without meaning where there is no candidate."""
        return np.minimum.accumulate(_features(lists) @ self.weights[:-1] + self.weights[-1], axis=1)


def _features(lists: CandidateLists) -> NDArray[np.float32]:
    """float32[n, k, _FEATURES]: what is known of each place of a list."""
    n, k = lists.scores.shape
    table = np.zeros((n, k, _FEATURES), np.float32)
    if not k:
        return table
    mean, spread = moments(lists)
    steps = (lists.scores[:, :-1] - lists.scores[:, 1:]) / spread * lists.mask[:, 1:]  # behind the last is nothing
    table[..., 0] = lists.scores
    table[..., 1] = (lists.scores - mean) / spread
    table[..., 2] = np.log(np.arange(1, k + 1, dtype=np.float32))
    table[:, :-1, 3] = steps
    table[:, 1:, 4] = steps
    table[..., 5] = mean
    table[..., 6] = (lists.scores[:, :1] - mean) / spread
    table[..., 7] = (lists.scores[:, :1] - lists.scores) / spread
    return np.where(lists.mask[..., None], table, np.float32(0))
