"""Centroid interaction: documents scored by the centroids nearest to their tokens, at a byte or two a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import InputError
from rag.index.files import SectionFile
from rag.index.filter import IdFilter, allowed_ids
from rag.index.inputs import as_ids, check_count, check_k
from rag.index.multivector.inputs import as_token_sets
from rag.index.multivector.kmeans import k_means, sampled, unit
from rag.index.protocol import Matches

__all__ = ["CentroidIndex", "centroids_for", "learn_centroids"]

MOST_CENTROIDS = 4096
LEARNED_FROM = 65_536  # tokens
_TOKENS = 16  # a centroid
_ROUNDS = 4


def centroids_for(tokens: int) -> int:
    """How many centroids suit so many tokens: one for 16, up to 4,096."""
    return int(np.clip(tokens // _TOKENS, 1, MOST_CENTROIDS))


def learn_centroids(tokens: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Centroids of tokens float32[t, dim] of any length but zero, as half floats hold them: float32[c, dim].

    k-means from up to 65,536 of the tokens, about a second.
    """
    sample = unit(sampled(tokens, LEARNED_FROM, rng))
    return k_means(sample, centroids_for(len(sample)), rng, _ROUNDS).astype(np.float16).astype(np.float32)


class CentroidIndex:
    """Documents under ids as the set of centroids that are nearest to their tokens, which stand in for the tokens.

    `centroids` float32[c, dim], up to 65,536, of numbers that half floats hold. A query is compared with all of them
    once; a document's approximate MaxSim then takes one look into a table of bytes for each of its centroids.
    PLAID: Santhanam et al., CIKM 2022, section 4 (centroid interaction).
    """

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self._centroids = np.ascontiguousarray(centroids, np.float32)
        self._index = _native.CentroidIndex(self._centroids)

    @property
    def dim(self) -> int:
        """Numbers a token."""
        return int(self._centroids.shape[1])

    @property
    def centroids(self) -> int:
        """How many there are."""
        return len(self._centroids)

    @property
    def rows(self) -> int:
        """Centroids of documents, those of deleted ones included."""
        return self._index.rows

    def __len__(self) -> int:
        """Documents that can be found."""
        return self._index.live

    def add(self, ids: NDArray[np.int64], tokens: NDArray[np.float32], offsets: NDArray[np.int64]) -> None:
        """Add documents under new ids int64[n], with tokens[offsets[i]:offsets[i + 1]] of any length but zero.

        Raises InputError, and adds nothing, for what a `TokenStore` refuses.
        """
        self._index.add(as_ids(ids), *as_token_sets(tokens, offsets, self.dim))

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        return self._index.remove(as_ids(ids))

    def compact(self) -> None:
        """Give back the room of deleted documents."""
        self._index.compact()

    def search(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        k: int,
        *,
        filter: IdFilter | NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> Matches:
        """The k best documents by approximate MaxSim, among all or those that the filter allows, as a `TokenStore`
        finds them; the result depends neither on the number of threads nor on the other queries."""
        sets, allowed = as_token_sets(tokens, offsets, self.dim), allowed_ids(filter)
        return Matches(*self._index.search(*sets, check_k(k), allowed, check_count(threads, "threads")))

    def scores(
        self, tokens: NDArray[np.float32], offsets: NDArray[np.int64], candidates: NDArray[np.int64], threads: int = 0
    ) -> NDArray[np.float32]:
        """Approximate MaxSim of each query's candidates, ids int64[m, w]: float32[m, w], -inf for what is not there."""
        return self._index.score(*as_token_sets(tokens, offsets, self.dim), candidates, check_count(threads, "threads"))

    def bytes(self) -> Mapping[str, int]:
        """By part."""
        sizes = self._index.part_sizes(self._index.documents, self._index.rows)
        return {**sizes, "centroids": 2 * self._centroids.size}

    def _content(self) -> tuple[dict[str, Any], dict[str, list[NDArray[np.uint8]]]]:
        """What a file of the index holds: its description, and sections in pieces."""
        index = self._index
        meta = {"dim": self.dim, "centroids": self.centroids, "documents": index.documents, "rows": index.rows}
        halves = self._centroids.astype(np.float16).reshape(-1).view(np.uint8)
        return meta, {**index.parts(), "centroids": [halves]}

    @classmethod
    def _read(cls, file: SectionFile) -> CentroidIndex:
        """Out of a file. Raises InputError, KeyError, TypeError or ValueError when it is none."""
        meta = file.meta
        if any(type(meta[name]) is not int or meta[name] < 0 for name in ("dim", "centroids", "documents", "rows")):
            raise InputError(f"it says {dict(meta)!r}")
        centroids = file.section("centroids").view(np.float16).reshape(meta["centroids"], meta["dim"])
        index = cls(centroids.astype(np.float32))
        sizes = index._index.part_sizes(meta["documents"], meta["rows"])
        parts = {name: file.section(name) for name in sizes}
        for name, size in sizes.items():
            if len(parts[name]) != size:
                raise InputError(f"section {name!r} is {len(parts[name])} bytes long, not {size}")
        index._index.attach(meta["documents"], meta["rows"], parts)
        return index
