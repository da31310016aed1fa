"""Answers of branches merged by a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.encoders.protocol import Encoder as AnyEncoder
from rag.operators.asking import Asking
from rag.operators.generation.checked_text import CheckedText
from rag.operators.generation.citations import Checker
from rag.operators.generation.joining import concatenated, found_once, renumbered, usage_of
from rag.operators.replies import items
from rag.operators.resources import ChatModel, Encoder
from rag.types import Answer, Citation, Context, Passage, Query

__all__ = ["Summarise"]


class Summarise(Asking, name="generation.summarise"):
    """Let a language model merge the answers of branches into one, and check every citation that it keeps.

    The model sees the answers that were found, each once, under one numbering of their citations, and the quoted
    places. A number in its reply holds when a place quoted under it supports the sentence it stands in, as in
    `Generate`; otherwise it is taken out. The score is the share of sentences with a citation that holds.

    With one answer, that one is the result, and with none the first that was not found; the model is not asked. A reply
    without any words leaves the answers one behind the other, as `Accumulate` does. Where prompt and answers do not fit
    the model's window, the end of the quoted places is cut off. (Modular RAG, arXiv:2407.21059, section 3.5, LLM
    fusion.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("answers", "sources", "question")

    prompt: str = Field("summarise", description="name of a prompt file, without .md")
    max_tokens: int = Field(512, ge=1, le=32768, description="tokens of a reply")
    support: float = Field(
        0.5, ge=0, le=1, description="share of a sentence's content words that the cited place must hold"
    )
    similarity: float = Field(
        0.7, ge=0, le=1, description="cosine that does instead, where the pipeline has an encoder; 1: never"
    )

    def run(self, query: Query, answer: list[Answer], *, llm: ChatModel, encoder: Encoder | None = None) -> Answer:
        found = renumbered(found_once(answer))
        joined = concatenated(answer, numbered=True, separator="\n\n")
        if len(found) < 2:
            return joined
        sources = "\n".join(f"[{c.number}] {' '.join(c.quote.split())}" for c in joined.citations)
        values = {"answers": joined.text, "sources": sources or "(none)", "question": query.text}
        cut = "sources" if joined.citations else "answers"
        completion = self.ask(llm, values, cut=cut)
        usage = usage_of(answer) + completion.usage
        if not items(completion.text):
            return replace(joined, usage=usage)
        checker = _Quotes(joined.citations, support=self.support, similarity=self.similarity, encoder=encoder)
        text = CheckedText(checker, mark=False)
        shown = (text.feed(completion.text.strip()) + text.finish()).strip()
        score = text.supported / text.claims if text.claims else 0.0
        return Answer(shown, tuple(text.citations), score=score, usage=usage)


class _Quotes(Checker):
    """Checks a claim against the places quoted under a number, of which there may be several."""

    def __init__(
        self, citations: Sequence[Citation], *, support: float, similarity: float, encoder: AnyEncoder | None
    ) -> None:
        passages = tuple(
            Passage(place, c.chunk, c.document, c.quote, c.start, c.end, c.line, 0.0)
            for place, c in enumerate(citations)
        )
        super().__init__(Context(passages), support=support, similarity=similarity, encoder=encoder)
        self._places: dict[int, list[int]] = {}
        for place, citation in enumerate(citations):
            self._places.setdefault(citation.number, []).append(place)

    def find(self, claim: str, number: int) -> Citation | None:
        for place in self._places.get(number, ()):
            found = super().find(claim, place)
            if found is not None:
                return replace(found, number=number)
        return None
