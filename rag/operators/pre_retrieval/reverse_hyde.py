"""Questions that a chunk answers, indexed with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking, at_once
from rag.operators.indexing.sentences import sentences
from rag.operators.resources import ChatModel
from rag.types import Chunk, Document

__all__ = ["ReverseHyDE"]

_LONGEST = 200


class ReverseHyDE(Asking, name="pre_retrieval.reverse_hyde"):
    """Write to each chunk's metadata `questions`: hypothetical questions that it answers.

    They are part of the text that is embedded for the chunk (see `rag.operators.indexing.embedding_text`), so that a
    question meets questions. Stands behind a chunker: `Auto() >> ReverseHyDE()`. Without a model, as under `rag index`,
    they are made of what the document says of itself: the innermost heading, the title with it, and the first
    sentence. So they are for chunks about which the model replies nothing that can be read as questions.
    (Modular RAG, arXiv:2407.21059, sections 3.1, metadata attachment, and 3.2; Gao et al. 2022, arXiv:2212.10496,
    turned round.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("n", "title", "text")

    prompt: str = Field("reverse_hyde", description="name of a prompt file, without .md")
    n: int = Field(3, ge=1, le=20, description="questions a chunk, at most")

    def run(self, document: Document, chunks: list[Chunk], llm: ChatModel | None = None) -> list[Chunk]:
        made = at_once(lambda c: self._questions(document, c, llm), [(c,) for c in chunks], self.concurrency)
        return [
            replace(chunk, metadata={**chunk.metadata, "questions": questions}) if questions else chunk
            for chunk, questions in zip(chunks, made, strict=True)
        ]

    def _questions(self, document: Document, chunk: Chunk, llm: ChatModel | None) -> list[str]:
        written: list[str] = []
        if llm is not None:
            title = str(document.metadata.get("title") or document.id)
            lines = self.ask_for_items(llm, {"n": str(self.n), "title": title, "text": chunk.text}, cut="text")
            written = [line for line in lines if line.endswith(("?", "？", "؟"))]
        return (written or _from_structure(document, chunk))[: self.n]


def _from_structure(document: Document, chunk: Chunk) -> list[str]:
    """Questions out of title, headings and the first sentence."""
    title = str(document.metadata.get("title") or "").strip()
    headings = [str(h).strip() for h in chunk.metadata.get("headings", ()) if str(h).strip()]
    found = []
    if headings:
        found.append(_asked(headings[-1]))
        if title and title != headings[-1]:
            found.append(_asked(f"{title}: {headings[-1]}"))
    elif title:
        found.append(_asked(title))
    span = next(iter(sentences(chunk.text)), None)
    first = " ".join(chunk.text[slice(*span)].split()).lstrip("# ") if span else ""
    if first and first not in (title, *headings):
        found.append(_asked(first[:_LONGEST].rstrip(".!:;, ")))
    return list(dict.fromkeys(found))


def _asked(text: str) -> str:
    return text if text.endswith("?") else f"{text}?"
