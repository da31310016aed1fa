"""A question taken apart into simpler ones, and the one whose turn it is."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.base import Operator
from rag.operators.resources import ChatModel
from rag.types import Query

__all__ = ["NextQuery", "SubQueries"]


class SubQueries(Asking, name="pre_retrieval.sub_queries"):
    """Write `queries`: sub-questions to be answered in this order, simplest first, and the question itself last.

    For all at once, run them with `Each`. One after another, each with what was found before, is a loop over
    `NextQuery` with `Remember`, until `AllAsked`. When nothing can be read in the reply, the question is the only one.
    All have its filter. (Least-to-most prompting: Zhou et al. 2022, arXiv:2205.10625.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("n", "question")

    prompt: str = Field("sub_queries", description="name of a prompt file, without .md")
    n: int = Field(4, ge=1, le=20, description="sub-questions at most")
    with_original: bool = Field(True, description="whether the question itself comes last")

    def run(self, query: Query, llm: ChatModel) -> list[Query]:
        lines = self.ask_for_items(llm, {"n": str(self.n), "question": query.text})
        same = query.text.strip().casefold()
        parts = [query.with_text(line) for line in lines if line.casefold() != same][: self.n]
        return [*parts, query] if self.with_original or not parts else parts


class NextQuery(Operator, name="pre_retrieval.next_query"):
    """In a loop, make the question whose turn it is the query: the first of `queries` in round 1, and so on.

    After the last one it stays. With no queries the query is left as it is.
    """

    def run(self, query: Query, queries: list[Query], round: int) -> Query:
        return queries[min(max(round, 1), len(queries)) - 1] if queries else query
