"""Weights of branches or passages from their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["softmax"]


def softmax(scores: Sequence[float], temperature: float) -> NDArray[np.float64]:
    """exp(s / temperature), divided by their sum; all equal when no score is a number."""
    values = np.array(scores, np.float64) / temperature
    if not np.isfinite(values).any():
        values = np.zeros(len(values))
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())
