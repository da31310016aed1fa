"""What every single-vector text encoder offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoder"]


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
