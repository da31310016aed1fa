"""What the retrievers share: answering a batch of queries with few calls, one for each distinct filter."""

from __future__ import annotations

from collections.abc import Callable

from rag.types import Hits, Query

__all__ = ["both_hold", "grouped_search"]


def grouped_search(
    queries: list[Query], own_filter: str | None, search: Callable[[list[int], str | None], list[Hits]]
) -> list[Hits]:
    """Hits for each query, by calling `search(rows, filter)` once for each distinct filter.

    The filter of a query and the operator's own both have to hold.
    """
    rows_of: dict[str | None, list[int]] = {}
    for row, query in enumerate(queries):
        rows_of.setdefault(both_hold(own_filter, query.filter), []).append(row)
    found: list[Hits] = [Hits()] * len(queries)
    for where, rows in rows_of.items():
        for row, hits in zip(rows, search(rows, where), strict=True):
            found[row] = hits
    return found


def both_hold(*expressions: str | None) -> str | None:
    """The filter that is passed where all of these are; None when there is none."""
    given = [expression for expression in expressions if expression]
    return " and ".join(f"({expression})" for expression in given) if len(given) > 1 else next(iter(given), None)
