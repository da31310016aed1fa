"""Chunks that end where the subject changes."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rag.encoders.protocol import Encoder
from rag.operators.indexing.chunkers.packing import FORCED, SENTENCE, Chunker, cut, make_chunks
from rag.operators.indexing.chunkers.tokens import token_counter
from rag.operators.indexing.sentences import sentences
from rag.types import Chunk, Document

__all__ = ["Semantic"]


class Semantic(Chunker, name="indexing.semantic"):
    """Cut where the meaning of neighbouring sentences differs most, and longer parts than `size` like `Sentences`.

    Each sentence is encoded together with `window` sentences on either side; a break is set between two sentences when
    the cosine similarity of the text before it and the text behind it is among the lowest `percentile` percent of the
    document, and no higher than at the gaps beside it. Needs an encoder, which reads a sentence 2 * window + 1 times.
    """

    percentile: float = Field(
        10.0, gt=0, lt=100, description="share of sentence gaps that may become breaks, in percent"
    )
    window: int = Field(1, ge=0, le=10, description="sentences on either side that are encoded with each one")

    def run(self, document: Document, encoder: Encoder) -> list[Chunk]:
        text = document.text
        spans = sentences(text)
        breaks = [(start, SENTENCE) for start, _ in spans[1:]]
        # Window i reaches over sentences i - window to i + window, so that behind gap i the first window free of
        # sentences before it is the one around sentence i + 1 + window; both sides are cut off at the document's ends.
        reach = self.window
        n = len(spans)
        if n > 2:
            blocks = [text[spans[max(0, i - reach)][0] : spans[min(n - 1, i + reach)][1]] for i in range(n)]
            vectors = encoder.encode_documents(blocks)
            gaps = np.arange(n - 1)
            left = vectors[np.maximum(gaps - reach, 0)]
            right = vectors[np.minimum(gaps + 1 + reach, n - 1)]
            similarity = np.einsum("ij,ij->i", left, right)
            around = np.concatenate([[np.inf], similarity, [np.inf]])
            low = similarity <= np.percentile(similarity, self.percentile)
            low &= (similarity < around[:-2]) & (similarity <= around[2:])
            breaks = [
                (at, FORCED if is_low else SENTENCE) for (at, _), is_low in zip(breaks, low.tolist(), strict=True)
            ]
        pieces = cut(text, 0, breaks, self.size, token_counter(encoder))
        return make_chunks(document, pieces, self.size, self.overlap_tokens)
