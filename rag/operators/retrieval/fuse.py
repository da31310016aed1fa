"""One ranking out of several."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.errors import InputError
from rag.operators.base import Operator
from rag.operators.resources import check_one_collection
from rag.types import Hits

__all__ = ["Fuse", "to_unit"]

_CERTAIN = 1e-6


class Fuse(Operator, name="retrieval.fuse"):
    """Join the hits of parallel branches into one ranking.

    `rrf`: the sum over branches of weight / (c + rank), rank from 1 (reciprocal rank fusion; Cormack, Clarke and
    Büttcher, SIGIR 2009). `weighted`: the sum of weight times score, each branch's scores first brought to 0..1 by its
    smallest and largest; a chunk that a branch did not find gets 0 from it. `probability`: the weighted mean of the
    log-odds of relevance that `Calibrate` wrote in each branch (logarithmic opinion pool; Genest and Zidek 1986; the
    order is that of naive Bayes); a chunk that a branch did not find is there as relevant as the last that it found,
    and a branch without hits says nothing. The scores are then log-odds.

    Equal scores are ordered by chunk id. The column `branch` says which branch ranked a chunk best. Raises InputError
    when there are not as many weights as branches, when the hits come from different collections, and when those of a
    branch have no `relevance`.
    """

    method: Literal["rrf", "weighted", "probability"] = Field(
        "rrf", description="how scores are made comparable and added"
    )
    c: float = Field(60, gt=0, description="rrf: how little the first ranks stand out")
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="one a branch; equal when left out"
    )
    k: int | None = Field(None, ge=1, description="hits to keep; all when left out")

    def run(self, hits: list[Hits]) -> Hits:
        weights = np.ones(len(hits)) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if len(weights) != len(hits):
            raise InputError(f"fuse: {len(weights)} weights for {len(hits)} branches", hint="give one weight a branch")
        check_one_collection(hits)
        if not hits:
            return Hits()
        all_ids = np.concatenate([h.ids for h in hits])
        branch = np.repeat(np.arange(len(hits)), [len(h) for h in hits])
        rank = np.concatenate([np.arange(1, len(h) + 1) for h in hits])
        offset = 0.0
        if self.method == "rrf":
            gain = 1.0 / (self.c + rank)
        elif self.method == "weighted":
            gain = np.concatenate([to_unit(h.scores) for h in hits])
        else:
            weights = weights * [len(h) > 0 for h in hits]
            weights /= max(float(weights.sum()), 1e-12)
            odds = [_log_odds(h, number) for number, h in enumerate(hits)]
            floors = [float(own.min(initial=np.inf)) if len(own) else 0.0 for own in odds]
            gain = np.concatenate(odds) - np.asarray(floors)[branch]  # beyond what a chunk has that was not found
            offset = float(weights @ floors)
        ids, inverse = np.unique(all_ids, return_inverse=True)
        sums = np.bincount(inverse, weights=gain * weights[branch], minlength=len(ids))
        scores = (sums + offset).astype(np.float32)
        best = np.lexsort((branch, rank, inverse))  # a chunk's best rank comes first among its occurrences
        first = np.searchsorted(inverse[best], np.arange(len(ids)))
        order = np.argsort(-scores, kind="stable")[: self.k]
        store = next((h.store for h in hits if h.store is not None), None)
        return Hits(ids[order], scores[order], {"branch": branch[best][first][order]}, store)

    def limited(self, k: int) -> Fuse:
        """This, keeping no more than k."""
        return self.model_copy(update={"k": k if self.k is None else min(self.k, k)})


def _log_odds(hits: Hits, branch: int) -> NDArray[np.float64]:
    """Of the probabilities of relevance of a branch's hits; none is quite 0 or 1."""
    if "relevance" not in hits.columns and len(hits):
        raise InputError(
            f"fuse: the hits of branch {branch} have no column 'relevance', whose probabilities are added",
            hint="put Calibrate(scorer=...) behind each retriever",
        )
    chances = np.clip(hits.columns.get("relevance", np.zeros(0)).astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return np.asarray(np.log(chances / (1 - chances)))


def to_unit(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores moved to 0..1; all 1 when they are equal."""
    if not len(scores):
        return np.zeros(0)
    low, high = float(scores.min()), float(scores.max())
    return np.ones(len(scores)) if high <= low else (scores.astype(np.float64) - low) / (high - low)
