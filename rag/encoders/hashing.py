"""Vectors without a model: signed feature hashing of words and character n-grams."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rag.encoders.texts import check_texts
from rag.errors import ConfigError

__all__ = ["HashingEncoder"]

_WORD = re.compile(r"\w+")
_GRAMS = (3, 4)


class HashingEncoder:
    """Words (weight 1) and the character 3- and 4-grams of each word (together weight 1), hashed into `dim` numbers.

    The same text gives the same vector in every process and on every machine. It knows words and their spelling, not
    meaning: for tests and tiny collections. Weinberger et al. 2009, "Feature hashing for large scale multitask
    learning" (arXiv:0902.2206); character n-grams as in Bojanowski et al. 2017 (arXiv:1607.04606).
    """

    def __init__(self, dim: int = 256) -> None:
        if dim < 1:
            raise ConfigError(f"a hashing encoder needs at least one dimension, got {dim}")
        self.dim = dim

    def __repr__(self) -> str:
        return f"HashingEncoder({self.dim})"

    @property
    def name(self) -> str:
        return f"hashing:{self.dim}"

    @property
    def max_tokens(self) -> int:
        """Every text is read to its end."""
        return sys.maxsize

    @property
    def fingerprint(self) -> str:
        settings = f"hashing 1 {self.dim} {_WORD.pattern} {_GRAMS}"
        return hashlib.sha256(settings.encode()).hexdigest()[:32]

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text."""
        return self.encode_documents(texts)

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """float32[n, dim], one unit vector a text; `progress` is called with the number of texts done since last."""
        texts = check_texts(texts)
        vectors = np.zeros((len(texts), self.dim), np.float64)
        for row, text in zip(vectors, texts, strict=True):
            for word in _WORD.findall(text.lower()) or [""]:
                places, weights = _features(word, self.dim)
                np.add.at(row, places, weights)
            if not row.any():  # opposite signs may cancel out; a unit vector is promised all the same
                row[0] = 1.0
            if progress is not None:
                progress(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [len(_WORD.findall(text)) for text in check_texts(texts)]


@lru_cache(maxsize=1 << 16)
def _features(word: str, dim: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where a word and its n-grams fall, and their signed weights."""
    grams = list(_grams(f"<{word}>"))
    hashes = [_hash(feature) for feature in (word, *grams)]
    weights = [1.0] + [max(len(grams), 1) ** -0.5] * len(grams)
    signs = [1.0 if h >> 63 else -1.0 for h in hashes]
    return np.array([h % dim for h in hashes], np.int64), np.array(weights) * signs


def _grams(word: str) -> Iterator[str]:
    for size in _GRAMS:
        for i in range(len(word) - size + 1):
            yield f"#{word[i : i + size]}"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
