"""The order in which a reader sees passages."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from rag.operators.base import Operator
from rag.types import Context

__all__ = ["Order"]


class Order(Operator, name="post_retrieval.order"):
    """Arrange the passages of a context, and number them anew.

    `sides` puts the best at both ends and the worst in the middle, which models read least: ranks 1, 3, 5, ... 6, 4, 2.
    Ranks are by score; equal scores stay as they are. (Liu et al. 2023, arXiv:2307.03172, "Lost in the middle".)
    """

    by: Literal["best_first", "worst_first", "sides"] = Field("sides", description="where the best passages stand")

    def run(self, context: Context) -> Context:
        ranked = sorted(context.passages, key=lambda p: -p.score)
        if self.by == "worst_first":
            ranked.reverse()
        elif self.by == "sides":
            ranked = ranked[::2] + ranked[1::2][::-1]
        return replace(context, passages=tuple(replace(p, number=n) for n, p in enumerate(ranked, 1)))
