"""Predicates over two attributes of each vector, and the indexes that can search under them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from ann_data import Dataset, Floats, Ids, K, Truth, tenth_best
from ann_index import OURS, Contender, Index, Ours, Spec, package
from ann_peers import Faiss, Hnswlib

STEPS = 10_000
"""Attributes are whole numbers from 0 to here; a predicate is a range of one of them."""


@dataclass(frozen=True, eq=False)
class Predicate:
    """low <= column < high, and what that lets through: `mask` bool[n], `ids` sorted."""

    column: str
    low: int
    high: int
    mask: np.ndarray
    ids: Ids

    @classmethod
    def of(cls, columns: dict[str, Ids], column: str, low: int, high: int) -> Predicate:
        mask = (columns[column] >= low) & (columns[column] < high)
        return cls(column, low, high, mask, np.flatnonzero(mask))

    def truth(self, base: Floats, metric: str, queries: Floats) -> Allowed:
        return Allowed(base, metric, queries, tenth_best(base[self.ids], queries, metric), self.mask)


@dataclass(frozen=True)
class Allowed(Truth):
    """Exact neighbours among those that pass; what does not pass counts as not found."""

    mask: np.ndarray

    def recall(self, found: Ids) -> float:
        inside = (found >= 0) & (found < len(self.mask))
        return super().recall(np.where(inside & self.mask[np.where(inside, found, 0)], found, -1))


@dataclass(frozen=True)
class FilteredDataset(Dataset):
    """A data set in which each kind of query is a predicate."""

    predicates: dict[str, Predicate]

    @cached_property
    def truth(self) -> dict[str, Truth]:
        return {k: p.truth(self.base, self.metric, self.queries[k]) for k, p in self.predicates.items()}


def attributes(base: Floats) -> dict[str, Ids]:
    """`free`: drawn at random (seed 1). `tied`: the rank along the first principal direction, alike for neighbours."""
    centred = base - base.mean(0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    rank = np.argsort(np.argsort(centred @ direction, kind="stable"), kind="stable")
    free = np.random.default_rng(1).integers(0, STEPS, len(base))
    return {"free": free, "tied": rank * STEPS // len(base)}


def predicates(base: Floats) -> dict[str, Predicate]:
    """1, 10 and 50 % passing; of the tied attribute the upper end, so that most queries lie far from what passes."""
    columns = attributes(base)
    found = {}
    for word, column in (("uncorrelated", "free"), ("correlated", "tied")):
        for share in (1, 10, 50):
            low, high = (0, STEPS * share // 100) if column == "free" else (STEPS - STEPS * share // 100, STEPS)
            found[f"{word}, {share} % pass"] = Predicate.of(columns, column, low, high)
    return found


class OursFiltered(Ours):
    """Any of ours: an `IdFilter` of each predicate is made once and kept, as the peers keep theirs."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.kept: dict[Predicate, Any] = {}

    def restrict(self, predicate: Predicate) -> None:
        from rag.index import IdFilter

        if predicate not in self.kept:
            self.kept[predicate] = IdFilter(predicate.ids)
        self.allowed = self.kept[predicate]

    def set(self, effort: dict[str, Any], threads: int) -> None:
        super().set({**effort, "filter": self.allowed}, threads)


class HnswlibFiltered(Hnswlib):
    """A Python callback for each vector visited: the item access of a list, so without a frame of Python."""

    def restrict(self, predicate: Predicate) -> None:
        self.allows: Callable[[int], bool] = predicate.mask.tolist().__getitem__

    def search(self, queries: Floats) -> Ids:
        try:
            found: Ids = self.index.knn_query(queries, K, num_threads=self.threads, filter=self.allows)[0]
        except RuntimeError:  # fewer than K found for one of them: each alone
            if len(queries) == 1:
                return np.full((1, K), -1, dtype=np.int64)
            return np.concatenate([self.search(queries[i : i + 1]) for i in range(len(queries))])
        return found.astype(np.int64)


class FaissFiltered(Faiss):
    """An IDSelectorBitmap in the search parameters; `kind` names their class, an effort its fields."""

    def __init__(self, spec: Spec, factory: str, kind: str = "SearchParameters") -> None:
        super().__init__(spec, factory)
        self.kind = kind
        self.selectors: dict[Predicate, tuple[Any, np.ndarray]] = {}  # with the bits that each refers to

    def restrict(self, predicate: Predicate) -> None:
        if predicate not in self.selectors:
            bits = np.packbits(predicate.mask, bitorder="little")
            self.selectors[predicate] = (self.faiss.IDSelectorBitmap(bits), bits)
        self.selector = self.selectors[predicate][0]

    def set(self, effort: dict[str, int], threads: int) -> None:
        self.faiss.omp_set_num_threads(threads)
        self.parameters = getattr(self.faiss, self.kind)(sel=self.selector, **effort)

    def search(self, queries: Floats) -> Ids:
        found: Ids = self.index.search(queries, K, params=self.parameters)[1]
        return found


class QdrantEdge(Index):
    """An embedded shard with HNSW (m 16) and indexed integer payload."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.qdrant = package("qdrant_edge")
        self.shard: Any = None

    def _vectors(self) -> Any:
        distance = getattr(self.qdrant.Distance, self.spec.pick("Cosine", "Dot", "Euclid"))
        return self.qdrant.EdgeVectorParams(size=self.spec.dim, distance=distance)

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.base, self.threads = base, threads  # built in the folder where it stays: see `save`

    def save(self, folder: Path) -> None:
        q, place = self.qdrant, folder / "shard"
        place.mkdir()
        graph = q.HnswIndexConfig(m=16, ef_construct=200, full_scan_threshold=10_000, max_indexing_threads=self.threads)
        tuned = q.EdgeOptimizersConfig(indexing_threshold=1000, default_segment_number=1)
        self.shard = q.EdgeShard.create(
            str(place), q.EdgeConfig(vectors=self._vectors(), hnsw_config=graph, optimizers=tuned)
        )
        columns = attributes(self.base)
        for column in columns:
            self.shard.update(q.UpdateOperation.create_field_index(column, q.PayloadSchemaType.Integer))
        for start in range(0, len(self.base), 1000):
            rows = range(start, min(start + 1000, len(self.base)))
            points = [
                q.Point(i, self.base[i].tolist(), {name: int(values[i]) for name, values in columns.items()})
                for i in rows
            ]
            self.shard.update(q.UpdateOperation.upsert_points(points))
        while self.shard.optimize():
            pass
        self.shard.flush()
        self.shard.close()

    def load(self, folder: Path) -> None:
        copy = folder / "opened"  # an open shard writes to its folder
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "shard", copy)
        self.shard = self.qdrant.EdgeShard.load(
            str(copy), self.qdrant.EdgeConfig(vectors=self._vectors(), max_search_threads=1)
        )

    def restrict(self, predicate: Predicate) -> None:
        q = self.qdrant
        between = q.RangeFloat(gte=predicate.low, lt=predicate.high)
        self.filter = q.Filter(must=[q.FieldCondition(predicate.column, range=between)])

    def set(self, effort: int, threads: int) -> None:
        self.parameters = self.qdrant.SearchParams(hnsw_ef=effort)

    def search(self, queries: Floats) -> Ids:
        return np.concatenate([self.search_one(queries[i : i + 1]) for i in range(len(queries))])

    def search_one(self, queries: Floats) -> Ids:
        q = self.qdrant
        nearest = q.Query.Nearest(queries[0].tolist())
        found = self.shard.query(q.QueryRequest(K, query=nearest, filter=self.filter, params=self.parameters))
        return padded([point.id for point in found])


class Zvec(Index):
    """An embedded collection with HNSW (m 16) and inverted integer fields."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.zvec = package("zvec")
        self.collection: Any = None

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.base, self.threads = base, threads  # built in the folder where it stays: see `save`

    def save(self, folder: Path) -> None:
        z = self.zvec
        columns = attributes(self.base)
        metric = getattr(z.MetricType, self.spec.pick("IP", "IP", "L2"))
        graph = z.HnswIndexParam(metric_type=metric, m=16, ef_construction=200)
        inverted = z.InvertIndexParam(enable_range_optimization=True)
        fields = [z.FieldSchema(name, z.DataType.INT64, nullable=False, index_param=inverted) for name in columns]
        vector = z.VectorSchema("v", z.DataType.VECTOR_FP32, self.spec.dim, index_param=graph)
        collection = z.create_and_open(str(folder / "zvec"), z.CollectionSchema("all", fields=fields, vectors=[vector]))
        for start in range(0, len(self.base), 1000):
            rows = range(start, min(start + 1000, len(self.base)))
            documents = [
                z.Doc(id=str(i), vectors={"v": self.base[i].tolist()}, fields={c: int(columns[c][i]) for c in columns})
                for i in rows
            ]
            collection.insert(documents)
        collection.optimize(z.OptimizeOption(concurrency=self.threads))
        collection.flush()

    def load(self, folder: Path) -> None:
        option = self.zvec.CollectionOption(read_only=True, enable_mmap=True)
        self.collection = self.zvec.open(str(folder / "zvec"), option)

    def restrict(self, predicate: Predicate) -> None:
        self.filter = f"{predicate.column} >= {predicate.low} and {predicate.column} < {predicate.high}"

    def set(self, effort: int, threads: int) -> None:
        self.parameters = self.zvec.HnswQueryParam(ef=effort)

    def search(self, queries: Floats) -> Ids:
        return np.concatenate([self.search_one(queries[i : i + 1]) for i in range(len(queries))])

    def search_one(self, queries: Floats) -> Ids:
        asked = self.zvec.Query(field_name="v", vector=queries[0].tolist(), param=self.parameters)
        found = self.collection.query(queries=asked, topk=K, filter=self.filter, output_fields=[])
        return padded([int(document.id) for document in found])


def padded(ids: list[int]) -> Ids:
    """int64[1, K], filled up with -1."""
    return np.array([(ids + [-1] * K)[:K]], dtype=np.int64)


EF = (20, 40, 80, 160, 320, 640, 1280)


def ours_filtered() -> list[Contender]:
    """Each configuration of ours, with no knob turned."""
    found = []
    for contender in OURS:
        if not contender.needs_learn:
            make = partial(OursFiltered, **contender.make.keywords)  # type: ignore[attr-defined]
            found.append(Contender(contender.name, contender.package, make, [{}], contender.metrics))
    return found


def faiss_filtered(name: str, factory: str, kind: str, efforts: list[dict[str, int]]) -> Contender:
    return Contender(name, "faiss-cpu", partial(FaissFiltered, factory=factory, kind=kind), efforts)


PROBES = [{"nprobe": count} for count in (4, 16, 64, 128, 256, 512)]

FILTER_PEERS: list[Contender] = [
    faiss_filtered("faiss Flat", "Flat", "SearchParameters", [{}]),
    faiss_filtered("faiss HNSW", "HNSW16,Flat", "SearchParametersHNSW", [{"efSearch": ef} for ef in EF]),
    faiss_filtered("faiss IVF", "IVF{lists},Flat", "SearchParametersIVF", PROBES),
    Contender("hnswlib", "hnswlib", HnswlibFiltered, EF[1:6]),
    Contender("qdrant-edge", "qdrant-edge-py", QdrantEdge, EF),
    Contender("zvec HNSW", "zvec", Zvec, EF),
]
