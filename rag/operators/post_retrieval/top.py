"""The first hits."""

from __future__ import annotations

from pydantic import Field

from rag.operators.base import Operator
from rag.types import Hits

__all__ = ["Top"]


class Top(Operator, name="post_retrieval.top"):
    """Keep the best hits: at most k, and none with a score below `min_score`.

    Scores mean what the retriever before it says; those of different retrievers cannot be compared.
    """

    k: int = Field(10, ge=1, description="hits to keep at most")
    min_score: float | None = Field(None, description="smallest score to keep; any when left out")

    def run(self, hits: Hits) -> Hits:
        if self.min_score is not None:
            hits = hits.take(hits.scores >= self.min_score)
        return hits.top(self.k)

    def cut_off(self) -> int | None:
        """It looks at the first k hits only, since hits come best first."""
        return self.k
