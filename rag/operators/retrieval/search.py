"""What the retrievers share: how many hits, within which filters, and how a plan may ask them for less."""

from __future__ import annotations

from pydantic import Field
from typing_extensions import Self

from rag.operators.base import Operator
from rag.types import Query

__all__ = ["Retriever", "both_hold"]


class Retriever(Operator):
    """An operator that finds chunks in a collection."""

    k: int | None = Field(
        100, ge=1, description="hits to return, None for all; fewer when the collection, or the filter, has fewer"
    )
    filter: str | None = Field(
        None, description='metadata expression to search within, e.g. year >= 2020 and lang == "en"'
    )

    def limited(self, k: int) -> Self:
        """This, asking for no more than k."""
        return self.model_copy(update={"k": k if self.k is None else min(self.k, k)})

    def filtered(self, expression: str) -> Self | None:
        """This, searching within that filter as well, where it finds then what would be left of its hits; else None.

        That is so when it looks for all, or within that filter already.
        """
        if self.filter == expression:
            return self
        if self.k is not None:
            return None
        return self.model_copy(update={"filter": both_hold(self.filter, expression)})

    def filters(self, queries: list[Query]) -> list[str | None]:
        """For each query the filter within which it is answered: its own and the operator's both have to hold."""
        return [both_hold(self.filter, query.filter) for query in queries]


def both_hold(*expressions: str | None) -> str | None:
    """The filter that is passed where all of these are; None when there is none."""
    given = [expression for expression in expressions if expression]
    return " and ".join(f"({expression})" for expression in given) if len(given) > 1 else next(iter(given), None)
