"""Single vectors and token vectors of the same texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag.encoders.protocol import Encoder, MultiVectorEncoder, TokenVectors

__all__ = ["encode_both", "encode_both_queries"]


@runtime_checkable
class _Both(Protocol):
    """An encoder that gives single vectors and token vectors of the same texts in one forward pass."""

    def encode_queries_both(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TokenVectors]: ...

    def encode_documents_both(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], TokenVectors]: ...


def encode_both(
    encoder: Encoder,
    token_encoder: MultiVectorEncoder | None,
    texts: Sequence[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], TokenVectors | None]:
    """The vectors float32[n, dim] of documents, and their token vectors if an encoder of such is given.

    Both come out of one forward pass where one model makes both; `progress` is called with the number of texts done
    since last.
    """
    if token_encoder is None:
        return encoder.encode_documents(texts, progress=progress), None
    if (one := _giving_both(encoder, token_encoder)) is not None:
        return one.encode_documents_both(texts, progress=progress)
    return encoder.encode_documents(texts), token_encoder.encode_documents(texts, progress=progress)


def encode_both_queries(
    encoder: Encoder, token_encoder: MultiVectorEncoder, texts: Sequence[str]
) -> tuple[NDArray[np.float32], TokenVectors]:
    """The vectors float32[n, dim] of queries, and their token vectors; out of one forward pass where that can be."""
    if (one := _giving_both(encoder, token_encoder)) is not None:
        return one.encode_queries_both(texts)
    return encoder.encode_queries(texts), token_encoder.encode_queries(texts)


def _giving_both(encoder: Encoder, token_encoder: MultiVectorEncoder) -> _Both | None:
    """Which of the two gives what the other does besides its own, if one does."""
    for one, other, besides in ((token_encoder, encoder, "single"), (encoder, token_encoder, "tokens")):
        own = getattr(one, besides, None)
        if own is not None and isinstance(one, _Both) and own.fingerprint == other.fingerprint:
            return one
    return None
