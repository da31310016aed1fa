"""Chunks of source code."""

from __future__ import annotations

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.packing import LINE, PARAGRAPH, SENTENCE_LINE, Chunker, cut, make_chunks
from rag.operators.indexing.chunkers.tokens import token_counter
from rag.types import Chunk, Document

__all__ = ["Code"]


class Code(Chunker, name="indexing.code"):
    """Cut source code between lines: best before an unindented line after a blank one (a new definition in most
    languages), else at a blank line, else at any line."""

    def run(self, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
        text = document.text
        breaks: list[tuple[int, int]] = []
        at, blank = 0, False
        while at < len(text):
            end = text.find("\n", at) + 1 or len(text)
            if not text[at:end].strip():
                blank = True
            else:
                level = LINE if not blank else SENTENCE_LINE if text[at] in " \t" else PARAGRAPH
                breaks.append((at, level))
                blank = False
            at = end
        pieces = cut(text, 0, breaks, self.size, token_counter(encoder))
        return make_chunks(document, pieces, self.size, self.overlap_tokens)
