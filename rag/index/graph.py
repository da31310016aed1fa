"""Approximate search along a proximity graph, in the native engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag import _native
from rag.errors import InputError
from rag.index.compaction import copy_live
from rag.index.effort import Effort, EffortCurve, measure, stand_ins
from rag.index.filter import IdFilter, prepared
from rag.index.inputs import as_ids, as_vectors, check_count, check_k
from rag.index.native import Codec, NativeIndex, ScanStats
from rag.index.order import ORDERS, Order, insertion_order
from rag.index.projection import NO_ROW, project
from rag.index.protocol import Matches, Metric

if TYPE_CHECKING:
    from typing_extensions import Self

    from rag.index.files import SectionFile

__all__ = ["GraphIndex", "GraphStats"]

Links: TypeAlias = Literal["vamana", "hnsw"]

_SAMPLE = 256  # vectors that stand in for queries when effort is measured
_PROJECTED = 512  # queries that effort is measured by, of those that links were made of
_TRUE = 500  # candidates of a scan whose best eleven are taken for the true ones
_FEW = 4096  # fewer vectors are scanned anyway
_GROWTH = 1.5  # the effort is measured anew when there are so many times the vectors
_UNTIDY = 0.2  # share of linked rows that may be deleted before links are led around them
_WAITING, _WAITING_SHARE = 2048, 1 / 32  # so many rows may wait to be linked, or this share of those that are
_FILTERED = 0.6  # of the misses that are allowed are aimed at under a filter, where the curve was not measured
_SIGHT = 4096  # vectors that a search keeps in sight, at most
_ALPHA = {"vamana": 1.2, "hnsw": 1.0}


@dataclass(frozen=True, slots=True)
class GraphStats(ScanStats):
    """Also: links of a row (`degree`, on average), rows of each level (`levels`, from the ground up), vectors that
    wait to be linked (`waiting`), and the measured `effort`, None while there are few vectors."""

    degree: float
    levels: tuple[int, ...]
    waiting: int
    effort: EffortCurve | None


class GraphIndex(NativeIndex):
    """A `VectorIndex` that walks along links between near vectors, and so looks at few of them.

    `dim`, `metric`, `codec` and `finer` are those of `ScanIndex`; walks read the codec's short copy, results are ranked
    by the finer one. `links`: how they are chosen, "vamana", or as in "hnsw". `degree`: links of a vector, at most (8
    to 128; hnsw: half as many above the ground level, where one vector in degree / 2 is). `window`: how many vectors a
    search keeps in sight while the graph is built; more make a better graph and take longer. `passes`: 2 lets every
    vector look for its neighbours once more when all are there. `order`: in which the vectors of a large `add` are
    linked (`rag.index.order`). The graph depends on these, on `seed`, and on what is added in which calls, but not on
    the number of `threads` (0: all cores) that build it.

    Searches take the recall that is wanted, and find out by a curve measured on the index itself how far to walk.
    Where few vectors pass a filter, or few are there at all, they are scanned; then nothing is missed.
    Vamana: Subramanya et al., NeurIPS 2019; HNSW: Malkov and Yashunin, PAMI 2020; links beyond rows that fail a filter:
    ACORN, Patel et al., SIGMOD 2024.
    """

    kind: ClassVar[str] = "graph"

    def __init__(
        self,
        dim: int,
        metric: Metric = "cosine",
        codec: Codec = "leanvec4",
        *,
        finer: bool = True,
        links: Links = "vamana",
        degree: int = 32,
        window: int = 100,
        passes: int = 1,
        order: Order = "random",
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
        for name, choice, known in (("links", links, get_args(Links)), ("order", order, ORDERS)):
            if choice not in known:
                raise InputError(f"{name} is {choice!r}, expected one of {', '.join(known)}")
        self._form = {"degree": int(degree), "window": int(window), "passes": int(passes), "seed": int(seed)}
        self._links: Links = links
        self._order: Order = order
        self._threads = check_count(threads, "threads")
        super().__init__(dim, metric, codec, finer)
        self._curve: EffortCurve | None = None
        self._aimed: tuple[EffortCurve | None, float, Effort | None] = None, 0.0, None
        self._tidied = 0  # deleted rows that no link leads to
        self._opening = threading.Lock()
        self._linking = threading.RLock()  # links are changed by one call at a time; taken before `_writing`

    def _use(self, store: _native.VectorStore) -> None:
        self._store, self._graph = store, self._empty_graph(store)

    def _empty_graph(self, store: _native.VectorStore) -> _native.Graph:
        hnsw = self._links == "hnsw"
        thinning = self._form["degree"] // 2 if hnsw else 0
        return _native.Graph(store, **self._form, alpha=_ALPHA[self._links], thinning=thinning, filled=hnsw)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors float32[n, dim] under new ids int64[n] (each >= 0); the id of a deleted vector is new again.

        The next search finds them. While few are new they wait to be linked, and searches scan them beside their walk;
        the `add` that makes them many (2,048 and a 32nd of those that are linked) links all of them. Searches go on
        meanwhile. Raises InputError for what `ScanIndex.add` refuses; then, and when it is interrupted, nothing is
        added.
        """
        with self._linking:
            self._checked()
            super().add(ids, vectors)
            linked = self._graph.linked
            try:
                if self._store.rows - linked > max(_WAITING if linked else _FEW, linked * _WAITING_SHARE):
                    self._link()
                else:
                    self._graph.wait()
            except BaseException:
                with self._writing:
                    self._store.remove(as_ids(ids))
                raise

    def link(self) -> None:
        """Link the vectors that wait. Worth calling when no more are to come for a while, say before `save`."""
        with self._linking:
            self._checked()
            self._link()

    def _link(self) -> None:
        if self._graph.linked == self._store.rows:
            return
        known = self._curve.vectors if self._curve else _FEW / _GROWTH
        order = self._arranged()
        if len(self) >= known * _GROWTH:
            self._graph.grow(_SAMPLE, order, self._threads)
            unseen = self._graph.held()[0]
            seen = np.setdiff1d(self._ids(), unseen)
            self._measure(stand_ins(self._store.vectors(unseen)), IdFilter(seen))
            order = None
        self._graph.grow(0, order, self._threads)

    def project(self, queries: NDArray[np.float32], *, answers: int = 100) -> EffortCurve:
        """Link vectors that answer the same queries float32[q, dim], and measure the effort by them, as `calibrate`.

        For queries that are unlike the vectors, such as those of attention and its keys: links between near vectors
        do not lead from one answer to the next there. Up to 60 % of a vector's links are replaced, where queries found
        it among their best `answers`; later additions are linked to near vectors. See `rag.index.projection`. Takes
        q * answers^2 numbers of 8 bytes for a moment. Raises InputError when the index or the queries are empty.
        """
        matrix = as_vectors(queries, self.dim, "queries")
        if not len(self) or not len(matrix):
            raise InputError(f"{len(self)} vectors and {len(matrix)} queries: there is nothing to project")
        with self._linking:
            store = self._checked()
            self._link()
            found, _ = store.scan(matrix, min(check_count(answers, "answers"), len(self)), None, 0, self._threads)
            with self._writing:
                live = np.flatnonzero(~self._dead())
                ids = self._ids()[live]
                order = np.argsort(ids)
                rows = live[order[np.searchsorted(ids[order], found)]]
                (ground, links), *upper = self._graph.levels()
                linked = self._graph.linked
                graph = self._empty_graph(store)
                graph.attach([(ground, project(links[:linked], rows)), *upper], linked, self._graph.longest)
                self._graph = graph
            return self._measure(matrix[-_PROJECTED:], None)

    def _arranged(self) -> NDArray[np.uint32] | None:
        """The order in which rows that wait are to be linked, counted from the first; None: they are to be shuffled."""
        if self._order == "random":
            return None
        first = self._graph.linked
        dead = self._dead()[first:]
        waiting = np.flatnonzero(~dead)
        if self._order != "given":
            vectors = self._store.vectors(self._ids()[first:][waiting])
            how = insertion_order(vectors, self._order, self._form["seed"], metric=self.metric, threads=self._threads)
            waiting = waiting[how]
        return np.concatenate([waiting, np.flatnonzero(dead)]).astype(np.uint32)

    def _ids(self) -> NDArray[np.int64]:
        return np.concatenate(self._store.parts()["ids"]).view(np.int64)

    def _dead(self) -> NDArray[np.bool_]:
        bits = np.unpackbits(self._store.parts()["tombstones"][0], bitorder="little")
        return bits[: self._store.rows].astype(bool)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there.

        Links are led around deleted vectors once these are a fifth of all, or when `consolidate` is called; once they
        are half of all, their memory is given back, as by `compact`.
        """
        self._checked()
        removed = super().delete(ids)
        rows, dead = self._store.rows, self._store.rows - self._store.live
        # While another call changes links, this is left to the next deletion.
        if dead - self._tidied > _UNTIDY * rows and self._linking.acquire(blocking=False):
            try:
                if 2 * dead > rows:
                    self.compact()
                else:
                    self.consolidate()
            finally:
                self._linking.release()
        return removed

    def consolidate(self) -> None:
        """Lead links around deleted vectors (FreshVamana: Singh et al., 2021), so that walks no longer meet them."""
        with self._linking:
            self._checked()
            with self._writing:
                self._consolidate()

    def _consolidate(self) -> None:
        dead = self._store.rows - self._store.live
        self._graph.consolidate(self._threads)
        self._tidied = dead

    def compact(self) -> None:
        """Give back the memory of deleted vectors: what is left is copied, out of the file that was opened, too.

        Searches go on meanwhile, in the old copy. Ids stay as they are.
        """
        with self._linking:
            self._checked()
            with self._writing:
                self._consolidate()
                empty = self._empty_store()
                graph = self._empty_graph(empty)
                copy_live(self._store, self._graph, ~self._dead(), empty, graph)
                self._store, self._graph, self._tidied = empty, graph, 0

    def calibrate(self, queries: NDArray[np.float32]) -> EffortCurve:
        """Measure how recall grows with effort, by real queries float32[q, dim].

        `add` does so with vectors that the graph has not seen yet, whenever the index has grown by half. Real queries
        may be harder: a few hundred are enough. Raises InputError when the index or the queries are empty.
        """
        matrix = as_vectors(queries, self.dim, "queries")
        if not len(self) or not len(matrix):
            raise InputError(f"{len(self)} vectors and {len(matrix)} queries: there is nothing to measure")
        self._checked()
        return self._measure(matrix, None)

    def _measure(self, queries: NDArray[np.float32], among: IdFilter | None) -> EffortCurve:
        allowed = prepared(among)
        truth, _ = self._store.scan(queries, 10, allowed, _TRUE, self._threads)

        def walk(slack: float) -> tuple[NDArray[np.int64], float]:
            found = self._graph.walk(
                queries, 10, None, _SIGHT, slack, expected=1, waiting=among is None, threads=self._threads
            )
            return found[0], found[2]

        # Beyond so many vectors a scan is cheaper than a walk, and there is nothing to measure.
        self._curve = measure(walk, truth, len(self), len(self) / (3 * self._form["degree"]))
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
        the true k nearest to be found, on average, above 0 to 1; what no walk reaches is scanned for. `effort`: how
        many vectors a walk expands, be the query easy or hard, in place of `recall`. `rerank`: how many are ranked by
        the finer copy, 0 for what suits. `threads` 0 means all cores. The result depends neither on the number of
        threads nor on the other queries, but that a batch of 16 and more is scanned from an effort on at which single
        queries still walk: that finds more. Raises InputError as `ScanIndex.search` does.
        """
        matrix, wanted, allowed = as_vectors(queries, self.dim, "queries"), check_k(k), prepared(filter)
        deep, cores = check_count(rerank, "rerank"), check_count(threads, "threads")
        if isinstance(recall, bool) or not isinstance(recall, (float, int)) or not 0 < recall <= 1:
            raise InputError(f"recall is {recall!r}, expected a number above 0, at most 1")
        window = check_count(effort, "effort")
        store = self._checked()
        if window:
            found = self._graph.walk(matrix, wanted, allowed, window, rerank=deep, threads=cores)
            return Matches(found[0], found[1])
        aim = recall if allowed is None else 1 - (1 - recall) * _FILTERED
        far = None if recall == 1 else self._effort(aim)
        if far is None:
            everything = store.rows if recall == 1 else deep
            return Matches(*store.scan(matrix, wanted, allowed, everything, cores))
        found = self._graph.walk(matrix, wanted, allowed, _SIGHT, far.slack, int(far.expanded) + 1, deep, True, cores)
        return Matches(found[0], found[1])

    def _effort(self, recall: float) -> Effort | None:
        """What this recall takes, None where it is not known. Remembered: one search after the other asks for it."""
        curve, asked, effort = self._aimed
        if asked != recall or curve is not self._curve:
            curve = self._curve
            effort = curve.effort(recall) if curve else None
            self._aimed = curve, recall, effort
        return effort

    def stats(self) -> GraphStats:
        """Counts, bytes by part, levels, degree, and the measured effort curve."""
        own = super().stats()
        self._checked()
        with self._writing:
            levels, linked = self._graph.levels(), self._graph.linked
            links = levels[0][1][:linked]
            degree = float((links != NO_ROW).sum(1).mean()) if linked else 0.0
            places = (linked, *(len(rows) for rows, _ in levels[1:]))
            size = sum(rows.nbytes + its_links.nbytes for rows, its_links in levels)
            waiting = self._store.rows - linked - int(self._dead()[linked:].sum())
        sizes: Mapping[str, int] = {**own.bytes, "links": size}
        return GraphStats(
            *(own.vectors, own.tombstones, own.dim, own.metric, own.codec, sizes),
            degree=degree,
            levels=places,
            waiting=waiting,
            effort=self._curve,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, which is there completely or not at all; searches go on meanwhile.

        Vectors that wait to be linked wait in the file too. Raises CollectionError when it cannot be written;
        DamagedFileError, as `search` does, rather than copy damage.
        """
        with self._linking:
            super().save(path)

    def _content(self) -> tuple[dict[str, Any], dict[str, list[NDArray[np.uint8]]]]:
        meta, sections = super()._content()
        (_, links), *upper = self._graph.levels()
        meta |= {
            "graph": {**self._form, "links": self._links, "order": self._order},
            "longest": self._graph.longest,
            "linked": self._graph.linked,
            "levels": [len(rows) for rows, _ in upper],
            "room": [links.shape[1], *(its_links.shape[1] for _, its_links in upper)],
            "tidied": self._tidied,
        }
        if self._curve is not None:
            meta["effort"] = asdict(self._curve)
        sections["links"] = [_bytes(links)]
        sections["level_rows"] = [_bytes(rows) for rows, _ in upper]
        sections["level_links"] = [_bytes(its_links) for _, its_links in upper]
        return meta, sections

    @classmethod
    def _described(cls, meta: Mapping[str, Any]) -> Self:
        return cls(meta["dim"], meta["metric"], meta["codec"], finer=meta.get("finer", True), **meta["graph"])

    def _attach(self, file: SectionFile) -> None:
        super()._attach(file)
        rows, degree = file.meta["rows"], self._form["degree"]
        # Files from before there were levels have none, and as much room as degree.
        places, room = file.meta.get("levels", []), file.meta.get("room", [degree])
        if not (_counts(places, rows) and _counts(room, 2 * degree) and len(room) == len(places) + 1):
            raise InputError(f"levels are {places!r}, room for links is {room!r}")
        lengths = {"links": 4 * rows * room[0]}
        if places:
            upper = sum(size * wide for size, wide in zip(places, room[1:], strict=True))
            lengths |= {"level_rows": 4 * sum(places), "level_links": 4 * upper}
        for name, length in lengths.items():
            if len(file.unchecked(name)) != length:
                raise InputError(f"section {name!r} has the wrong length")
        linked = file.meta.get("linked", rows)  # of files before there were such that wait
        if type(linked) is not int or not 0 <= linked <= rows:
            raise InputError(f"linked is {linked!r}")
        self._tidied = int(file.meta["tidied"])
        self._unread = places, room, linked, float(file.meta["longest"])
        if (effort := file.meta.get("effort")) is not None:
            self._curve = EffortCurve.read(effort)

    def _checked(self) -> _native.VectorStore:
        # Links are read when they are attached: they must lead to rows that exist.
        if (file := self._file) is not None:
            with self._opening:
                if self._file is not None:
                    file.check()
                    places, room, linked, longest = self._unread
                    levels = [(np.empty(0, np.uint32), file.section("links").view(np.uint32).reshape(-1, room[0]))]
                    if places:
                        rows, links = (file.section(name).view(np.uint32) for name in ("level_rows", "level_links"))
                        for size, wide in zip(places, room[1:], strict=True):
                            levels.append((rows[:size], links[: size * wide].reshape(-1, wide)))
                            rows, links = rows[size:], links[size * wide :]
                    self._graph.attach(levels, linked, longest)
                    self._file = None
        return self._store


def _bytes(array: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _counts(value: Any, most: int) -> bool:
    """Whether this is a list of whole numbers from 1 to `most`."""
    return isinstance(value, list) and all(type(one) is int and 1 <= one <= most for one in value)
