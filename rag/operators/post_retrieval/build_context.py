"""From hits to the numbered passages that a reader sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.indexing import page_of, sentences
from rag.operators.indexing.chunkers.tokens import count_words
from rag.operators.resources import ChatModel, Collection, check_one_collection
from rag.types import Chunk, Context, Hits, Metadata, Passage

__all__ = ["BuildContext", "estimate_tokens"]


class BuildContext(Operator, name="post_retrieval.build_context"):
    """Turn hits into numbered passages within a token budget, best first.

    Spans of one document that overlap become one passage, at the rank of the best of them. Each passage says where it
    stands: document, characters, line, page where the document has pages. Tokens are counted by the language model
    where the pipeline has one, otherwise estimated as 4/3 of the words and punctuation marks.

    Nothing is cut silently: a passage that does not fit gives way to its chunk where it was a parent, and is else left
    out and counted in `left_out`. Only when the very first is larger than the whole budget its leading sentences are
    handed over (at the least its leading words); `end` then is where it stops, and its metadata says `cut: true`.
    Small-to-big retrieval: Modular RAG, arXiv:2407.21059, section 3.1.
    """

    max_tokens: int = Field(2000, ge=16, description="tokens of all passages together")
    max_passages: int = Field(8, ge=1, description="passages at most")
    parents: bool = Field(True, description="hand over the larger span around a chunk, where it has one")

    def run(self, hits: Hits, collection: Collection, llm: ChatModel | None = None) -> Context:
        check_one_collection([hits], collection)
        count = estimate_tokens if llm is None else llm.count_tokens
        packing = _Packing(self.max_tokens, count, lambda span: collection.texts([span])[0])
        # Read as many chunks at a time as can become passages: most of the hits are never looked at.
        for at in range(0, len(hits), self.max_passages):
            for chunk, score in zip(
                collection.chunks(hits.ids[at : at + self.max_passages]),
                hits.scores[at : at + self.max_passages].tolist(),
                strict=True,
            ):
                if len(packing.pieces) + packing.left_out >= self.max_passages:
                    break
                packing.add(chunk, score, parents=self.parents)
        lines = collection.lines([(p.document, p.start) for p in packing.pieces]) if packing.pieces else []
        passages = tuple(
            Passage(number, p.chunk, p.document, p.text, p.start, p.end, line, p.score, p.shown())
            for number, (p, line) in enumerate(zip(packing.pieces, lines, strict=True), 1)
        )
        return Context(passages, packing.left_out)


def estimate_tokens(text: str) -> int:
    """About how many tokens a language model makes of a text: 4/3 of its words and punctuation marks, rounded up."""
    return -(-4 * count_words([text])[0] // 3)


@dataclass
class _Piece:
    """A passage before it has its number."""

    chunk: int
    document: str
    start: int
    end: int
    text: str
    tokens: int
    score: float
    metadata: Metadata
    cut: bool = False

    def shown(self) -> dict[str, Any]:
        """Its metadata, with the page it begins on in place of the list of all pages."""
        shown = {name: value for name, value in self.metadata.items() if name != "pages"}
        page = page_of(self.metadata, self.start)
        if page is not None:
            shown["page"] = page
        if self.cut:
            shown["cut"] = True
        return shown


class _Packing:
    """Passages taken in so far."""

    def __init__(self, budget: int, count: Callable[[str], int], read: Callable[[tuple[str, int, int]], str]) -> None:
        self.pieces: list[_Piece] = []
        self.left_out = 0
        self._budget = budget
        self._count = count
        self._read = read

    def add(self, chunk: Chunk, score: float, *, parents: bool) -> None:
        """Take in a chunk as its parent, or as itself, or leave it out."""
        own = (chunk.start, chunk.end)
        for span in dict.fromkeys((chunk.parent or own, own) if parents else (own,)):
            if self._take(chunk, score, *span):
                return
        if self.pieces:
            self.left_out += 1
        else:
            self._cut(chunk, score)

    def _take(self, chunk: Chunk, score: float, start: int, end: int) -> bool:
        """Whether the span, joined with all that it overlaps, fits."""
        joined = []
        rest = list(self.pieces)
        while touching := [p for p in rest if p.document == chunk.document and p.start < end and start < p.end]:
            joined += touching
            rest = [p for p in rest if not any(p is t for t in touching)]
            start = min(start, *(p.start for p in touching))
            end = max(end, *(p.end for p in touching))
        if len(joined) == 1 and (joined[0].start, joined[0].end) == (start, end):
            return True
        own = (start, end) == (chunk.start, chunk.end)
        text = chunk.text if own else self._read((chunk.document, start, end))
        tokens = self._count(text)
        if tokens + sum(p.tokens for p in rest) > self._budget:
            return False
        if not joined:
            self.pieces.append(_Piece(chunk.id, chunk.document, start, end, text, tokens, score, chunk.metadata))
            return True
        best = next(p for p in self.pieces if any(p is j for j in joined))
        best.start, best.end, best.text, best.tokens = start, end, text, tokens
        self.pieces = [p for p in self.pieces if p is best or not any(p is j for j in joined)]
        return True

    def _cut(self, chunk: Chunk, score: float) -> None:
        """The leading sentences of the first chunk that fit, or its leading words when no sentence does."""
        text = chunk.text
        ends = [end for _, end in sentences(text)]
        fitting = self._longest(text, ends)
        if not fitting:
            fitting = self._longest(text, [i for i in range(1, len(text)) if text[i].isspace()])
        if not fitting:
            fitting = self._longest(text, list(range(1, len(text))))
        if not fitting:
            self.left_out += 1
            return
        kept = text[:fitting]
        self.pieces.append(
            _Piece(
                chunk.id, chunk.document, chunk.start, chunk.start + fitting, kept, self._count(kept), score,
                chunk.metadata, cut=True,
            )
        )  # fmt: skip

    def _longest(self, text: str, ends: list[int]) -> int:
        """The last of these ends up to which the text fits the budget, 0 for none; counts grow with the text."""
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high) // 2
            if self._count(text[: ends[middle]]) <= self._budget:
                low = middle + 1
            else:
                high = middle
        return ends[low - 1] if low else 0
