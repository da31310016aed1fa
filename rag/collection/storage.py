"""How the vectors of a segment are kept: as the collection was told, or as suits them; and making their index.

With codec "auto" a segment decides by itself whenever it is written, by the cost model of `rag.index.recommend`: few
vectors are scanned as they are, more in the coarsest codec that finds enough of a sample of them, many along a graph.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import InputError
from rag.index import Codec, GraphIndex, Metric, ScanIndex, VectorIndex, open_index
from rag.index.engines import FaissIndex, is_faiss
from rag.index.engines.faiss import kind_of
from rag.index.learning import learns
from rag.index.native import NativeIndex
from rag.index.neighbours import Progress
from rag.index.recommend import GRAPH_CODECS, choose
from rag.index.trial import CodecProfile, CodecTrial, chosen, row_sizes, sample_size

__all__ = ["Keeping", "Source", "Storage", "StoredIndex", "open_vectors"]

Keeping: TypeAlias = Codec | Literal["auto"]
"""A codec, in which vectors are then scanned, or "auto": each segment decides by itself."""

MOST_DELETED = 0.25
"""Of the rows of a graph. With more, it is built anew and not extended."""
LEAST_KEPT = 0.25
"""Share of all vectors that a graph must hold already to be extended: what its codec has learned should fit them."""
BATCH_BYTES = 64 << 20
"""Vectors that are added at once: so much, and not a copy of all, is needed besides the new index."""
_SEED = 20260211


class StoredIndex(VectorIndex, Protocol):
    """A vector index in a file of a segment, which gives its vectors back."""

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]: ...

    def save(self, path: str | os.PathLike[str]) -> None: ...


class Source(Protocol):
    """Vectors that an index is made of: what is used here of a part."""

    @property
    def vectors(self) -> StoredIndex: ...

    @property
    def live(self) -> NDArray[np.int64]:
        """Ascending."""
        ...

    @property
    def deleted(self) -> NDArray[np.int64]: ...

    @property
    def file(self) -> Path | None:
        """Of the index, when it is on disk."""
        ...


class _Form(NamedTuple):
    kind: Literal["scan", "graph", "faiss"]
    codec: Codec


def open_vectors(engine: str | None, path: Path, deleted: NDArray[np.int64]) -> StoredIndex:
    """The index in a file of a segment, checked, without the deleted ids."""
    if engine is not None and is_faiss(engine):
        index: StoredIndex = FaissIndex.open(path)
        index.delete(deleted)
        return index
    opened = open_index(path)
    # A reader does not lead the links of a graph around these, which would read all of the file: a writer does.
    NativeIndex.delete(opened, deleted)
    return opened


@dataclass(frozen=True)
class Storage:
    """Engine, metric and codec of a collection, which decide the index of each of its segments."""

    engine: str | None
    dim: int
    metric: Metric
    codec: Keeping

    @cached_property
    def _faiss(self) -> bool:
        return self.engine is not None and is_faiss(self.engine)

    def buffer(self) -> StoredIndex:
        """An empty index for vectors that arrive, in full precision where it is not known yet how they are kept.

        InputError when there can be no such index; MissingExtraError.
        """
        if not self._faiss:
            direct: Codec = "float32" if self.codec == "auto" or learns(self.codec) else self.codec
            return ScanIndex(self.dim, self.metric, direct)
        assert self.engine is not None
        if self.codec not in ("auto", "float32"):
            raise InputError(f"faiss keeps vectors as float32, not as {self.codec}", hint="leave codec or engine out")
        return FaissIndex(self.dim, self.metric, kind_of(self.engine))

    def suits(self, part: Source) -> bool:
        """Whether the part is kept as it would be if it were written now."""
        return _form(part.vectors) == self._form([part])

    def build(self, parts: Sequence[Source], progress: Progress | None = None) -> StoredIndex:
        """The index of what is live in all parts together, which follow each other by id.

        A graph among them is extended by the others' vectors if it may. Needs memory for the new index and a batch.
        """
        form = self._form(parts)
        largest = max(parts, key=lambda part: len(part.live))
        made = len(parts) == 1 and largest.file is None and _form(largest.vectors) == form
        if made and len(largest.vectors) == len(largest.live):
            return largest.vectors
        try:
            return self._built(form, parts, largest, progress)
        except InputError:
            if self.codec != "auto" or form.codec == "float32":
                raise
            # There are numbers beyond half precision, of which the sample had none.
            return self._built(form._replace(codec="float32"), parts, largest, progress)

    def _built(self, form: _Form, parts: Sequence[Source], largest: Source, progress: Progress | None) -> StoredIndex:
        if form.kind == "graph":
            return self._graph(form.codec, parts, largest, progress)
        index = self.buffer() if form.kind == "faiss" else ScanIndex(self.dim, self.metric, form.codec)
        if isinstance(index, ScanIndex) and learns(form.codec):
            index.learn(self._sample(parts))
        _fill(index, parts, self._batch, None, progress)
        return index

    def _form(self, parts: Sequence[Source]) -> _Form:
        if self._faiss:
            return _Form("faiss", "float32")
        if self.codec != "auto":
            return _Form("scan", self.codec)
        count = sum(len(part.live) for part in parts)
        trial: CodecTrial | None = None

        def tried(codec: Codec) -> CodecProfile | None:
            nonlocal trial
            if trial is None:
                trial = CodecTrial(self._sample(parts), None, self.metric, count, np.random.default_rng(_SEED))
            return trial(codec)

        # A graph that is there keeps its codec as long as that finds enough.
        largest = max(parts, key=lambda part: len(part.live)).vectors
        own = (largest.codec,) if isinstance(largest, GraphIndex) else ()
        choice = choose(count, row_sizes(self.dim, self.metric), tried, graph_codecs=(*own, *GRAPH_CODECS))
        return _Form(choice.kind, choice.codec)

    def _graph(self, codec: Codec, parts: Sequence[Source], largest: Source, progress: Progress | None) -> GraphIndex:
        others = [part for part in parts if part is not largest and len(part.live)]
        if others and largest.file is not None and _form(largest.vectors) == ("graph", codec):
            graph = GraphIndex.open(largest.file)  # of our own: readers have another mapping of the file
            NativeIndex.delete(graph, largest.deleted)
            stats = graph.stats()
            few = stats.tombstones <= MOST_DELETED * (stats.vectors + stats.tombstones)
            if few and len(graph) >= LEAST_KEPT * sum(len(part.live) for part in parts):
                _fill(graph, others, self._batch, np.random.default_rng(_SEED), progress)
                if len(largest.deleted):
                    graph.consolidate()
                return graph
        graph = GraphIndex(self.dim, self.metric, codec)
        graph.learn(self._sample(parts))
        _fill(graph, parts, self._batch, np.random.default_rng(_SEED), progress)
        return graph

    def _sample(self, parts: Sequence[Source]) -> NDArray[np.float32]:
        """Vectors spread over all parts by chance."""
        lives = [part.live for part in parts]
        ids = np.concatenate(lives)
        rows = chosen(len(ids), sample_size(self.dim), np.random.default_rng(_SEED))
        return _gathered(parts, lives, ids[rows], self.dim)

    @property
    def _batch(self) -> int:
        return max(BATCH_BYTES // (4 * self.dim), 1024)


def _form(index: StoredIndex) -> _Form:
    if isinstance(index, GraphIndex):
        return _Form("graph", index.codec)
    if isinstance(index, ScanIndex):
        return _Form("scan", index.codec)
    return _Form("faiss", "float32")


def _fill(
    index: StoredIndex,
    parts: Sequence[Source],
    batch: int,
    shuffled: np.random.Generator | None,
    progress: Progress | None,
) -> None:
    """Add what is live in the parts, batch by batch, in their order or a random one."""
    lives = [part.live for part in parts]
    ids = np.concatenate([np.empty(0, np.int64), *lives])
    if shuffled is not None:
        ids = shuffled.permutation(ids)
    for start in range(0, len(ids), batch):
        if progress is not None:
            progress("building the index", start, len(ids))
        own = np.sort(ids[start : start + batch])
        index.add(own, _gathered(parts, lives, own, index.dim))
    if progress is not None:
        progress("building the index", len(ids), len(ids))


def _gathered(
    parts: Sequence[Source], lives: Sequence[NDArray[np.int64]], ids: NDArray[np.int64], dim: int
) -> NDArray[np.float32]:
    """The vectors of ids (ascending), which are live in the parts, float32[n, dim]."""
    out = np.empty((len(ids), dim), np.float32)
    for part, live in zip(parts, lives, strict=True):
        if len(live):
            begin, end = np.searchsorted(ids, [live[0], live[-1] + 1])
            if begin < end:
                out[begin:end] = part.vectors.vectors(ids[begin:end])
    return out
