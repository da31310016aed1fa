"""Chunks of whole sentences."""

from __future__ import annotations

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.packing import SENTENCE, Chunker, cut, make_chunks
from rag.operators.indexing.chunkers.tokens import token_counter
from rag.operators.indexing.sentences import sentence_breaks
from rag.types import Chunk, Document

__all__ = ["Sentences"]


class Sentences(Chunker, name="indexing.sentences"):
    """Pack whole sentences up to `size` tokens, the overlap too. Longer ones are cut between words."""

    def run(self, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
        breaks = [(at, SENTENCE) for at in sentence_breaks(document.text)]
        pieces = cut(document.text, 0, breaks, self.size, token_counter(encoder))
        return make_chunks(document, pieces, self.size, self.overlap_tokens)
