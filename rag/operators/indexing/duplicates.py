"""Exact and near duplicates among documents, found while they come in."""

from __future__ import annotations

import hashlib
import unicodedata
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.operators.indexing.chunkers.tokens import words
from rag.operators.indexing.options import Options

__all__ = ["DedupeSettings", "Duplicate", "DuplicateFinder", "bands_for"]

_PERMUTATIONS = 128
_MISS = 1e-3
_SKETCH = 4096
_BUCKET = 256
_MARGIN = 0.15  # four standard deviations of a similarity of 0.8 estimated with 128 permutations
_BLOCK = 2048


class DedupeSettings(Options):
    """What to do with duplicates: skip (leave out and report), report (index all the same), keep (do not look)."""

    exact: Literal["skip", "report", "keep"] = Field(
        "skip", description="documents whose text is the same but for spaces"
    )
    near: Literal["skip", "report", "keep"] = Field(
        "report", description="documents that share most of their word runs"
    )
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of word runs from which texts are near")
    shingle: int = Field(3, ge=1, le=20, description="words in a run")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Document `document` repeats `of`, which came before it; `similarity` is 1 for exact ones, else the Jaccard."""

    document: str
    of: str
    similarity: float
    exact: bool


class DuplicateFinder:
    """Takes documents one by one and tells of each whether an earlier one is the same, or nearly.

    Near: MinHash over `shingle`-word runs (Broder 1997), 128 permutations, banded so that a pair at the threshold is
    missed with a probability of at most 0.001 (Leskovec et al., Mining of Massive Datasets, section 3.4), and verified:
    exactly up to 4,096 distinct runs a document, above that on the 4,096 with the smallest hashes (an error of about
    0.01). A document is compared with those before it that were no duplicates themselves; the most similar one is told.
    At most 256 documents share a bucket, which bounds the work on masses of half-similar texts. Equal for equal input.
    """

    def __init__(self, settings: DedupeSettings | None = None) -> None:
        self.settings = settings or DedupeSettings()
        self._by_digest: dict[bytes, str] = {}
        self._bands, self._rows = bands_for(self.settings.threshold)
        random = np.random.default_rng(0)
        self._multipliers = random.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._offsets = random.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64)
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._ids: list[str] = []
        self._sketches: list[NDArray[np.uint64]] = []
        self._signatures = np.empty((1024, _PERMUTATIONS), np.uint32)
        self._word_hashes: dict[str, int] = {}

    def add(self, id: str, text: str, about: str = "") -> Duplicate | None:
        """Whether this document repeats an earlier one. `about` is what must be equal too for an exact duplicate."""
        if self.settings.exact != "keep":
            plain = " ".join(unicodedata.normalize("NFC", text).split())
            digest = hashlib.sha256(f"{about}\0{plain}".encode("utf-8", "replace")).digest()
            first = self._by_digest.setdefault(digest, id)
            if first != id:
                return Duplicate(id, first, 1.0, True)
        if self.settings.near == "keep":
            return None
        shingles = self._shingles(text)
        if not len(shingles):
            return None
        signature = self._signature(shingles)
        keys = [(band, signature[band * self._rows : (band + 1) * self._rows].tobytes()) for band in range(self._bands)]
        sketch = shingles[:_SKETCH]
        found = self._nearest(id, signature, sketch, keys)
        if found is None:
            self._remember(id, signature, sketch, keys)
        return found

    def _nearest(
        self, id: str, signature: NDArray[np.uint32], sketch: NDArray[np.uint64], keys: list[tuple[int, bytes]]
    ) -> Duplicate | None:
        candidates = np.array(sorted({row for key in keys for row in self._buckets.get(key, ())}), np.int64)
        if not len(candidates):
            return None
        estimate = (self._signatures[candidates] == signature).mean(axis=1)
        likely = candidates[estimate >= self.settings.threshold - _MARGIN].tolist()
        similarity, of = max(((_jaccard(self._sketches[row], sketch), -row) for row in likely), default=(0.0, 0))
        return Duplicate(id, self._ids[-of], similarity, False) if similarity >= self.settings.threshold else None

    def _remember(
        self, id: str, signature: NDArray[np.uint32], sketch: NDArray[np.uint64], keys: list[tuple[int, bytes]]
    ) -> None:
        row = len(self._ids)
        if row == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[row] = signature
        self._ids.append(id)
        self._sketches.append(sketch.copy())
        for key in keys:
            bucket = self._buckets.setdefault(key, [])
            if len(bucket) < _BUCKET:
                bucket.append(row)

    def _shingles(self, text: str) -> NDArray[np.uint64]:
        """The distinct hashes of the runs of words, ascending; of a shorter text, the one run that it is."""
        known = self._word_hashes
        hashes = []
        for word in words(text.casefold()):
            value = known.get(word)
            if value is None:
                data = word.encode("utf-8", "replace")
                value = known[word] = zlib.crc32(data) << 32 | zlib.crc32(data, 0x9E3779B9)
            hashes.append(value)
        each = _mix(np.array(hashes, np.uint64))
        size = min(self.settings.shingle, len(each))
        if not size:
            return each
        run = np.zeros(len(each) - size + 1, np.uint64)
        for at in range(size):
            run = _mix(run + each[at : at + len(run)])
        return np.unique(run)

    def _signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint32]:
        least = np.full(_PERMUTATIONS, 2**32 - 1, np.uint32)
        for at in range(0, len(shingles), _BLOCK):
            # Multiply-shift hashing: the upper half of a * x + b modulo 2^64.
            product = np.multiply.outer(self._multipliers, shingles[at : at + _BLOCK])
            product += self._offsets[:, None]
            least = np.minimum(least, (product.min(axis=1) >> np.uint64(32)).astype(np.uint32))
        return least


def bands_for(threshold: float) -> tuple[int, int]:
    """Bands and rows a band: the most rows for which a pair at the threshold is missed with probability <= 0.001."""
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= _MISS:
            return bands, rows
    return _PERMUTATIONS, 1


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64, which spreads every bit over all others."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Of two sets of hashes, each sorted; on the smallest ones of their union where a set was cut to its sketch."""
    union = np.union1d(a, b)
    if len(a) == _SKETCH or len(b) == _SKETCH:
        union = union[:_SKETCH]
        common = np.intersect1d(np.intersect1d(a, b, assume_unique=True), union, assume_unique=True)
        return len(common) / len(union)
    return (len(a) + len(b) - len(union)) / len(union)
