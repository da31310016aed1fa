"""Whether one run is better than another by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InputError

__all__ = ["Interval", "bootstrap", "holm", "randomisation_test"]

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


class Interval(NamedTuple):
    """A mean, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: ArrayLike, *, level: float = 0.95, samples: int = 2000, seed: int = 0) -> Interval:
    """The mean of values float[n] with its percentile bootstrap interval (Efron 1979): n values are drawn with
    replacement `samples` times. For two runs on the same queries give their differences. NaN without values."""
    table = np.asarray(values, np.float64)
    if table.ndim != 1 or not 0 < level < 1:
        raise InputError(f"a bootstrap of values {table.shape} at level {level}, expected (n,) and 0 to 1")
    if not len(table):
        return Interval(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(table))
    blocks = [min(rows, samples - at) for at in range(0, samples, rows)]
    means = [table[generator.integers(0, len(table), (block, len(table)))].mean(axis=1) for block in blocks]
    low, high = np.quantile(np.concatenate(means), ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(table.mean()), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for making several comparisons (Holm 1979): each may be held against the level by itself."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected.tolist()
