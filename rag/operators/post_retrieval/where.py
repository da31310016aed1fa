"""The hits that pass a metadata filter."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from rag.collection.filters import parse
from rag.errors import ConfigError
from rag.operators.base import Operator
from rag.operators.resources import Collection, check_one_collection
from rag.operators.retrieval.search import both_hold
from rag.types import Hits

__all__ = ["Where"]


class Where(Operator, name="post_retrieval.where"):
    """Keep the hits whose chunks pass a metadata filter, in their order.

    It looks at what was found: after `Dense(k=100)` it keeps those of the best 100 that pass, which may be none. To
    have the best that pass, search for all, `Dense(k=None) >> Where("year >= 2020") >> Top(10)`: a pipeline moves the
    filter, and then the cut-off, into the search. Raises ConfigError for a filter that is not well formed or names a
    field that no document has, InputError for hits of another collection.
    """

    filter: str = Field(description='metadata expression, e.g. year >= 2020 and lang == "en"')

    @field_validator("filter")
    @classmethod
    def _well_formed(cls, value: str) -> str:
        try:
            parse(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    def run(self, hits: Hits, collection: Collection) -> Hits:
        return self.run_batch([hits], collection)[0]

    def run_batch(self, hits: list[Hits], collection: Collection) -> list[Hits]:
        check_one_collection(hits, collection)
        passing = collection.select(self.filter)
        return [h.take(np.isin(h.ids, passing)) for h in hits]

    def keeps(self) -> str:
        """The filter that all of its hits pass."""
        return self.filter

    def filtered(self, expression: str) -> Where:
        """This, for the hits that pass that filter as well."""
        return self.model_copy(update={"filter": both_hold(self.filter, expression)})
