"""Whether one run is better than another by more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InputError

__all__ = ["holm", "randomisation_test"]

BLOCK = 1 << 22  # signs drawn at a time


def randomisation_test(ours: ArrayLike, theirs: ArrayLike, *, samples: int = 10_000, seed: int = 0) -> float:
    """The p-value that the means of paired values float[n] differ, two-sided.

    The paired randomisation test (Smucker et al. 2007, "A comparison of statistical significance tests for information
    retrieval evaluation"): how often the mean difference is as large when each pair is swapped by chance. All swaps are
    tried where there are at most `samples` of them; otherwise that many are drawn. InputError where lengths differ.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"paired values have shapes {a.shape} and {b.shape}, expected two of (n,)")
    difference = a - b
    difference = difference[difference != 0]  # to swap equal values changes nothing
    n = len(difference)
    if n == 0:
        return 1.0
    reached = abs(difference.sum()) * (1 - 1e-12)
    if n < 63 and 2**n <= samples:
        swaps = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((abs((1 - 2 * swaps) @ difference) >= reached).mean())
    generator = np.random.default_rng(seed)
    extreme, left = 0, samples
    while left > 0:
        rows = min(left, max(1, BLOCK // n))
        signs: NDArray[np.int8] = generator.integers(0, 2, (rows, n), dtype=np.int8) * 2 - 1
        extreme += int((abs(signs @ difference) >= reached).sum())
        left -= rows
    return (extreme + 1) / (samples + 1)  # the observed order is one of the swaps


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for making several comparisons (Holm 1979): each may be held against the level by itself."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected.tolist()
