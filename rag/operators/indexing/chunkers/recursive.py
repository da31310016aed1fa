"""Chunks that end at the best place in reach: paragraph, line, sentence, word."""

from __future__ import annotations

import re

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.packing import (
    LINE,
    PARAGRAPH,
    SENTENCE,
    SENTENCE_LINE,
    Chunker,
    cut,
    make_chunks,
)
from rag.operators.indexing.chunkers.tokens import token_counter
from rag.operators.indexing.sentences import sentence_breaks
from rag.types import Chunk, Document

__all__ = ["Recursive", "prose_breaks"]

_NEW_LINE = re.compile(r"\n\s*")
_ITEM = re.compile(r"(?:[-*+•‣–]|\(?\w{1,3}[.)])\s")


class Recursive(Chunker, name="indexing.recursive"):
    """End each chunk at the best break in its second half: paragraph, else line, else sentence, else word.

    A line break inside a sentence, as in hard-wrapped text, is a worse place than the end of a sentence.
    """

    def run(self, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
        text = document.text
        pieces = cut(text, 0, prose_breaks(text, 0, len(text)), self.size, token_counter(encoder))
        return make_chunks(document, pieces, self.size, self.overlap_tokens)


def prose_breaks(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The breaks (position, level) inside text[start:end], ascending."""
    levels = dict.fromkeys(sentence_breaks(text, start, end), SENTENCE)
    for match in _NEW_LINE.finditer(text, start, end):
        at = match.end()
        if match[0].count("\n") > 1:
            levels[at] = PARAGRAPH
        elif at in levels or _ITEM.match(text, at, end):
            levels[at] = SENTENCE_LINE
        else:
            levels[at] = LINE
    levels.pop(end, None)
    return sorted(levels.items())
