"""What every vector index offers, whichever engine stands behind it."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag.index.filter import IdFilter

__all__ = ["Matches", "Metric", "VectorIndex"]

Metric: TypeAlias = Literal["ip", "cosine", "l2"]
"""ip: inner product; cosine: inner product of the unit vectors; l2: minus the squared Euclidean distance.

Scores are similarities: larger is nearer, for each of them."""


class Matches(NamedTuple):
    """What a search found, best first. Rows with fewer than k results are filled up with id -1 and score -inf."""

    ids: NDArray[np.int64]
    """int64[queries, k]"""
    scores: NDArray[np.float32]
    """float32[queries, k]"""


@runtime_checkable
class VectorIndex(Protocol):
    """Vectors under integer ids, searchable by similarity. Ties in score are broken by the smaller id."""

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        ...

    @property
    def metric(self) -> Metric: ...

    def __len__(self) -> int:
        """Vectors that can be found (added and not deleted)."""
        ...

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors float32[n, dim] under new ids int64[n] (each >= 0).

        Raises InputError, and adds nothing, for NaN or infinity, a wrong dimension, or an id that is there already.
        """
        ...

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids; returns how many were there."""
        ...

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        filter: IdFilter | NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> Matches:
        """The k nearest for each query float32[q, dim]; with `filter` (allowed ids, sorted, unique) among those only.

        `threads` 0 means all cores. Never fewer than k results when k vectors pass the filter.
        """
        ...
