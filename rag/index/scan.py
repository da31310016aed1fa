"""Exact search by scanning every vector, in the native engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import DamagedFileError, InputError
from rag.index.files import SectionFile, read_sections, write_sections
from rag.index.inputs import as_filter, as_ids, as_vectors, check_count, check_k
from rag.index.learning import Learned, learn, learns
from rag.index.protocol import Matches, Metric

__all__ = ["CODECS", "Codec", "ScanIndex", "ScanStats"]

Codec: TypeAlias = Literal[
    "float32",
    "float16",
    "int8",
    "lvq8",
    "lvq4x8",
    "lvq4x4",
    "rabitq1",
    "rabitq2",
    "rabitq4",
    "leanvec",
    "leanvec4",
    "pq",
]
"""float32: as given. float16: half the bytes, numbers rounded to 11 bits, magnitudes to 65504.

The others keep two copies: a short one, which every search reads, and a finer one, by which the best of the first pass
are ranked again.

- int8: a byte a number with a scale for each vector, then float16: 3 bytes a number in all, 1 of them read by the scan.
- lvq8, lvq4x8, lvq4x4: 8 or 4 bits a number between the vector's own smallest and largest, less the mean of all;
  then 12, 12 and 8 bits (LVQ: Aguerrebere et al., PVLDB 2023).
- rabitq1, rabitq2, rabitq4: 1, 2 or 4 bits a number after a random rotation; then 12 bits (RaBitQ: Gao and Long,
  SIGMOD 2024).
- leanvec: 2 bits for each of the 208 directions that matter most, in one cache line of 64 bytes whatever the dimension;
  then 12 bits (LeanVec: Tepper et al., TMLR 2024). The fastest scan, and the smallest first copy.
- pq: a byte for every 8 numbers, which names the nearest of 256 centroids learned for them; then 12 bits (PQ: Jegou et
  al., PAMI 2011). For thousands of numbers of much the same weight, such as fixed dimensional encodings."""

CODECS: tuple[Codec, ...] = get_args(Codec)

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

    `dim` 1 to 65536; `metric` "cosine", "ip" or "l2"; `codec` as listed at `Codec`.
    Scores are those of the stored numbers, in the finer copy where there are two. Then the first pass decides by
    approximate scores which vectors are ranked by the finer ones: `rerank` of them.
    LVQ, RaBitQ, LeanVec and PQ learn from the first vectors that are added, or from what `learn` is given before.
    Safe to use from several threads; searches run side by side.
    Under cosine, vectors are stored at unit length, and a vector or query of zeros is refused.
    """

    def __init__(self, dim: int, metric: Metric = "cosine", codec: Codec = "float32") -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim!r}, expected a whole number from 1 to {MAX_DIM}")
        self._store = _native.VectorStore(int(dim), metric, codec)
        self._metric: Metric = metric
        self._codec: Codec = codec
        self._learned: Learned | None = None
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
            if self._learned is None and learns(self.codec) and len(matrix) and np.isfinite(matrix).all():
                self._learn(matrix, None)
            self._store.add(id_array, matrix)

    def learn(self, vectors: NDArray[np.float32], queries: NDArray[np.float32] | None = None) -> None:
        """Let the codec learn from vectors float32[n, dim], and perhaps queries float32[m, dim], before any is added.

        Worth calling when the first vectors to be added are few or unlike the rest, or with leanvec when questions are
        unlike passages. Codecs that learn nothing pass over it. Raises InputError once there are vectors.
        """
        matrix = as_vectors(vectors, self.dim)
        asked = None if queries is None else as_vectors(queries, self.dim, "queries")
        if not len(matrix):
            raise InputError("there are no vectors to learn from")
        if not (np.isfinite(matrix).all() and (asked is None or np.isfinite(asked).all())):
            raise InputError("vectors to learn from must be finite")
        with self._writing:
            if self._store.rows:
                raise InputError("the index holds vectors already", hint="learn first, then add")
            if learns(self.codec):
                self._learn(matrix, asked)

    def _learn(self, vectors: NDArray[np.float32], queries: NDArray[np.float32] | None) -> None:
        self._learned = learn(self.codec, self.metric, vectors, queries)
        self._store = _native.VectorStore(self.dim, self.metric, self.codec, *self._learned)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        with self._writing:
            return self._store.remove(as_ids(ids))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        filter: NDArray[np.int64] | None = None,
        rerank: int = 0,
        threads: int = 0,
    ) -> Matches:
        """The k nearest for each query float32[q, dim]: ids int64[q, k] and scores float32[q, k], best first.

        With `filter` (allowed ids int64[m], sorted and unique; unknown ones are passed over) among those only.
        `rerank`: how many of a first pass are ranked by the finer copy, where the codec keeps one (at least k; more
        find more and take longer); 0 for what suits the codec: leanvec 10k + 50, int8 k + max(32, k).
        `threads` 0 means all cores. The result depends neither on the number of threads nor on the other queries.
        Raises InputError for NaN or infinity, a wrong dimension, k < 1, or a query of zeros under cosine.
        """
        matrix = as_vectors(queries, self.dim, "queries")
        return Matches(
            *self._store.scan(
                matrix, check_k(k), as_filter(filter), check_count(rerank, "rerank"), check_count(threads, "threads")
            )
        )

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
            meta: dict[str, Any] = {
                "dim": self.dim,
                "metric": self.metric,
                "codec": self.codec,
                "rows": self._store.rows,
            }
            sections = self._store.parts()
            if self._learned is not None:
                learned = {name: array for name, array in self._learned._asdict().items() if array is not None}
                meta["learned"] = {name: list(array.shape) for name, array in learned.items()}
                sections |= {name: [array.reshape(-1).view(np.uint8)] for name, array in learned.items()}
            write_sections(Path(path), "scan", meta, sections)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ScanIndex:
        """Map a saved index into memory, after checking all of it. It can be changed, which does not touch the file.

        Raises NotFoundError, DamagedFileError (naming the section), or CollectionError for a version from the future.
        """
        file = read_sections(Path(path), "scan")
        meta: Mapping[str, Any] = file.meta
        index = cls(meta["dim"], meta["metric"], meta["codec"])
        learned: Mapping[str, list[int]] = meta.get("learned", {})
        sizes = {name: 4 * int(np.prod(shape)) for name, shape in learned.items()}
        _check_sizes(path, file, sizes)
        if learned:
            index._learned = Learned(*(_take(file, name, learned.get(name)) for name in Learned._fields))
            index._store = _native.VectorStore(index.dim, index.metric, index.codec, *index._learned)
        _check_sizes(path, file, index._store.part_sizes(meta["rows"]))
        index._store.attach(meta["rows"], {name: part for name, part in file.sections.items() if name not in sizes})
        return index


def _check_sizes(path: str | os.PathLike[str], file: SectionFile, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if name not in file.sections or len(file.sections[name]) != size:
            raise DamagedFileError(f"{path}: section {name!r} is missing or not {size} bytes long")


def _take(file: SectionFile, name: str, shape: list[int] | None) -> Any:
    """A float32 array out of its section, or None."""
    return None if shape is None else file.sections[name].view(np.float32).reshape(shape)
