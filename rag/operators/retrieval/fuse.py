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

__all__ = ["Fuse"]


class Fuse(Operator, name="retrieval.fuse"):
    """Join the hits of parallel branches into one ranking.

    `rrf`: the sum over branches of weight / (c + rank), rank from 1 (reciprocal rank fusion; Cormack, Clarke and
    Büttcher, SIGIR 2009). `weighted`: the sum of weight times score, each branch's scores first brought to 0..1 by its
    smallest and largest; a chunk that a branch did not find gets 0 from it. Equal scores are ordered by chunk id. The
    column `branch` says which branch ranked a chunk best. Raises InputError when there are not as many weights as
    branches, or when the hits come from different collections.
    """

    method: Literal["rrf", "weighted"] = Field("rrf", description="how scores are made comparable and added")
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
        gain = 1.0 / (self.c + rank) if self.method == "rrf" else np.concatenate([_to_unit(h.scores) for h in hits])
        ids, inverse = np.unique(all_ids, return_inverse=True)
        scores = np.bincount(inverse, weights=gain * weights[branch], minlength=len(ids)).astype(np.float32)
        best = np.lexsort((branch, rank, inverse))  # a chunk's best rank comes first among its occurrences
        first = np.searchsorted(inverse[best], np.arange(len(ids)))
        order = np.argsort(-scores, kind="stable")[: self.k]
        store = next((h.store for h in hits if h.store is not None), None)
        return Hits(ids[order], scores[order], {"branch": branch[best][first][order]}, store)

    def limited(self, k: int) -> Fuse:
        """This, keeping no more than k."""
        return self.model_copy(update={"k": k if self.k is None else min(self.k, k)})


def _to_unit(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores moved to 0..1; all 1 when they are equal."""
    if not len(scores):
        return np.zeros(0)
    low, high = float(scores.min()), float(scores.max())
    return np.ones(len(scores)) if high <= low else (scores.astype(np.float64) - low) / (high - low)
