"""Exact search by scanning every vector, in the native engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import DamagedFileError, InputError
from rag.index.files import read_sections, write_sections
from rag.index.inputs import as_filter, as_ids, as_vectors, check_k, check_threads
from rag.index.protocol import Matches, Metric

__all__ = ["Codec", "ScanIndex", "ScanStats"]

Codec: TypeAlias = Literal["float32", "float16", "int8"]
"""float32: as given. float16: half the bytes, numbers rounded to 11 bits, magnitudes to 65504.

int8: a byte a number with a scale for each vector; the best of a first pass over these are ranked again by float16
copies, which are kept beside them (3 bytes a number in all, 1 of them read by the scan)."""

MAX_DIM = 65536


@dataclass(frozen=True, slots=True)
class ScanStats:
    """What an index holds: `vectors` that can be found, `tombstones` left by deletions, and `bytes` by part."""

    vectors: int
    tombstones: int
    dim: int
    metric: Metric
    codec: Codec
    bytes: Mapping[str, int]


class ScanIndex:
    """A `VectorIndex` that scores every vector which passes the filter, so that nothing is ever missed.

    `dim` 1 to 65536; `metric` "cosine", "ip" or "l2"; `codec` "float32", "float16" or "int8" (see `Codec`).
    Scores are those of the stored numbers: of the float32 vectors, or of their float16 copies for the other two.
    With int8, which vectors are ranked is decided by approximate scores; k + max(32, k) of them are ranked exactly.
    Safe to use from several threads; searches run side by side.
    Under cosine, vectors are stored at unit length, and a vector or query of zeros is refused.
    """

    def __init__(self, dim: int, metric: Metric = "cosine", codec: Codec = "float32") -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim!r}, expected a whole number from 1 to {MAX_DIM}")
        self._store = _native.VectorStore(int(dim), metric, codec)
        self._metric: Metric = metric
        self._codec: Codec = codec
        self._writing = threading.Lock()  # a save sees no half of an add

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self._store.dim

    @property
    def metric(self) -> Metric:
        """How similarity is measured."""
        return self._metric

    @property
    def codec(self) -> Codec:
        """How vectors are stored."""
        return self._codec

    def __len__(self) -> int:
        """Vectors that can be found."""
        return self._store.live

    def __repr__(self) -> str:
        return f"ScanIndex(dim={self.dim}, metric={self.metric!r}, codec={self.codec!r}, vectors={len(self)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ScanIndex cannot be pickled; use save(path), and ScanIndex.open(path) in the other process")

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors float32[n, dim] under new ids int64[n] (each >= 0); the id of a deleted vector is new again.

        Raises InputError, and adds nothing, for NaN or infinity, a wrong dimension, an id that is there already or
        given twice, a vector of zeros under cosine, or numbers beyond the codec (float16: 65504).
        """
        id_array, matrix = as_ids(ids), as_vectors(vectors, self.dim)
        if len(id_array) != len(matrix):
            raise InputError(f"{len(id_array)} ids for {len(matrix)} vectors")
        with self._writing:
            self._store.add(id_array, matrix)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        with self._writing:
            return self._store.remove(as_ids(ids))

    def search(
        self, queries: NDArray[np.float32], k: int, *, filter: NDArray[np.int64] | None = None, threads: int = 0
    ) -> Matches:
        """The k nearest for each query float32[q, dim]: ids int64[q, k] and scores float32[q, k], best first.

        With `filter` (allowed ids int64[m], sorted and unique; unknown ones are passed over) among those only.
        `threads` 0 means all cores. The result depends neither on the number of threads nor on the other queries.
        Raises InputError for NaN or infinity, a wrong dimension, k < 1, or a query of zeros under cosine.
        """
        matrix = as_vectors(queries, self.dim, "queries")
        return Matches(*self._store.scan(matrix, check_k(k), as_filter(filter), check_threads(threads)))

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors float32[n, dim] of these ids (at unit length under cosine), from the finest copy.

        Raises NotFoundError for an id that is not there.
        """
        return self._store.vectors(as_ids(ids))

    def stats(self) -> ScanStats:
        """Counts and bytes by part."""
        with self._writing:
            rows, live = self._store.rows, self._store.live
            sizes = self._store.part_sizes(rows)
        return ScanStats(live, rows - live, self.dim, self.metric, self.codec, sizes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, which is there completely or not at all; searches go on meanwhile.

        Raises CollectionError when it cannot be written.
        """
        with self._writing:
            meta = {"dim": self.dim, "metric": self.metric, "codec": self.codec, "rows": self._store.rows}
            write_sections(Path(path), "scan", meta, self._store.parts())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ScanIndex:
        """Map a saved index into memory, after checking all of it. It can be changed, which does not touch the file.

        Raises NotFoundError, DamagedFileError (naming the section), or CollectionError for a version from the future.
        """
        file = read_sections(Path(path), "scan")
        meta: Mapping[str, Any] = file.meta
        index = cls(meta["dim"], meta["metric"], meta["codec"])
        for name, size in index._store.part_sizes(meta["rows"]).items():
            if name not in file.sections or len(file.sections[name]) != size:
                raise DamagedFileError(f"{path}: section {name!r} is missing or not {size} bytes long")
        index._store.attach(meta["rows"], dict(file.sections))
        return index
