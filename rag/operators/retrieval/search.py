"""What the retrievers share: the filters that hold for each query."""

from __future__ import annotations

from rag.types import Query

__all__ = ["both_hold", "filters_of"]


def filters_of(queries: list[Query], own_filter: str | None) -> list[str | None]:
    """For each query the filter within which it is answered: its own and the operator's both have to hold."""
    return [both_hold(own_filter, query.filter) for query in queries]


def both_hold(*expressions: str | None) -> str | None:
    """The filter that is passed where all of these are; None when there is none."""
    given = [expression for expression in expressions if expression]
    return " and ".join(f"({expression})" for expression in given) if len(given) > 1 else next(iter(given), None)
