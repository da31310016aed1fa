"""Expanded queries, each validated by a model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking, at_once
from rag.operators.replies import yes_or_no
from rag.operators.resources import ChatModel
from rag.types import Query

__all__ = ["CoVe"]


class CoVe(Asking, name="pre_retrieval.cove"):
    """Keep those of the expanded `queries` that a model, asked about each by itself, confirms.

    The question itself is not asked about and kept where it is among them; it is the only one when nothing is left.
    A reply that is neither yes nor no keeps its query: retrieval and ranking come after. (Chain of
    verification: Dhuliawala et al. 2023, arXiv:2309.11495; Modular RAG, arXiv:2407.21059, section 3.2.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("question", "expanded")

    prompt: str = Field("cove", description="name of a prompt file, without .md")
    max_tokens: int = Field(16, ge=1, le=32768, description="tokens of a reply")

    def run(self, query: Query, queries: list[Query], llm: ChatModel) -> list[Query]:
        return self.run_batch([query], [queries], llm=llm)[0]

    def run_batch(self, query: list[Query], queries: list[list[Query]], *, llm: ChatModel) -> list[list[Query]]:
        def stays(asked: Query, expanded: Query) -> bool:
            reply = self.ask(llm, {"question": asked.text, "expanded": expanded.text}).text
            return yes_or_no(reply) is not False

        pairs = [(q, e) for q, expanded in zip(query, queries, strict=True) for e in expanded if e.text != q.text]
        verdicts = iter(at_once(stays, pairs, self.concurrency))
        return [
            [e for e in expanded if e.text == q.text or next(verdicts)] or [q]
            for q, expanded in zip(query, queries, strict=True)
        ]
