"""The question in several wordings."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from rag.operators.asking import Asking, at_once
from rag.operators.resources import ChatModel, Encoder
from rag.types import Query

__all__ = ["MultiQuery"]


class MultiQuery(Asking, name="pre_retrieval.multi_query"):
    """Write `queries`: the question first, and up to n paraphrases of it.

    Paraphrases whose cosine to the question, by the encoder, is below `similarity` ask for something else and are
    dropped; so are repetitions. With a reply that holds no lines the question is the only one. All have its filter.
    One call of the model a question. (Modular RAG, arXiv:2407.21059, section 3.2, query expansion.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("n", "question")

    prompt: str = Field("multi_query", description="name of a prompt file, without .md")
    n: int = Field(3, ge=1, le=20, description="paraphrases at most, besides the question")
    similarity: float = Field(0.5, ge=-1, le=1, description="least cosine to the question; -1: none is dropped")

    def run(self, query: Query, llm: ChatModel, encoder: Encoder) -> list[Query]:
        return self.run_batch([query], llm=llm, encoder=encoder)[0]

    def run_batch(self, query: list[Query], *, llm: ChatModel, encoder: Encoder) -> list[list[Query]]:
        def paraphrases(text: str) -> list[str]:
            lines = self.ask_for_items(llm, {"n": str(self.n), "question": text})
            return [line for line in lines if line.casefold() != text.strip().casefold()][: self.n]

        written = at_once(paraphrases, [(q.text,) for q in query], self.concurrency)
        texts = [text for q, lines in zip(query, written, strict=True) for text in (q.text, *lines)]
        vectors = encoder.encode_queries(texts)
        expanded, at = [], 0
        for q, lines in zip(query, written, strict=True):
            own, others = vectors[at], vectors[at + 1 : at + 1 + len(lines)]
            at += 1 + len(lines)
            near = _cosines(others, own) >= self.similarity
            kept = [q.with_text(line) for line, is_near in zip(lines, near, strict=True) if is_near]
            expanded.append([q, *kept])
        return expanded


def _cosines(vectors: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(other)
    return np.asarray(vectors @ other / np.maximum(lengths, np.finfo(np.float32).tiny))
