"""The peers in a table, and those that are HNSW or faiss. Every one is optional; imports happen when it is made."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ann_data import Floats, Ids, K
from ann_index import Contender, Index, Spec, package
from ann_peers_more import Ngt, RabitqClusters, Rabitqlib, Scann, Svs, Turbovec, Vsag


class Hnswlib(Index):
    def __init__(self, spec: Spec, m: int = 16, construction: int = 200) -> None:
        super().__init__(spec)
        self.m, self.construction = m, construction
        self.index = package("hnswlib").Index(spec.pick("ip", "ip", "l2"), spec.dim)

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.index.init_index(self.spec.n, ef_construction=self.construction, M=self.m, random_seed=1)
        self.index.add_items(base, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index.bin"))

    def load(self, folder: Path) -> None:
        self.index.load_index(str(folder / "index.bin"))

    def set(self, effort: int, threads: int) -> None:
        self.index.set_ef(effort)
        self.threads = threads

    def search(self, queries: Floats) -> Ids:
        found: Ids = self.index.knn_query(queries, K, num_threads=self.threads)[0]
        return found


class Faiss(Index):
    """A factory string, in which {half} is half the dimensions and {lists} 4 sqrt(n); an effort is "name=value,..."."""

    def __init__(self, spec: Spec, factory: str) -> None:
        super().__init__(spec)
        self.faiss = package("faiss")
        self.factory = factory.format(half=spec.dim // 2, lists=int(4 * spec.n**0.5))
        self.index: Any = None

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        faiss = self.faiss
        faiss.omp_set_num_threads(threads)
        metric = self.spec.pick(faiss.METRIC_INNER_PRODUCT, faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2)
        self.index = faiss.index_factory(self.spec.dim, self.factory, metric)
        if self.factory.startswith("HNSW"):
            self.index.hnsw.efConstruction = 200
        self.index.train(base)
        self.index.add(base)

    def save(self, folder: Path) -> None:
        self.faiss.write_index(self.index, str(folder / "index.faiss"))

    def load(self, folder: Path) -> None:
        self.index = self.faiss.read_index(str(folder / "index.faiss"))

    def set(self, effort: Any, threads: int) -> None:
        self.faiss.omp_set_num_threads(threads)
        if effort:
            self.faiss.ParameterSpace().set_index_parameters(self.index, effort)

    def search(self, queries: Floats) -> Ids:
        found: Ids = self.index.search(queries, K)[1]
        return found


class Usearch(Index):
    def __init__(self, spec: Spec, dtype: str = "bf16") -> None:
        super().__init__(spec)
        make = package("usearch.index").Index
        metric = spec.pick("ip", "ip", "l2sq")
        self.index = make(ndim=spec.dim, metric=metric, dtype=dtype, connectivity=16, expansion_add=200)

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.index.add(np.arange(len(base)), base, threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index.usearch"))

    def load(self, folder: Path) -> None:
        self.index.load(str(folder / "index.usearch"))

    def set(self, effort: int, threads: int) -> None:
        self.index.expansion_search = effort
        self.threads = threads

    def search(self, queries: Floats) -> Ids:
        keys = np.asarray(self.index.search(queries, K, threads=self.threads).keys)
        return keys.reshape(len(queries), K).astype(np.int64)


class Voyager(Index):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.voyager = package("voyager")
        self.index: Any = None
        self.effort = K

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        space = self.spec.pick("Cosine", "InnerProduct", "Euclidean")
        self.index = self.voyager.Index(
            getattr(self.voyager.Space, space), self.spec.dim, M=16, ef_construction=200, max_elements=self.spec.n
        )
        self.index.add_items(base, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index.voy"))

    def load(self, folder: Path) -> None:
        self.index = self.voyager.Index.load(str(folder / "index.voy"))

    def set(self, effort: int, threads: int) -> None:
        self.effort, self.threads = effort, threads

    def search(self, queries: Floats) -> Ids:
        found = self.index.query(queries, K, num_threads=self.threads, query_ef=self.effort)[0]
        return np.asarray(found).reshape(len(queries), K).astype(np.int64)


EF = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280)
EPSILON = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4)
FACTORS = tuple(f"k_factor_rf={f}" for f in (1, 2, 3, 5, 8, 12, 20, 40, 80))
PROBES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 640, 1000)
REFINE = (5, 5, 8, 8, 8, 12, 12, 20, 20, 30, 30, 40, 40, 60)
IVF = tuple(f"nprobe={p},k_factor_rf={f}" for p, f in zip(PROBES, REFINE, strict=True))
LEAVES = (
    (5, 30),
    (10, 50),
    (15, 70),
    (20, 100),
    (30, 100),
    (40, 150),
    (60, 200),
    (90, 300),
    (140, 400),
    (250, 600),
    (400, 1000),
    (600, 1600),
)
EF_FAISS = tuple(f"efSearch={ef}" for ef in EF)

PEERS: list[Contender] = [
    Contender("hnswlib", "hnswlib", Hnswlib, EF),
    Contender("faiss HNSW", "faiss-cpu", partial(Faiss, factory="HNSW16,Flat"), EF_FAISS),
    Contender("faiss HNSW SQ8", "faiss-cpu", partial(Faiss, factory="HNSW16,SQ8"), EF_FAISS),
    Contender("faiss IVF PQ fast scan", "faiss-cpu", partial(Faiss, factory="IVF{lists},PQ{half}x4fs,RFlat"), IVF),
    Contender("faiss PQ fast scan", "faiss-cpu", partial(Faiss, factory="PQ{half}x4fs,RFlat"), FACTORS),
    Contender("faiss RaBitQ fast scan", "faiss-cpu", partial(Faiss, factory="RaBitQfs,RFlat"), FACTORS),
    Contender("faiss Flat", "faiss-cpu", partial(Faiss, factory="Flat"), ("",)),
    Contender("usearch bf16", "usearch", Usearch, EF),
    Contender("voyager", "voyager", Voyager, EF),
    Contender("scann", "scann", Scann, LEAVES),
    Contender("ngt ONNG", "ngt", Ngt, EPSILON),
    Contender("SymphonyQG", "rabitqlib", Rabitqlib, EF),
    Contender("SymphonyQG 8-bit", "rabitqlib", partial(Rabitqlib, bits=8), EF),
    Contender("IVF-RaBitQ 5-bit", "rabitqlib", partial(RabitqClusters, kind="IvfIndex"), PROBES),
    Contender("HNSW-RaBitQ 5-bit", "rabitqlib", partial(RabitqClusters, kind="HnswIndex"), EF),
    Contender("svs float16", "scalable-vs", partial(Svs, codec="float16"), EF),
    Contender("svs LVQ4x8", "scalable-vs", partial(Svs, codec="lvq4x8"), EF),
    Contender("svs LeanVec", "scalable-vs", partial(Svs, codec="leanvec"), EF),
    Contender("turbovec 4-bit", "turbovec", Turbovec, ("",), metrics=("cosine", "ip")),
    Contender("vsag HGraph", "pyvsag", Vsag, [ef for ef in EF if ef <= 1000]),
]
