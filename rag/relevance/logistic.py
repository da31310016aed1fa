"""Logistic regression of one bit, fitted by Newton's method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_logistic", "sigmoid"]

_ROUNDS = 100
_HALVINGS = 30


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probabilities float32 of logits, without overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)


def fit_logistic(features: NDArray[np.floating], labels: NDArray[np.bool_], l2: float = 1e-6) -> NDArray[np.float64]:
    """Weights float64[d + 1], the offset last, that minimise mean cross-entropy + l2 / 2 * |weights|².

    `features` [m, d], `labels` bool[m]. A step that does not make it smaller is halved, so that it always converges;
    the result does not depend on chance.
    """
    table = np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype=np.float64)
    target = labels.astype(np.float64)
    ridge = np.full(table.shape[1], l2)
    share = np.clip(target.mean(), 1e-6, 1 - 1e-6)
    weights = np.zeros(table.shape[1])
    weights[-1] = np.log(share / (1 - share))

    def loss(weights: NDArray[np.float64]) -> float:
        logits = table @ weights
        return float(np.mean(np.logaddexp(0, logits) - target * logits) + 0.5 * (ridge * weights**2).sum())

    now = loss(weights)
    for _ in range(_ROUNDS):
        chance = 0.5 + 0.5 * np.tanh(0.5 * (table @ weights))
        gradient = table.T @ (chance - target) / len(table) + ridge * weights
        curvature = (table * (chance * (1 - chance))[:, None]).T @ table / len(table) + np.diag(ridge + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        for _ in range(_HALVINGS):
            if (after := loss(weights - step)) <= now:
                break
            step /= 2
        else:
            break
        weights, before, now = weights - step, now, after
        if before - now < 1e-12:
            break
    return weights
