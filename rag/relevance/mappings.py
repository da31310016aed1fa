"""Monotone mappings of a cosine to a logit of relevance (Rossi et al. 2024, arXiv:2408.04887, section 3)."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["EPSILON", "MAPPINGS", "Mapping", "apply", "basis", "constrained", "parameter_names", "softplus"]

Mapping: TypeAlias = Literal["linear", "sqrt", "quadratic", "power"]
MAPPINGS: tuple[Mapping, ...] = get_args(Mapping)

EPSILON = 1e-3
"""Least slope: what keeps a mapping strictly increasing, so that the order within a query stays."""


def parameter_names(mapping: Mapping) -> tuple[str, ...]:
    """What the parameters are called: slope a and offset b, and the exponent k of a power."""
    return ("a", "b", "k") if mapping == "power" else ("a", "b")


def softplus(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(1 + exp(x)) without overflow."""
    return np.asarray(np.logaddexp(np.float32(0), values))


def constrained(mapping: Mapping, free: NDArray[np.float32]) -> NDArray[np.float32]:
    """Parameters float32[n, p] of any numbers float32[n, p]: a by softplus above 0, k by a sigmoid between 0 and 2."""
    parameters = free.copy()
    parameters[:, 0] = softplus(free[:, 0]) + np.float32(EPSILON)
    if mapping == "power":
        parameters[:, 2] = 1 + np.tanh(free[:, 2] / 2)  # 2 / (1 + exp(-c)), without overflow
    return parameters


def apply(mapping: Mapping, x: NDArray[np.float32], parameters: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits float32[n, k] of x float32[n, k] by the `constrained` parameters float32[n, p] of each row.

    linear: a x + b; sqrt: sgn(x) a |x|^(1/2) + b; quadratic: sgn(x) a x² + b; power: sgn(x) a |x|^k + b, k in (0, 2).
    """
    exponent = parameters[:, 2:3] if mapping == "power" else None
    return basis(mapping, x, exponent) * parameters[:, :1] + parameters[:, 1:2]


def basis(mapping: Mapping, x: NDArray[np.float32], exponent: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The mapping with slope 1 and offset 0: odd and increasing, also where x is negative."""
    if mapping == "linear":
        return x
    if mapping == "sqrt":
        return np.asarray(np.copysign(np.sqrt(np.abs(x)), x))
    if mapping == "quadratic":
        return x * np.abs(x)
    return np.asarray(np.copysign(np.abs(x) ** exponent, x))
