"""Hits that a language model finds relevant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from rag.operators.asking import Asking, at_once
from rag.operators.replies import items
from rag.operators.resources import ChatModel
from rag.types import Chunk, Hits, Query

__all__ = ["Critique"]

_VERDICT = re.compile(r"^\W*(?:passage\s*)?(\d{1,3})\W+(yes|no)\b(?!\W*(?:or|and|/)\W*(?:yes|no)\b)", re.I | re.M)


class Critique(Asking, name="post_retrieval.critique"):
    """Leave out the hits that a language model judges irrelevant to the question; several are judged in one call.

    The first k are judged, `together` in each call; those behind the first k are left out. The model writes a line
    "2: no" for each passage; one that it says nothing clear about is kept, so a reply without sense keeps all. Scores
    and order stay. Where passages do not fit the model's window, the last are cut off, and so are kept.
    `orchestration.relevant` asks for each hit alone and grades retrieval besides. (Modular RAG, arXiv:2407.21059,
    section 3.4, LLM-critique.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("passages", "question")

    prompt: str = Field("critique", description="name of a prompt file, without .md")
    k: int = Field(16, ge=1, le=200, description="hits that are judged")
    together: int = Field(8, ge=1, le=50, description="hits judged in one call")

    def run(self, query: Query, hits: Hits, llm: ChatModel) -> Hits:
        return self.run_batch([query], [hits], llm=llm)[0]

    def run_batch(self, query: list[Query], hits: list[Hits], *, llm: ChatModel) -> list[Hits]:
        def judge(asked: Query, chunks: list[Chunk]) -> list[bool]:
            passages = "\n\n".join(f"[{n}] {chunk.text}" for n, chunk in enumerate(chunks, 1))
            reply = self.ask(llm, {"passages": passages, "question": asked.text}, cut="passages").text
            return _verdicts(reply, len(chunks))

        judged = [h.top(self.k) for h in hits]
        calls = []
        for asked, h in zip(query, judged, strict=True):
            chunks = h.chunks()
            calls += [(asked, chunks[at : at + self.together]) for at in range(0, len(chunks), self.together)]
        kept = (keep for verdicts in at_once(judge, calls, self.concurrency) for keep in verdicts)
        return [h.take(np.array([next(kept) for _ in range(len(h))], dtype=bool)) for h in judged]


def _verdicts(reply: str, count: int) -> list[bool]:
    """Whether each passage is kept: unless the reply says no to it, and does not say yes as well."""
    said: dict[int, set[str]] = {}
    for number, verdict in _VERDICT.findall(reply):
        said.setdefault(int(number), set()).add(verdict.lower())
    if count == 1 and not said and [line.rstrip(".").lower() for line in items(reply)[:1]] == ["no"]:
        return [False]
    return [said.get(number) != {"no"} for number in range(1, count + 1)]
