"""Candidate lists: what retrieval returned for many queries, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InputError

__all__ = ["CandidateLists", "candidate_lists"]


@dataclass(frozen=True, eq=False)
class CandidateLists:
    """The candidates of n queries, best first, in rows that are filled up behind `counts`.

    `scores` float32[n, k], falling along the first `counts` int64[n] of each row and 0 behind them; `queries`
    float32[n, d], the embeddings of the queries, or None; `labels` bool[n, k], what is relevant, or None. Made and
    checked by `candidate_lists`.
    """

    scores: NDArray[np.float32]
    counts: NDArray[np.int64]
    queries: NDArray[np.float32] | None = None
    labels: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Queries."""
        return len(self.scores)

    @cached_property
    def full(self) -> bool:
        """Whether no row is filled up."""
        return bool((self.counts == self.scores.shape[1]).all())

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """bool[n, k]: where there is a candidate."""
        return np.asarray(np.arange(self.scores.shape[1]) < self.counts[:, None])

    @property
    def judged(self) -> NDArray[np.bool_]:
        """The labels, where they are needed; InputError without them."""
        if self.labels is None:
            raise InputError("these candidate lists have no labels", hint="pass labels to candidate_lists")
        return self.labels

    def masked(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values float32[n, k] with -inf where there is no candidate."""
        return values if self.full else np.where(self.mask, values, np.float32(-np.inf))

    def take(self, rows: NDArray[np.int64]) -> CandidateLists:
        """The lists of some queries."""
        queries = None if self.queries is None else self.queries[rows]
        labels = None if self.labels is None else self.labels[rows]
        return CandidateLists(self.scores[rows], self.counts[rows], queries, labels)

    def without_relevant(self) -> CandidateLists:
        """The same lists as if what is relevant had never been in the collection; their labels are all False."""
        kept = self.mask & ~self.judged
        lists = candidate_lists(self.scores, self.queries, mask=kept)
        return replace(lists, labels=np.zeros(kept.shape, bool))


def candidate_lists(
    scores: ArrayLike,
    queries: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> CandidateLists:
    """Check and order candidate lists: each row by falling score, what `mask` bool[n, k] leaves out at its end.

    `scores` [n, k], `queries` [n, d], `labels` [n, k] of bool or numbers of which those above 0 are relevant. Raises
    InputError for shapes that do not fit together and for scores or embeddings that are not finite numbers.
    """
    table = np.asarray(scores, np.float32)
    if table.ndim != 2:
        raise InputError(f"scores have shape {table.shape}, expected [queries, candidates]")
    there = np.ones(table.shape, bool) if mask is None else np.asarray(mask, bool)
    relevant = None if labels is None else np.asarray(labels) > 0
    for what, given in (("mask", there), ("labels", relevant)):
        if given is not None and given.shape != table.shape:
            raise InputError(f"{what} has shape {given.shape}, scores have {table.shape}")
    vectors = None if queries is None else np.asarray(queries, np.float32)
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(table)):
        raise InputError(f"query embeddings have shape {vectors.shape}, expected [{len(table)}, d]")
    if vectors is not None and not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise InputError(f"the embedding of query {row} holds values that are not finite")
    if (wrong := there & ~np.isfinite(table)).any():
        row, column = (int(i[0]) for i in np.nonzero(wrong))
        raise InputError(
            f"query {row} has the score {table[row, column]} at place {column}",
            hint="leave out, by the mask, candidates that were not scored",
        )
    order = np.argsort(np.where(there, -table, np.inf), axis=1, kind="stable")
    there = np.take_along_axis(there, order, axis=1)
    table = np.where(there, np.take_along_axis(table, order, axis=1), np.float32(0))
    if relevant is not None:
        relevant = np.take_along_axis(relevant, order, axis=1) & there
    return CandidateLists(table, there.sum(axis=1).astype(np.int64), vectors, relevant)
