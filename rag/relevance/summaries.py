"""What a list of scores is like: numbers that tell how high its noise is and whether something stands out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.relevance.lists import CandidateLists

__all__ = ["SUMMARY", "moments", "standardised", "summary"]

_TOP = 10
_SHARES = (0.2, 0.5, 1.0)
SUMMARY = 2 + _TOP + len(_SHARES) + _TOP - 1
"""Numbers in a summary."""
_SMALLEST = np.float32(1e-4)
"""Least spread that is divided by: below, scores differ by rounding."""


def moments(lists: CandidateLists) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation float32[n, 1] of each list; the latter is 1 where the scores are all but equal."""
    count = np.maximum(lists.counts, 1).astype(np.float32)[:, None]
    mean = lists.scores.sum(axis=1, keepdims=True) / count
    off = lists.scores - mean
    if not lists.full:
        off *= lists.mask
    spread = np.sqrt(np.einsum("nk,nk->n", off, off)[:, None] / count)
    return mean, np.where(spread > _SMALLEST, spread, np.float32(1))


def standardised(lists: CandidateLists) -> NDArray[np.float32]:
    """float32[n, k]: how many standard deviations of its list a score lies above the list's mean."""
    mean, spread = moments(lists)
    return (lists.scores - mean) / spread


def summary(lists: CandidateLists) -> NDArray[np.float32]:
    """float32[n, SUMMARY]: mean and spread, the ten highest scores, those at 20, 50 and 100 % of the list, and the nine
    steps between the highest. A list of fewer than ten goes on with its last score; an empty one is zeros."""
    mean, spread = moments(lists)
    if not lists.scores.shape[1]:
        return np.zeros((len(lists), SUMMARY), np.float32)
    last = np.maximum(lists.counts - 1, 0)[:, None]
    shares = np.rint(np.asarray(_SHARES) * last).astype(np.int64)
    top = np.take_along_axis(lists.scores, np.minimum(np.arange(_TOP), last), axis=1)
    at = np.take_along_axis(lists.scores, shares, axis=1)
    return np.concatenate([mean, spread, top, at, top[:, :-1] - top[:, 1:]], axis=1)
