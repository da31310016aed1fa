"""The chunks that pass a filter, made ready once for every segment; and queries that have a filter each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index import IdFilter

__all__ = ["Selection", "grouped"]

T = TypeVar("T")


class _Part(Protocol):
    @property
    def ids(self) -> NDArray[np.int64]: ...


class Selection:
    """Chunks that a search may find, by their ids (sorted, unique).

    For each segment an `IdFilter` is kept, with which an index keeps what it selects: so from the second search on, a
    filter costs nothing. Safe to use from several threads; for the segments of one generation.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self.ids = ids
        self._own: dict[int, IdFilter] = {}

    def within(self, part: _Part) -> IdFilter:
        """Those of a segment; segments do not overlap."""
        first, last = int(part.ids[0]), int(part.ids[-1])
        own = self._own.get(first)
        if own is None:
            begin, end = np.searchsorted(self.ids, [first, last + 1])
            own = self._own.setdefault(first, IdFilter(self.ids[begin:end]))
        return own


def grouped(
    filters: str | Sequence[str | None] | None, queries: int, search: Callable[[NDArray[np.int64], str | None], list[T]]
) -> list[T]:
    """What `search(rows, filter)` finds for each of so many queries, called once for each distinct filter.

    `filters` is one for all queries, or one for each. InputError when their number is another.
    """
    if filters is None or isinstance(filters, str):
        return search(np.arange(queries), filters)
    if len(filters) != queries:
        raise InputError(f"{len(filters)} filters for {queries} queries", hint="give one for all, or one for each")
    rows_of: dict[str | None, list[int]] = {}
    for row, expression in enumerate(filters):
        rows_of.setdefault(expression, []).append(row)
    found: dict[int, T] = {}
    for expression, rows in rows_of.items():
        found.update(zip(rows, search(np.array(rows), expression), strict=True))
    return [found[row] for row in range(queries)]
