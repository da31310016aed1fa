"""Retrieve small, hand over big: each chunk gets the larger span that a reader sees in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from rag.encoders.protocol import Encoder
from rag.operators.base import Operator
from rag.operators.indexing.chunkers.tokens import token_counter
from rag.types import Chunk, Document

__all__ = ["SmallToBig"]


class SmallToBig(Operator, name="indexing.small_to_big"):
    """Set the `parent` of every chunk: a span of the document that holds the chunk and its neighbours.

    "window" centres it: the chunk with `neighbours` chunks on either side. "block" shares it: consecutive chunks of one
    section (same `headings`) are gathered into blocks of at most `size` tokens, so that several hits from one block
    come to a reader as one passage. Use it behind a chunker with a small size: `Sentences(size=60) >> SmallToBig()`.
    """

    parent: Literal["window", "block"] = Field("window", description="centred on each chunk, or shared by neighbours")
    neighbours: int = Field(1, ge=1, description="window: chunks taken in on either side")
    size: int = Field(400, ge=8, description="block: most tokens; a single larger chunk is a block by itself")

    def run(self, document: Document, chunks: list[Chunk], encoder: Encoder | None = None) -> list[Chunk]:
        if self.parent == "window":
            last = len(chunks) - 1
            spans = [
                (chunks[max(0, i - self.neighbours)].start, chunks[min(last, i + self.neighbours)].end)
                for i in range(len(chunks))
            ]
        else:
            spans = self._blocks(chunks, token_counter(encoder)([chunk.text for chunk in chunks]))
        return [replace(chunk, parent=span) for chunk, span in zip(chunks, spans, strict=True)]

    def _blocks(self, chunks: list[Chunk], tokens: list[int]) -> list[tuple[int, int]]:
        groups: list[list[Chunk]] = []
        held = 0
        for chunk, n in zip(chunks, tokens, strict=True):
            same = groups and groups[-1][-1].metadata.get("headings") == chunk.metadata.get("headings")
            if same and held + n <= self.size:
                groups[-1].append(chunk)
                held += n
            else:
                groups.append([chunk])
                held = n
        return [(group[0].start, group[-1].end) for group in groups for _ in group]
