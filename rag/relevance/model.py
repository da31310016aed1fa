"""A fitted filter: methods with what turns their values into probabilities, and with the thresholds they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, InputError, did_you_mean
from rag.relevance.answerable import Answerable
from rag.relevance.lists import CandidateLists
from rag.relevance.logistic import fit_logistic, sigmoid
from rag.relevance.scorers import Scorer
from rag.relevance.thresholds import OperatingCurve

__all__ = ["ADAPTERS", "LARGEST", "METHODS", "FittedMethod", "Method", "RelevanceModel"]

Method: TypeAlias = Literal[
    "raw", "max", "zscore", "topk", "gap", "platt", "truncation", "adapter", "list_adapter", "joint_adapter"
]
METHODS: tuple[Method, ...] = get_args(Method)
ADAPTERS: tuple[Method, ...] = ("adapter", "list_adapter", "joint_adapter")
"""Adapters that read the query, the list of its scores, and both."""

LARGEST: Mapping[str, float] = {"dense": 1.001, "maxsim": 1.1}
"""What the scores of scorers that give cosines do not exceed; those of stored tokens are less exact."""

_LEAST_SLOPE = 1e-6


@dataclass(frozen=True, eq=False)
class FittedMethod:
    """A scorer with its calibration, relevance = sigmoid(slope · value + offset), and its operating curve on queries
    that it was not fitted to."""

    scorer: Scorer
    slope: float
    offset: float
    curve: OperatingCurve

    @classmethod
    def of(cls, scorer: Scorer, held_out: CandidateLists) -> FittedMethod:
        """Calibrate a scorer on the labels of queries that it has not seen (Platt 1999)."""
        values = scorer(held_out).values
        slope, offset = fit_logistic(values[held_out.mask][:, None], held_out.judged[held_out.mask])
        return cls(scorer, max(float(slope), _LEAST_SLOPE), float(offset), OperatingCurve.of(values, held_out.judged))

    def relevance(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of relevance, 0 where the value is -inf."""
        return sigmoid(np.float32(self.slope) * values + np.float32(self.offset))

    def value_of(self, relevance: float) -> float:
        """The value that has this probability of relevance, above 0 and below 1."""
        return (float(np.log(relevance / (1 - relevance))) - self.offset) / self.slope


@dataclass(frozen=True, eq=False)
class RelevanceModel:
    """Fitted methods for the hits of one scorer in the collection of one encoder, as retrieved `k` at a time.

    `encoder` is its fingerprint; `scorer` names what scored the hits: "dense" (cosines), "bm25", "maxsim" (divided by
    the number of the query's tokens), "fused" (log-odds), or another. `best` is the method with the largest PR AUC on
    held-out queries; `answerable` tells whether anything in a list is relevant. `about` tells how it was fitted, as
    JSON values.
    """

    encoder: str
    scorer: str
    k: int
    best: Method
    methods: Mapping[Method, FittedMethod]
    answerable: Answerable
    about: Mapping[str, Any]

    def method(self, name: Method | Literal["best"]) -> FittedMethod:
        """A fitted method; ConfigError when it was not fitted."""
        found = self.methods.get(self.best if name == "best" else name)
        if found is None:
            raise ConfigError(
                f"the relevance model has no method {name!r}",
                hint=did_you_mean(name, self.methods) or "fit it with `rag filter train`",
            )
        return found

    def check(self, lists: CandidateLists) -> None:
        """Raises InputError when scores cannot be those of the scorer."""
        worst = float(np.abs(lists.scores).max(initial=0))
        if worst > LARGEST.get(self.scorer, np.inf):
            raise InputError(
                f"scores up to {worst:.4g} are no cosines, which this relevance model of {self.scorer!r} reads",
                hint="filter right after what it was trained for, before anything else scores the hits",
            )
