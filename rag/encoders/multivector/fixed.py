"""Token vectors as one vector a text, for indexes and collections that search single vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.encoders.protocol import MultiVectorEncoder, TokenVectors
from rag.errors import ConfigError
from rag.index.multivector import FixedDimensionalEncoding

__all__ = ["FixedDimensionalEncoder"]

_ROOM = 1.5  # times the usual length of a document's encoding, which longer ones are cut to


class FixedDimensionalEncoder:
    """Fixed dimensional encodings of a multi-vector encoder's tokens, as unit vectors of `encoding.size` + 1 numbers.

    For encoders that were trained for late interaction alone and have no vector for a whole text. The lengths of
    encodings matter, so the last number holds what a document's encoding lacks of unit length, and is 0 for queries:
    the cosine then ranks as the inner product does (Bachrach et al., RecSys 2014, section 3). A text without tokens is
    that number alone.
    `encoding`: by default 4 planes, 16 projections, 20 repetitions: 5,121 numbers. ConfigError when it is of another
    dimension. MUVERA: Dhulipala et al., NeurIPS 2024.
    """

    def __init__(self, tokens: MultiVectorEncoder, encoding: FixedDimensionalEncoding | None = None) -> None:
        self.tokens = tokens
        self.encoding = encoding or FixedDimensionalEncoding(tokens.dim, 4, min(16, tokens.dim), 20)
        if self.encoding.dim != tokens.dim:
            wrong = f"the encoding is for tokens of {self.encoding.dim} numbers, {tokens.name!r} gives {tokens.dim}"
            raise ConfigError(wrong)
        form = self.encoding.describe()
        self._longest = _ROOM * float(np.sqrt(form["repetitions"] << form["k_sim"]))

    @property
    def name(self) -> str:
        """What `rag.encoders.load` takes; other encodings than the usual one cannot be named."""
        return f"fde:{self.tokens.name}"

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self.encoding.size + 1

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read."""
        return self.tokens.max_tokens

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that decides the vectors."""
        form = json.dumps(self.encoding.describe(), sort_keys=True)
        return hashlib.sha256(f"fde {form} {self.tokens.fingerprint}".encode()).hexdigest()

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text."""
        return self.encode_queries_both(texts)[0]

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text; `progress` is called with the number of texts done since last."""
        return self.encode_documents_both(texts, progress=progress)[0]

    def encode_queries_both(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TokenVectors]:
        """The vectors of queries, and the token vectors that they are made of."""
        tokens = self.tokens.encode_queries(texts)
        return self._vectors(tokens, documents=False), tokens

    def encode_documents_both(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], TokenVectors]:
        """The vectors of documents, and the token vectors that they are made of."""
        tokens = self.tokens.encode_documents(texts, progress=progress)
        return self._vectors(tokens, documents=True), tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut and without special tokens."""
        return self.tokens.count_tokens(texts)

    def _vectors(self, tokens: TokenVectors, *, documents: bool) -> NDArray[np.float32]:
        vectors = np.zeros((len(tokens), self.dim), np.float32)
        some = np.flatnonzero(np.diff(tokens.offsets))
        encode = self.encoding.encode_documents if documents else self.encoding.encode_queries
        own = encode(tokens.vectors, np.append(tokens.offsets[some], len(tokens.vectors)))
        lengths = np.linalg.norm(own, axis=1)
        own /= np.maximum(lengths, self._longest if documents else 1e-30)[:, None]
        vectors[some, :-1] = own
        vectors[:, -1] = np.sqrt(np.maximum(1 - np.square(vectors[:, :-1]).sum(axis=1), 0))
        return vectors
