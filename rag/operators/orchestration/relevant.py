"""Corrective RAG: a language model grades what was retrieved."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from rag.operators.asking import Asking, at_once
from rag.operators.orchestration.judges import Graded
from rag.operators.replies import yes_or_no
from rag.operators.resources import ChatModel
from rag.types import Chunk, Hits, Query

__all__ = ["Relevant"]


class Relevant(Asking, name="orchestration.relevant"):
    """Let a model judge each of the first k hits for relevance, and grade retrieval as a whole.

    The route is "correct" when at least `enough` hits are relevant, "incorrect" when all are judged irrelevant or
    there are none, and "ambiguous" otherwise; a reply that is neither yes nor no leaves its hit undecided. Irrelevant
    hits, and those behind the first k, are left out. (Corrective RAG: Yan et al. 2024, arXiv:2401.15884, by prompt.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("text", "question")

    prompt: str = Field("relevant", description="name of a prompt file, without .md")
    max_tokens: int = Field(16, ge=1, le=32768, description="tokens of a reply")
    k: int = Field(8, ge=1, le=200, description="hits that are judged; one call of the model each")
    enough: int = Field(1, ge=1, description="relevant hits that make retrieval correct")

    def run(self, query: Query, hits: Hits, llm: ChatModel) -> Graded:
        return self.run_batch([query], [hits], llm=llm)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], *, llm: ChatModel) -> list[Graded]:
        def judge(asked: Query, chunk: Chunk) -> bool | None:
            return yes_or_no(self.ask(llm, {"text": chunk.text, "question": asked.text}, cut="text").text)

        judged = [h.top(self.k) for h in hits]
        pairs = [(q, chunk) for q, h in zip(query, judged, strict=True) for chunk in h.chunks()]
        verdicts = iter(at_once(judge, pairs, self.concurrency))
        return [self._grade(h, [next(verdicts) for _ in range(len(h))]) for h in judged]

    def _grade(self, hits: Hits, verdicts: list[bool | None]) -> Graded:
        kept = hits.take(np.array([verdict is not False for verdict in verdicts], dtype=bool))
        if not len(kept):
            return Graded(kept, "incorrect")
        return Graded(kept, "correct" if verdicts.count(True) >= self.enough else "ambiguous")
