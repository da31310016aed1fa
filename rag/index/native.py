"""Vectors in the native store: what indexes over them have in common, whichever way they search."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import DamagedFileError, InputError, did_you_mean
from rag.index.files import REBUILD, SectionFile, read_sections, write_sections
from rag.index.inputs import as_ids, as_vectors
from rag.index.learning import Learned, learn, learns
from rag.index.protocol import Metric
from rag.index.reduction import REDUCTIONS, Reduction

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CODECS", "Codec", "NativeIndex", "ScanStats"]

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
- leanvec, leanvec4: the 208 directions that matter most in 2 bits each, one cache line of 64 bytes whatever the
  dimension, or 232 in 4 bits, two lines; then 12 bits (LeanVec: Tepper et al., TMLR 2024). The first is the fastest
  scan, the second guides a walk nearly as well as the vectors themselves.
- pq: a byte for every 8 numbers, which names the nearest of 256 centroids learned for them; then 12 bits (PQ: Jegou et
  al., PAMI 2011). For thousands of numbers of much the same weight, such as fixed dimensional encodings."""

CODECS: tuple[Codec, ...] = get_args(Codec)

MAX_DIM = 65536
MOST_ROWS = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class ScanStats:
    """What an index holds: `vectors` that can be found, `tombstones` left by deletions, and `bytes` by part."""

    vectors: int
    tombstones: int
    dim: int
    metric: Metric
    codec: Codec
    bytes: Mapping[str, int]


class NativeIndex:
    """Vectors under ids in one codec, kept in memory or mapped from a file. Indexes add a way to search them."""

    kind: ClassVar[str]
    """Of the index, in its files."""
    _threads = 0  # that change the index; all cores

    def __init__(self, dim: int, metric: Metric, codec: Codec, finer: bool) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim!r}, expected a whole number from 1 to {MAX_DIM}")
        self._metric: Metric = metric
        self._codec: Codec = codec
        self._learned: Learned | None = None
        self._file: SectionFile | None = None  # what it was opened from, until all of that is checked
        self._writing = threading.Lock()  # a save sees no half of an add
        self._finer = finer
        self._use(_native.VectorStore(int(dim), metric, codec, finer=finer))

    def _use(self, store: _native.VectorStore) -> None:
        """Begin with this empty store."""
        self._store = store

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
        return (
            f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r}, codec={self.codec!r}, vectors={len(self)})"
        )

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"a {name} cannot be pickled; use save(path), and {name}.open(path) in the other process")

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
            self._store.add(id_array, matrix, self._threads)

    def learn(
        self,
        vectors: NDArray[np.float32],
        queries: NDArray[np.float32] | None = None,
        *,
        reduction: Reduction = "sphering",
    ) -> None:
        """Let the codec learn from vectors float32[n, dim], and perhaps queries float32[m, dim], before any is added.

        Worth calling when the first vectors to be added are few or unlike the rest, or with leanvec when questions are
        unlike passages: then `reduction` is how leanvec makes use of them. Codecs that learn nothing pass over it.
        Raises InputError once there are vectors.
        """
        matrix = as_vectors(vectors, self.dim)
        asked = None if queries is None else as_vectors(queries, self.dim, "queries")
        if not len(matrix):
            raise InputError("there are no vectors to learn from")
        if reduction not in REDUCTIONS:
            raise InputError(f"there is no reduction {reduction!r}", hint=did_you_mean(str(reduction), REDUCTIONS))
        if not (np.isfinite(matrix).all() and (asked is None or np.isfinite(asked).all())):
            raise InputError("vectors to learn from must be finite")
        with self._writing:
            if self._store.rows:
                raise InputError("the index holds vectors already", hint="learn first, then add")
            if learns(self.codec):
                self._learn(matrix, asked, reduction)

    def _learn(
        self, vectors: NDArray[np.float32], queries: NDArray[np.float32] | None, reduction: Reduction = "sphering"
    ) -> None:
        self._learned = learn(self.codec, self.metric, vectors, queries, reduction)
        self._use(self._empty_store())

    def _empty_store(self) -> _native.VectorStore:
        return _native.VectorStore(self.dim, self.metric, self.codec, *(self._learned or ()), finer=self._finer)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        with self._writing:
            return self._store.remove(as_ids(ids))

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors float32[n, dim] of these ids (at unit length under cosine), from the finest copy.

        Raises NotFoundError for an id that is not there; DamagedFileError, as `search` does.
        """
        return self._checked().vectors(as_ids(ids))

    def stats(self) -> ScanStats:
        """Counts and bytes by part."""
        with self._writing:
            rows, live = self._store.rows, self._store.live
            sizes = self._store.part_sizes(rows)
        return ScanStats(live, rows - live, self.dim, self.metric, self.codec, sizes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, which is there completely or not at all; searches go on meanwhile.

        Raises CollectionError when it cannot be written; DamagedFileError, as `search` does, rather than copy damage.
        """
        with self._writing:
            meta, sections = self._content()
            write_sections(Path(path), self.kind, meta, sections)

    def _content(self) -> tuple[dict[str, Any], dict[str, list[NDArray[np.uint8]]]]:
        """What a file of the index holds: its description, and sections in pieces."""
        store = self._checked()
        meta: dict[str, Any] = {"dim": self.dim, "metric": self.metric, "codec": self.codec, "rows": store.rows}
        if not self._finer:
            meta["finer"] = False
        sections = store.parts()
        if self._learned is not None:
            learned = {name: array for name, array in self._learned._asdict().items() if array is not None}
            meta["learned"] = {name: list(array.shape) for name, array in learned.items()}
            sections |= {name: [array.reshape(-1).view(np.uint8)] for name, array in learned.items()}
        return meta, sections

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a saved index into memory: milliseconds for a million vectors. Changing it does not touch the file.

        What is small is checked at once, the vectors before they are first read; that reads all of them once, on all
        cores. Raises NotFoundError, DamagedFileError (naming the section), or CollectionError for a version from the
        future.
        """
        file = read_sections(Path(path), cls.kind)
        try:
            index = cls._described(file.meta)
            index._attach(file)
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{path} holds what no index can be made of: {error}", hint=REBUILD) from error
        return index

    @classmethod
    def _described(cls, meta: Mapping[str, Any]) -> Self:
        """An empty index of this description."""
        form: dict[str, Any] = {"finer": meta.get("finer", True)}
        return cls(meta["dim"], meta["metric"], meta["codec"], **form)

    def _attach(self, file: SectionFile) -> None:
        """Take over what a file holds."""
        if "learned" in file.meta:
            shapes: dict[str, list[int]] = dict(file.meta["learned"])
            self._learned = Learned(*(_learned(file, name, shapes.get(name)) for name in Learned._fields))
            self._use(self._empty_store())
        rows = file.meta["rows"]
        if type(rows) is not int or not 0 <= rows <= MOST_ROWS:
            raise InputError(f"rows is {rows!r}")
        parts = {name: file.unchecked(name) for name in self._store.part_sizes(rows)}
        for name, size in self._store.part_sizes(rows).items():
            if len(parts[name]) != size:
                raise InputError(f"section {name!r} is {len(parts[name])} bytes long, not {size}")
        # These are read when they are attached.
        ids, tombstones = file.section("ids").view(np.int64), file.section("tombstones").view(np.uint64)
        if rows and ids.min() < 0:
            raise InputError("section 'ids' holds a negative id")
        if rows % 64 and int(tombstones[-1]) >> rows % 64:
            raise InputError("section 'tombstones' marks rows that are not there")
        self._store.attach(rows, parts)
        self._file = file

    def _checked(self) -> _native.VectorStore:
        """The store, once all of the file that it was opened from is checked."""
        if (file := self._file) is not None:
            file.check()
            self._file = None
        return self._store


def _learned(file: SectionFile, name: str, shape: list[int] | None) -> Any:
    """A float32 array out of its section, or None."""
    if shape is None:
        return None
    array = file.section(name).view(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise InputError(f"section {name!r} holds NaN or infinity")
    return array
