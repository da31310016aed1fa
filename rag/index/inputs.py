"""Checks of what callers hand to an index, shared by every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError

__all__ = ["as_ids", "as_vectors", "check_count", "check_k"]

MAX_K = 2**31 - 1


def as_vectors(vectors: Any, dim: int, what: str = "vectors") -> NDArray[np.float32]:
    """float32[n, dim], C-contiguous; other real numbers are converted. Copies only what needs it."""
    array = np.asarray(vectors)
    if array.dtype == np.float32 and array.ndim == 2 and array.shape[1] == dim and array.flags.c_contiguous:
        return array  # at once: a single query takes less time than the checks below
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} have dtype {array.dtype}, expected float32")
    if array.ndim != 2 or array.shape[1] != dim:
        hint = f"one vector is {what}[None, :]" if array.ndim == 1 else None
        raise InputError(f"{what} have shape {array.shape}, expected (n, {dim})", hint=hint)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the engine refuses by name
        return np.ascontiguousarray(array, dtype=np.float32)


def as_ids(ids: Any, what: str = "ids") -> NDArray[np.int64]:
    """int64[n], C-contiguous."""
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InputError(f"{what} are {array.dtype} of shape {array.shape}, expected int64 of shape (n,)")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{what} reach {array.max()}, beyond int64")
    return np.ascontiguousarray(array, dtype=np.int64)


def check_k(k: int) -> int:
    """The number of results a query, from 1 to MAX_K."""
    if type(k) is int and 1 <= k <= MAX_K:
        return k
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_K:
        raise InputError(f"k is {k!r}, expected a whole number from 1 to {MAX_K}")
    return int(k)


def check_count(value: int, what: str) -> int:
    """A whole number that may be 0, which leaves the choice to the engine (threads: all cores)."""
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise InputError(f"{what} is {value!r}, expected a whole number >= 0")
    return int(value)
