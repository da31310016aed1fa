"""What a score means: the probability that a hit is relevant."""

from __future__ import annotations

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.post_retrieval.relevance_files import relevance_model
from rag.operators.post_retrieval.score_lists import score_lists
from rag.operators.resources import Collection
from rag.relevance import RelevanceModel
from rag.types import Hits, Query

__all__ = ["Calibrate", "calibrated"]


class Calibrate(Operator, name="post_retrieval.calibrate"):
    """Write to each hit the probability that it is relevant, in the column `relevance`; hits stay as they are.

    The probability is a logistic regression of score, rank and what the list is like, fitted for what scored the hits
    by `rag filter train`, and never rises along a list. With it `Fuse("probability")` adds up evidence of several
    retrievals. Raises what `RelevanceFilter` raises.
    """

    scorer: str = Field("dense", description="what scored the hits: dense, bm25, maxsim, fused, or another by name")
    model: str = Field("default", description="name of a model in the collection, or a .safetensors file")

    def run(self, query: Query, hits: Hits, collection: Collection) -> Hits:
        return self.run_batch([query], [hits], collection)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], collection: Collection) -> list[Hits]:
        return calibrated(query, hits, relevance_model(self.model, self.scorer, collection), collection)

    def embeds_query(self) -> bool:
        """Whether it embeds the query; it does by its tokens, for their number."""
        return self.embeds_tokens()

    def embeds_tokens(self) -> bool:
        """Whether it makes token vectors of the query."""
        return self.scorer == "maxsim"


def calibrated(queries: list[Query], hits: list[Hits], model: RelevanceModel, collection: Collection) -> list[Hits]:
    """The hits with the probabilities of a model in the column `relevance`."""
    table = score_lists(queries, hits, model.scorer, collection)
    model.check(table.lists)
    fitted = model.method("truncation")
    relevance = fitted.relevance(fitted.scorer(table.lists).values)
    return [own.with_columns(relevance=table.of_hits(row, relevance[row])) for row, own in enumerate(hits)]
