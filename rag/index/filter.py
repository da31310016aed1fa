"""Filters that serve many searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import InputError
from rag.index.inputs import as_ids

__all__ = ["IdFilter", "allowed_ids", "prepared"]


class IdFilter:
    """Ids that a search may find, int64[m], sorted and unique, made ready once for any number of searches.

    An index keeps what the filter selects in it until the index changes, so the second search with the same filter
    costs nothing more than one without. Safe to use from several threads. Raises InputError for unsorted ids.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._ids = _sorted(ids)
        self._native = _native.Filter(self._ids)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The allowed ids, int64[m]."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"IdFilter({len(self)} ids)"


def allowed_ids(filter: Any | None) -> NDArray[np.int64] | None:
    """The ids of a filter, int64[m], sorted and unique; None lets all pass."""
    if filter is None:
        return None
    return filter.ids if isinstance(filter, IdFilter) else _sorted(filter)


def prepared(filter: Any | None) -> _native.Filter | None:
    """A filter as the native engine takes it."""
    if filter is None:
        return None
    return filter._native if isinstance(filter, IdFilter) else _native.Filter(_sorted(filter))


def _sorted(ids: Any) -> NDArray[np.int64]:
    array = as_ids(ids, "filter ids")
    if np.any(array[1:] <= array[:-1]):
        raise InputError("filter ids are not sorted and unique", hint="pass numpy.unique(ids)")
    return array
