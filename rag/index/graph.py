"""Approximate search along a proximity graph, in the native engine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import InputError
from rag.index.effort import WINDOWS, EffortCurve, measure
from rag.index.filter import IdFilter, prepared
from rag.index.inputs import as_ids, as_vectors, check_count, check_k
from rag.index.native import Codec, NativeIndex, ScanStats
from rag.index.protocol import Matches, Metric

if TYPE_CHECKING:
    from typing_extensions import Self

    from rag.index.files import SectionFile

__all__ = ["GraphIndex", "GraphStats"]

_SAMPLE = 256  # vectors that stand in for queries when effort is measured
_TRUE = 500  # candidates of a scan whose best eleven are taken for the true ones
_FEW = 4096  # fewer vectors are scanned anyway
_GROWTH = 1.5  # the effort is measured anew when there are so many times the vectors
_UNTIDY = 0.2  # share of linked rows that may be deleted before links are led around them


@dataclass(frozen=True, slots=True)
class GraphStats(ScanStats):
    """Also: links of a row (`degree`, on average), and the measured `effort`, None while there are few vectors."""

    degree: float
    effort: EffortCurve | None


class GraphIndex(NativeIndex):
    """A `VectorIndex` that walks along links between near vectors, and so looks at few of them.

    `dim`, `metric` and `codec` are those of `ScanIndex`; walks read the codec's short copy, results are ranked by the
    finer one. `degree`: links of a vector, at most (8 to 128). `window`: how many vectors a search keeps in sight while
    the graph is built; more make a better graph and take longer. `passes`: 2 lets every vector look for its neighbours
    once more when all are there. The graph depends on these, on `seed`, and on what is added in which calls, but not on
    the number of `threads` (0: all cores) that build it.

    Searches take the recall that is wanted, and find out by a curve measured on the index itself how far to walk.
    Where few vectors pass a filter, or few are there at all, they are scanned; then nothing is missed.
    Vamana: Subramanya et al., NeurIPS 2019; links beyond rows that fail a filter: ACORN, Patel et al., SIGMOD 2024.
    """

    kind: ClassVar[str] = "graph"

    def __init__(
        self,
        dim: int,
        metric: Metric = "cosine",
        codec: Codec = "leanvec4",
        *,
        degree: int = 32,
        window: int = 100,
        passes: int = 1,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        for name, value, low, high in (
            ("degree", degree, 8, 128),
            ("window", window, 16, 2000),
            ("passes", passes, 1, 4),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
        self._form = {"degree": int(degree), "window": int(window), "passes": int(passes), "seed": int(seed)}
        self._threads = check_count(threads, "threads")
        super().__init__(dim, metric, codec)
        self._curve: EffortCurve | None = None
        self._tidied = 0  # deleted rows that no link leads to
        self._longest = 0.0
        self._opening = threading.Lock()

    def _use(self, store: _native.VectorStore) -> None:
        super()._use(store)
        self._graph = _native.Graph(store, **self._form)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors float32[n, dim] under new ids int64[n] (each >= 0); the id of a deleted vector is new again.

        Searches go on meanwhile. Raises InputError for what `ScanIndex.add` refuses. Then, and when it is
        interrupted, nothing is added.
        """
        self._checked()
        super().add(ids, vectors)
        known = self._curve.vectors if self._curve else _FEW / _GROWTH
        try:
            if len(self) >= known * _GROWTH:
                self._graph.grow(_SAMPLE, self._threads)
                unseen = self._graph.waiting()[0]
                seen = np.setdiff1d(np.concatenate(self._store.parts()["ids"]).view(np.int64), unseen)
                self._measure(_between(self._store.vectors(unseen)), IdFilter(seen))
            self._graph.grow(0, self._threads)
        except BaseException:
            with self._writing:
                self._store.remove(as_ids(ids))
            raise

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there.

        Links are led around deleted vectors once these are a fifth of all, or when `consolidate` is called.
        """
        self._checked()
        removed = super().delete(ids)
        dead = self._store.rows - self._store.live
        if dead - self._tidied > _UNTIDY * self._store.rows:
            self.consolidate()
        return removed

    def consolidate(self) -> None:
        """Lead links around deleted vectors (FreshVamana: Singh et al., 2021), so that walks no longer meet them."""
        self._checked()
        with self._writing:
            dead = self._store.rows - self._store.live
            self._graph.consolidate(self._threads)
            self._tidied = dead

    def calibrate(self, queries: NDArray[np.float32]) -> EffortCurve:
        """Measure how recall grows with effort, by real queries float32[q, dim].

        `add` does so with vectors that the graph has not seen yet, whenever the index has grown by half. Real queries
        may be harder: a few hundred are enough. Raises InputError when the index or the queries are empty.
        """
        matrix = as_vectors(queries, self.dim, "queries")
        if not len(self) or not len(matrix):
            raise InputError(f"{len(self)} vectors and {len(matrix)} queries: there is nothing to measure")
        return self._measure(matrix, None)

    def _measure(self, queries: NDArray[np.float32], among: IdFilter | None) -> EffortCurve:
        allowed = prepared(among)
        truth, _ = self._store.scan(queries, 10, allowed, _TRUE, self._threads)
        # Beyond some window a scan is cheaper than a walk, and there is nothing to measure.
        most = len(self) // (2 * self._form["degree"])
        self._curve = measure(
            lambda window: self._graph.walk(queries, 10, None, window, 0, self._threads)[0],
            truth,
            len(self),
            [window for window in WINDOWS if window < most] or WINDOWS[:1],
        )
        return self._curve

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        filter: IdFilter | NDArray[np.int64] | None = None,
        recall: float = 0.95,
        effort: int = 0,
        rerank: int = 0,
        threads: int = 0,
    ) -> Matches:
        """The k nearest for each query float32[q, dim]: ids int64[q, k] and scores float32[q, k], best first.

        With `filter` (an `IdFilter`, or allowed ids int64[m], sorted and unique) among those only. `recall`: share of
        the true k nearest to be found, on average, above 0 to 1; what no walk reaches is scanned for. `effort`: the
        window, the number of vectors a walk expands, in place of `recall`. `rerank`: how many are ranked by the finer
        copy, 0 for what suits. `threads` 0 means all cores. The result depends neither on the number of threads nor on
        the other queries. Raises InputError as `ScanIndex.search` does.
        """
        matrix, wanted, allowed = as_vectors(queries, self.dim, "queries"), check_k(k), prepared(filter)
        deep, cores = check_count(rerank, "rerank"), check_count(threads, "threads")
        if isinstance(recall, bool) or not isinstance(recall, (float, int)) or not 0 < recall <= 1:
            raise InputError(f"recall is {recall!r}, expected a number above 0, at most 1")
        window: int | None = check_count(effort, "effort")
        if not window and self._curve is not None:
            window = self._curve.window(recall, wanted)
        store = self._checked()
        if not window:
            everything = store.rows if recall == 1 else deep
            return Matches(*store.scan(matrix, wanted, allowed, everything, cores))
        return Matches(*self._graph.walk(matrix, wanted, allowed, window, deep, cores))

    def stats(self) -> GraphStats:
        """Counts, bytes by part, degree, and the measured effort curve."""
        own = super().stats()
        self._checked()
        with self._writing:
            links = self._graph.links()
            degree = float((links != 2**32 - 1).sum(1).mean()) if len(links) else 0.0
            sizes: Mapping[str, int] = {**own.bytes, "links": links.nbytes}
        return GraphStats(
            own.vectors, own.tombstones, own.dim, own.metric, own.codec, sizes, degree=degree, effort=self._curve
        )

    def _content(self) -> tuple[dict[str, Any], dict[str, list[NDArray[np.uint8]]]]:
        meta, sections = super()._content()
        meta |= {"graph": self._form, "longest": self._graph.longest, "tidied": self._tidied}
        if self._curve is not None:
            meta["effort"] = asdict(self._curve)
        sections["links"] = [self._graph.links().reshape(-1).view(np.uint8)]
        return meta, sections

    @classmethod
    def _described(cls, meta: Mapping[str, Any]) -> Self:
        return cls(meta["dim"], meta["metric"], meta["codec"], **meta["graph"])

    def _attach(self, file: SectionFile) -> None:
        super()._attach(file)
        if len(file.unchecked("links")) != file.meta["rows"] * 4 * self._form["degree"]:
            raise InputError("section 'links' has the wrong length")
        self._tidied = int(file.meta["tidied"])
        self._longest = float(file.meta["longest"])
        if (effort := file.meta.get("effort")) is not None:
            self._curve = EffortCurve(int(effort["vectors"]), tuple(effort["windows"]), tuple(effort["recalls"]))

    def _checked(self) -> _native.VectorStore:
        # Links are read when they are attached: they must lead to rows that exist.
        if (file := self._file) is not None:
            with self._opening:
                if self._file is not None:
                    file.check()
                    self._graph.attach(file.section("links"), self._longest)
                    self._file = None
        return self._store


def _between(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand-ins for queries: half-way between two vectors each.

    Queries are seldom like the vectors they look for. Recall with these grows with effort as it does for real questions
    about passages, where it grows slower than with vectors of the same kind.
    """
    middle = np.asarray((vectors + np.roll(vectors, 1, axis=0)) / 2, dtype=np.float32)
    opposite = ~middle.any(1)
    middle[opposite] = vectors[opposite]
    return middle
