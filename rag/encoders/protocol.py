"""What every text encoder offers: one vector a text, or one a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError

__all__ = ["Encoder", "MultiVectorEncoder", "TokenVectors"]


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into unit vectors. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """What `rag.encoders.load` takes to make this encoder again, for example "all-MiniLM-L6-v2"."""
        ...

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read, special tokens included; the rest is cut off."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that decides the vectors: weights, tokenizer, pooling, prompts, normalisation, length."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text."""
        ...

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text; `progress` is called with the number of texts done since last."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut and without special tokens."""
        ...


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """One vector a token for some texts, one text behind the other.

    `vectors` float32[t, dim] of unit length; text i has `vectors[offsets[i]:offsets[i + 1]]`, `offsets` int64[n + 1].
    `spans` int32[t, 2]: begin and end of each token's characters in its text; (0, 0) for a token that stands for none,
    such as [CLS]. `made_by`: the fingerprint of the encoder; empty when it is not known. Raises InputError when the
    three do not fit together.
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    spans: NDArray[np.int32]
    made_by: str = ""

    def __post_init__(self) -> None:
        count = len(self.vectors)
        if self.vectors.ndim != 2 or self.spans.shape != (count, 2):
            raise InputError(
                f"token vectors of shape {self.vectors.shape} do not fit spans of shape {self.spans.shape}",
                hint="vectors [t, dim] and spans [t, 2]",
            )
        edges = self.offsets
        if edges.ndim != 1 or not len(edges) or edges[0] != 0 or edges[-1] != count or (np.diff(edges) < 0).any():
            raise InputError(f"the offsets of {count} token vectors must rise from 0 to {count}")

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> NDArray[np.float32]:
        """float32[tokens, dim]: the vectors of one text."""
        if not -len(self) <= text < len(self):
            raise IndexError(f"text {text} of {len(self)}")
        text %= len(self)
        return self.vectors[self.offsets[text] : self.offsets[text + 1]]


@runtime_checkable
class MultiVectorEncoder(Protocol):
    """Turns texts into sets of unit vectors, one a token, for late interaction. Safe to call from several threads.

    The similarity of a query and a document is MaxSim: the sum over the query's vectors of the best dot product with
    one of the document's (Khattab and Zaharia 2020, arXiv:2004.12832). A text without any token has no vectors.
    """

    @property
    def name(self) -> str:
        """What `rag.encoders.load_multi_vector` takes, with `pool_factor`, to make this encoder again."""
        ...

    @property
    def pool_factor(self) -> int:
        """Documents keep about one vector for so many tokens (`rag.encoders.multivector.pool`); 1: one for each."""
        ...

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens of a document that are read, special tokens included; the rest is cut off."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that decides the vectors, of queries and of documents."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> TokenVectors:
        """The token vectors of queries."""
        ...

    def encode_documents(
        self, texts: Sequence[str], *, pooled: bool = True, progress: Callable[[int], None] | None = None
    ) -> TokenVectors:
        """The token vectors of documents; `progress` is called with the number of texts done since last.

        With `pooled` False there is one for each token whatever `pool_factor` is, so that spans are those of words.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut and without special tokens."""
        ...
