"""Token vectors without a model: every word as the hashing encoder hashes it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rag.encoders.hashing import HashingEncoder
from rag.encoders.multivector.pooling import check_factor, pool
from rag.encoders.protocol import TokenVectors
from rag.encoders.texts import check_texts

__all__ = ["HashingTokenEncoder"]

_WORD = re.compile(r"\w+")


class HashingTokenEncoder:
    """One vector a word, the same wherever the word stands: for tests and tiny collections.

    `single` is the `HashingEncoder` that hashes the words.
    """

    def __init__(self, single: HashingEncoder, *, pool_factor: int = 1) -> None:
        self.single = single
        self.pool_factor = check_factor(pool_factor)

    def __repr__(self) -> str:
        return f"HashingTokenEncoder({self.dim})"

    @property
    def name(self) -> str:
        return self.single.name

    @property
    def dim(self) -> int:
        return self.single.dim

    @property
    def max_tokens(self) -> int:
        """Every text is read to its end."""
        return self.single.max_tokens

    @property
    def fingerprint(self) -> str:
        settings = f"hashing tokens 1 {self.single.fingerprint} {self.pool_factor}"
        return hashlib.sha256(settings.encode()).hexdigest()[:32]

    def encode_queries(self, texts: Sequence[str]) -> TokenVectors:
        """The vectors of all words of queries, never pooled."""
        return replace(self._encode(check_texts(texts)), made_by=self.fingerprint)

    def encode_documents(
        self, texts: Sequence[str], *, pooled: bool = True, progress: Callable[[int], None] | None = None
    ) -> TokenVectors:
        """The vectors of all words of documents; `progress` is called with the number of texts done since last.

        With `pooled` False there is one for each word whatever `pool_factor` is.
        """
        tokens = self._encode(check_texts(texts))
        if pooled:
            tokens = replace(pool(tokens, self.pool_factor), made_by=self.fingerprint)
        if progress is not None:
            progress(len(tokens))
        return tokens

    def encode_queries_both(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TokenVectors]:
        """float32[n, dim] as `single` gives them, and the word vectors of the queries."""
        return self.single.encode_queries(texts), self.encode_queries(texts)

    def encode_documents_both(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], TokenVectors]:
        """float32[n, dim] as `single` gives them, and the word vectors of the documents."""
        return self.single.encode_documents(texts), self.encode_documents(texts, progress=progress)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return self.single.count_tokens(texts)

    def _encode(self, texts: list[str]) -> TokenVectors:
        found = [list(_WORD.finditer(text)) for text in texts]
        words, rows = np.unique([match[0] for text in found for match in text], return_inverse=True)
        spans = np.array([match.span() for text in found for match in text], np.int32).reshape(-1, 2)
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in found], out=offsets[1:])
        return TokenVectors(self.single.encode_documents(words.tolist())[rows], offsets, spans)
