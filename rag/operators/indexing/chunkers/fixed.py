"""Chunks of a fixed number of tokens."""

from __future__ import annotations

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.packing import WORD, Chunker, cut, make_chunks
from rag.operators.indexing.chunkers.tokens import token_counter, word_ends
from rag.types import Chunk, Document

__all__ = ["FixedTokens"]


class FixedTokens(Chunker, name="indexing.fixed_tokens"):
    """Cut after every `size` tokens, between words, whatever the text says there. A baseline for the other chunkers."""

    def run(self, document: Document, encoder: Encoder | None = None) -> list[Chunk]:
        text = document.text
        breaks = ((at, WORD) for at in word_ends(text, 0, len(text)))
        return make_chunks(
            document, cut(text, 0, breaks, self.size, token_counter(encoder)), self.size, self.overlap_tokens
        )
