"""What every engine refuses, in the words of our own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index.inputs import as_ids, as_vectors
from rag.index.protocol import Metric

__all__ = ["check_dim", "checked_new", "checked_vectors"]

LONGEST = 1e18


def check_dim(dim: int, most: int) -> int:
    """The numbers a vector, from 1 to `most`."""
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= most:
        raise InputError(f"dim is {dim!r}, expected a whole number from 1 to {most}")
    return int(dim)


def checked_vectors(vectors: Any, dim: int, metric: Metric, what: str = "vectors") -> NDArray[np.float32]:
    """float32[n, dim] of finite numbers; under cosine at unit length.

    Raises InputError, naming the row, for NaN, infinity, a length beyond 1e18, and zeros under cosine.
    """
    matrix = as_vectors(vectors, dim, what)
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    if len(bad := np.flatnonzero(~np.isfinite(lengths))):
        raise InputError(f"{what}[{bad[0]}] holds NaN or infinity")
    if len(bad := np.flatnonzero(lengths > LONGEST)):
        raise InputError(f"{what}[{bad[0]}] has length {lengths[bad[0]]:.3g}, more than {LONGEST:g}")
    if metric != "cosine":
        return matrix
    if len(bad := np.flatnonzero(lengths == 0)):
        raise InputError(f"{what}[{bad[0]}] is all zeros, which has no direction", hint="cosine needs one")
    return np.asarray(matrix / lengths[:, None], np.float32)


def checked_new(ids: Any, count: int) -> NDArray[np.int64]:
    """int64[count] of new ids; InputError for another number of them, a negative one, and one given twice."""
    array = as_ids(ids)
    if len(array) != count:
        raise InputError(f"{len(array)} ids for {count} vectors")
    if len(array) and array.min() < 0:
        raise InputError(f"id {array.min()} is negative")
    unique, times = np.unique(array, return_counts=True)
    if len(unique) < len(array):
        raise InputError(f"id {unique[times > 1][0]} is given twice")
    return array
