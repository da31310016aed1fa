"""faiss as a vector index in this process (extra `faiss`).

Vectors lie in a faiss index by row, in the order they were added; which id a row has is kept here. So ids are free
again once they are deleted, with each kind of index, although faiss's graphs cannot delete: the rows of deleted vectors
are masked in every search, and when they are more than a quarter, the index is built anew without them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, DamagedFileError, InputError, MissingExtraError, NotFoundError, did_you_mean
from rag.index.engines.checks import check_dim, checked_new, checked_vectors
from rag.index.engines.gate import Gate
from rag.index.engines.widen import contained, nothing, widened
from rag.index.files import read_sections, write_sections
from rag.index.filter import IdFilter, allowed_ids
from rag.index.inputs import as_ids, check_count, check_k
from rag.index.protocol import Matches, Metric

__all__ = ["FaissIndex", "Kind", "canonical_uri", "kind_of"]

Kind: TypeAlias = Literal["hnsw", "ivf", "flat"]
"""hnsw: a graph, fast and approximate. ivf: inverted lists, built faster, approximate. flat: an exact scan."""

MAX_DIM = 65536
SCAN_BELOW = 10_000
"""Fewer vectors than this are always scanned: exact, and a graph would win next to nothing."""
SCAN_SHARE = 0.1
"""When fewer than this share of the rows pass a filter, they are scanned: a walk would mostly meet others."""
MOST_DELETED = 0.25
HNSW_NEIGHBOURS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 128
IVF_PROBED = 8
"""One in so many lists is looked at."""
IVF_SMALLEST = 39
IVF_GROWTH = 2
"""Lists are trained anew when there should be so many times more of them."""
_RESCORED = 1 << 22
_PROCESS = os.getpid()
"""OpenMP's threads do not survive a fork, and a child that waited for them would wait for ever."""


class FaissIndex:
    """A `VectorIndex` of faiss: exact below 10,000 vectors, above of the `kind` asked for.

    `dim` 1 to 65536; `metric` "cosine", "ip" or "l2". Scores are those of the vectors as float32 (at unit length under
    cosine), whatever faiss has rounded. Safe to use from several threads. Raises MissingExtraError without faiss.
    """

    _index: Any
    _built: Kind
    _id_of: NDArray[np.int64]
    """By row; -1 for deleted ones."""
    _ids: NDArray[np.int64]
    """Sorted, and the row of each:"""
    _rows: NDArray[np.int64]

    def __init__(self, dim: int, metric: Metric = "cosine", kind: Kind = "hnsw") -> None:
        self._faiss = _import_faiss()
        self._dim = check_dim(dim, MAX_DIM)
        if metric not in get_args(Metric):
            raise InputError(f"metric is {metric!r}", hint=did_you_mean(str(metric), get_args(Metric)))
        self._metric: Metric = metric
        self._kind = kind
        self._gate = Gate()
        self._place(self._empty("flat", 0), "flat", np.empty(0, np.int64))

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return self._dim

    @property
    def metric(self) -> Metric:
        """How similarity is measured."""
        return self._metric

    @property
    def kind(self) -> Kind:
        """What it is above 10,000 vectors."""
        return self._kind

    def __len__(self) -> int:
        """Vectors that can be found."""
        return len(self._ids)

    def __repr__(self) -> str:
        return f"FaissIndex(dim={self.dim}, metric={self.metric!r}, kind={self.kind!r}, vectors={len(self)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a FaissIndex cannot be pickled; use save(path), and FaissIndex.open(path) in the other process"
        )

    # Changes

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors float32[n, dim] under new ids int64[n] (each >= 0); the id of a deleted vector is new again.

        Raises InputError, and adds nothing, for NaN or infinity, a wrong dimension, an id that is there already or
        given twice, or a vector of zeros under cosine.
        """
        matrix = checked_vectors(vectors, self.dim, self.metric)
        new = checked_new(ids, len(matrix))
        with self._gate.writing(), self._threads(0):
            if len(there := new[contained(new, self._ids)]):
                raise InputError(f"id {there[0]} is there already", hint="delete it first")
            if len(new):
                self._index.add(matrix)
                order = np.argsort(new)
                at = np.searchsorted(self._ids, new[order])
                self._rows = np.insert(self._rows, at, len(self._id_of) + order)
                self._ids = np.insert(self._ids, at, new[order])
                self._id_of = np.concatenate([self._id_of, new])
                self._settle()

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        given = np.unique(as_ids(ids))
        with self._gate.writing(), self._threads(0):
            gone = contained(self._ids, given)
            self._id_of[self._rows[gone]] = -1
            self._ids, self._rows = self._ids[~gone], self._rows[~gone]
            self._settle()
        return int(gone.sum())

    def _settle(self) -> None:
        """Build the index anew when it has become large enough for its kind, or holds too many deleted rows."""
        live, rows = len(self._ids), len(self._id_of)
        kind: Kind = "flat" if live < SCAN_BELOW else self._kind
        outgrown = self._built == "flat" and kind != "flat"
        if self._built == "ivf":
            outgrown = _lists(live) >= IVF_GROWTH * self._index.nlist
        if outgrown or rows - live > MOST_DELETED * rows:
            vectors = self._reconstructed(np.sort(self._rows))
            index = self._empty(kind, live)
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
            self._place(index, kind, self._id_of[self._id_of >= 0])

    def _place(self, index: Any, built: Kind, id_of: NDArray[np.int64]) -> None:
        """Make this the index, with the ids of its rows."""
        self._index, self._built, self._id_of = index, built, id_of
        rows = np.flatnonzero(id_of >= 0)
        order = np.argsort(id_of[rows])
        self._rows = rows[order]
        self._ids = id_of[self._rows]

    def _empty(self, kind: Kind, size: int) -> Any:
        metric = self._faiss.METRIC_L2 if self.metric == "l2" else self._faiss.METRIC_INNER_PRODUCT
        if kind == "hnsw":
            index = self._faiss.IndexHNSWFlat(self.dim, HNSW_NEIGHBOURS, metric)
            index.hnsw.efConstruction = HNSW_BUILD
            return index
        if kind == "ivf":
            index = self._faiss.index_factory(self.dim, f"IVF{_lists(size)},Flat", metric)
            index.set_direct_map_type(self._faiss.DirectMap.Array)
            return index
        return self._faiss.IndexFlat(self.dim, metric)

    # Searching

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        filter: IdFilter | NDArray[np.int64] | None = None,
        threads: int = 0,
    ) -> Matches:
        """The k nearest for each query float32[q, dim]: ids int64[q, k] and scores float32[q, k], best first.

        With `filter` (allowed ids int64[m], sorted and unique; unknown ones are passed over) among those only.
        `threads` 0 means all cores. Raises InputError for NaN or infinity, a wrong dimension, k < 1, or a query of
        zeros under cosine.
        """
        matrix = checked_vectors(queries, self.dim, self.metric, "queries")
        allowed, wanted, at_once = allowed_ids(filter), check_k(k), check_count(threads, "threads")
        with self._gate.reading(), self._threads(at_once):
            rows = self._rows if allowed is None else self._rows[contained(self._ids, allowed)]
            if not len(rows) or not len(matrix):
                return nothing(len(matrix), wanted)
            selector = self._selector(rows)
            scan = self._built == "flat" or len(rows) < SCAN_SHARE * len(self._id_of)
            found = self._found(matrix, wanted, selector, len(rows), scan)
            short = np.flatnonzero((found.ids[:, : len(rows)] < 0).any(axis=1))
            if len(short):
                again = self._found(matrix[short], wanted, selector, len(rows), scan=True)
                found.ids[short], found.scores[short] = again.ids, again.scores
        return found

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors float32[n, dim] of these ids (at unit length under cosine).

        Raises NotFoundError for an id that is not there.
        """
        wanted = as_ids(ids)
        with self._gate.reading(), self._threads(0):
            if len(missing := wanted[~contained(wanted, self._ids)]):
                raise NotFoundError(f"there is no vector {missing[0]}")
            return self._reconstructed(self._rows[np.searchsorted(self._ids, wanted)])

    def _found(self, queries: NDArray[np.float32], k: int, selector: Any, most: int, scan: bool) -> Matches:
        def ask(some: NDArray[np.float32], m: int) -> Matches:
            index, parameters = self._plan(m, selector, scan)
            _, rows = index.search(some, m, params=parameters)
            ids = np.where(rows >= 0, self._id_of[np.maximum(rows, 0)], -1)
            return Matches(ids, self._scores(some, rows))

        return widened(ask, queries, k, most=most)[0]

    def _plan(self, m: int, selector: Any, scan: bool) -> tuple[Any, Any]:
        """The faiss index to ask for m results, and its search parameters."""
        if self._built == "hnsw" and not scan:
            return self._index, self._faiss.SearchParametersHNSW(sel=selector, efSearch=max(HNSW_SEARCH, 2 * m))
        if self._built == "ivf":
            lists = self._index.nlist
            probed = lists if scan else -(-lists // IVF_PROBED)
            return self._index, self._faiss.SearchParametersIVF(sel=selector, nprobe=probed)
        flat = self._faiss.downcast_index(self._index.storage) if self._built == "hnsw" else self._index
        return flat, self._faiss.SearchParameters(sel=selector)

    def _selector(self, rows: NDArray[np.int64]) -> Any:
        if len(rows) == len(self._id_of):
            return None
        mask = np.zeros(len(self._id_of), bool)
        mask[rows] = True
        return self._faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def _scores(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[q, m], of each pair alone. faiss's own differ with the size of the batch, by its rounding."""
        scores = np.full(rows.shape, -np.inf, np.float32)
        step = max(1, _RESCORED // (rows.shape[1] * self.dim))
        for start in range(0, len(rows), step):
            some, these = queries[start : start + step].astype(np.float64), rows[start : start + step]
            vectors = self._reconstructed(np.maximum(these, 0).ravel()).reshape(*these.shape, self.dim)
            if self.metric == "l2":
                differences = vectors - some[:, None]
                exact = -np.einsum("qmd,qmd->qm", differences, differences)
            else:
                exact = np.einsum("qmd,qd->qm", vectors, some)
            scores[start : start + step] = np.where(these >= 0, exact, -np.inf)
        return scores

    def _reconstructed(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(rows):
            return np.empty((0, self.dim), np.float32)
        return np.asarray(self._index.reconstruct_batch(rows), np.float32)

    @contextmanager
    def _threads(self, threads: int) -> Iterator[None]:
        """OpenMP keeps the number of threads for each calling thread. In a forked process it is one."""
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1 if os.getpid() != _PROCESS else threads or os.cpu_count() or 1)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, which is there completely or not at all; searches go on meanwhile.

        faiss's own format is a section of ours, with a checksum. Raises CollectionError when it cannot be written.
        """
        with self._gate.reading():
            meta = {"dim": self.dim, "metric": self.metric, "kind": self.kind, "built": self._built}
            sections = {
                "ids": [self._id_of.astype("<i8").view(np.uint8)],
                "index": [self._faiss.serialize_index(self._index)],
            }
            write_sections(Path(path), "faiss", meta, sections)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FaissIndex:
        """Read a saved index into memory, after checking all of it.

        Raises NotFoundError, DamagedFileError (naming the section), or CollectionError for a version from the future.
        """
        file = read_sections(Path(path), "faiss")
        made = cls(file.meta["dim"], file.meta["metric"], file.meta["kind"])
        id_of = np.frombuffer(file.section("ids"), "<i8").astype(np.int64)
        try:
            index = made._faiss.deserialize_index(file.section("index").copy())
        except RuntimeError as error:
            raise DamagedFileError(
                f"{path}: faiss cannot read section 'index'", hint="was it written by a newer faiss? rebuild it"
            ) from error
        if (index.ntotal, index.d) != (len(id_of), made.dim):
            raise DamagedFileError(f"{path}: section 'index' does not hold the vectors of section 'ids'")
        made._place(index, file.meta["built"], id_of)
        return made


def _lists(vectors: int) -> int:
    """Four times the square root, but no fewer vectors a list than faiss wants for training."""
    return max(1, min(int(4 * vectors**0.5), vectors // IVF_SMALLEST))


def canonical_uri(uri: str) -> str:
    """faiss:KIND, from that or from "faiss" alone."""
    kind = uri.partition(":")[2] or "hnsw"
    if kind not in get_args(Kind):
        raise ConfigError(f"faiss has no index {kind!r} here", hint=did_you_mean(kind, get_args(Kind)))
    return f"faiss:{kind}"


def kind_of(uri: str) -> Kind:
    """The kind that a URI of faiss names."""
    found = canonical_uri(uri).partition(":")[2]
    return next(kind for kind in get_args(Kind) if kind == found)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("the engine faiss", "faiss") from error
    return faiss
