"""What the retrievers share: answering a batch of queries with few calls, one for each distinct filter."""

from __future__ import annotations

from collections.abc import Callable

from rag.types import Hits, Query

__all__ = ["grouped_search"]


def grouped_search(
    queries: list[Query], own_filter: str | None, search: Callable[[list[int], str | None], list[Hits]]
) -> list[Hits]:
    """Hits for each query, by calling `search(rows, filter)` once for each distinct filter.

    The filter of a query and the operator's own both have to hold.
    """
    rows_of: dict[str | None, list[int]] = {}
    for row, query in enumerate(queries):
        parts = [f"({part})" for part in (own_filter, query.filter) if part]
        rows_of.setdefault(" and ".join(parts) or None, []).append(row)
    found: list[Hits] = [Hits()] * len(queries)
    for where, rows in rows_of.items():
        for row, hits in zip(rows, search(rows, where), strict=True):
            found[row] = hits
    return found
