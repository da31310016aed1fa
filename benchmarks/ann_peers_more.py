"""Peers with quantised vectors or graphs of their own, each behind `ann_index.Index`."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ann_data import Floats, Ids, K
from ann_index import Index, Spec, package


class Scann(Index):
    """Tree, asymmetric hashing, exact re-ordering; an effort is (leaves, re-ordered)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.scann = package("scann")
        self.index: Any = None
        self.effort = (1, K)

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        metric = self.spec.pick("dot_product", "dot_product", "squared_l2")
        leaves = int(2 * self.spec.n**0.5)
        sample = min(self.spec.n, 250_000)
        builder = self.scann.scann_ops_pybind.builder(base, K, metric)
        tree = builder.set_n_training_threads(threads).tree(leaves, 10, training_sample_size=sample)
        self.index = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def save(self, folder: Path) -> None:
        self.index.serialize(str(folder), relative_path=True)

    def load(self, folder: Path) -> None:
        self.index = self.scann.scann_ops_pybind.load_searcher(str(folder))

    def set(self, effort: tuple[int, int], threads: int) -> None:
        self.effort, self.threads = effort, threads
        self.index.set_num_threads(threads)

    def search(self, queries: Floats) -> Ids:
        leaves, reorder = self.effort
        call = self.index.search_batched if self.threads == 1 else self.index.search_batched_parallel
        found = call(queries, K, pre_reorder_num_neighbors=reorder, leaves_to_search=leaves)[0]
        return np.asarray(found).astype(np.int64)

    def search_one(self, queries: Floats) -> Ids:
        leaves, reorder = self.effort
        found: Ids = self.index.search(queries[0], K, reorder, leaves)[0]
        return found[None]


class Ngt(Index):
    """ONNG: a graph of 100 edges a node, then optimised in and out degrees. It answers one query at a time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.ngt = package("ngtpy")
        self.index: Any = None
        self.effort = 0.1
        self.base: Floats | None = None

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.base, self.threads = base, threads  # NGT builds in the folder where it stays: see `save`

    def save(self, folder: Path) -> None:
        assert self.base is not None
        draft, distance = str(folder / "anng"), self.spec.pick("L2", "Inner Product", "L2")
        self.ngt.create(draft, self.spec.dim, edge_size_for_creation=100, distance_type=distance)
        index = self.ngt.Index(draft)
        index.batch_insert(self.base, num_threads=self.threads)
        index.save()
        index.close()
        optimizer = self.ngt.Optimizer(num_of_outgoings=10, num_of_incomings=120, log_disabled=True)
        optimizer.set_processing_modes(  # these three search for minutes, or without an end, even over 3,000 vectors
            search_parameter_optimization=False, prefetch_parameter_optimization=False, accuracy_table_generation=False
        )
        optimizer.execute(draft, str(folder / "onng"))
        shutil.rmtree(draft)

    def load(self, folder: Path) -> None:
        self.index = self.ngt.Index(str(folder / "onng"), read_only=True, log_disabled=True)

    def set(self, effort: float, threads: int) -> None:
        self.effort = effort

    def search(self, queries: Floats) -> Ids:
        found = [self.index.search(q, K, epsilon=self.effort, with_distance=False) for q in queries]
        return np.array([np.resize(np.append(ids, -1), K) if len(ids) < K else ids for ids in found], dtype=np.int64)


class Rabitqlib(Index):
    """SymphonyQG: one-bit codes of the neighbours in each node; bits 0 keeps float32 vectors."""

    def __init__(self, spec: Spec, bits: int = 0) -> None:
        super().__init__(spec)
        self.kind = package("rabitqlib").SymqgIndex
        self.bits = bits
        self.index: Any = None
        self.effort = K

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.index = self.kind(self.spec.dim, 32, self.spec.pick("ip", "ip", "l2"), self.bits)
        self.index.build(base, 200, threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index.symqg"))

    def load(self, folder: Path) -> None:
        self.index = self.kind.load(str(folder / "index.symqg"))

    def set(self, effort: int, threads: int) -> None:
        self.effort, self.threads = effort, threads

    def search(self, queries: Floats) -> Ids:
        return np.asarray(self.index.search(queries, K, self.effort, self.threads)[0]).astype(np.int64)


class RabitqClusters(Index):
    """IVF or HNSW over RaBitQ codes, without the vectors themselves; an effort is nprobe or ef."""

    def __init__(self, spec: Spec, kind: str, bits: int = 5) -> None:
        super().__init__(spec)
        self.rabitq = package("rabitqlib")
        self.kind, self.bits = kind, bits
        self.index: Any = None
        self.effort = K

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        n, dim, metric = self.spec.n, self.spec.dim, self.spec.pick("ip", "ip", "l2")
        clusters = int(4 * n**0.5) if self.kind == "IvfIndex" else 16
        means = self.rabitq.RaBitQKMeans(dim, clusters)
        means.train(base)
        make = getattr(self.rabitq, self.kind)
        if self.kind == "IvfIndex":
            self.index = make(dim, n, clusters, self.bits, metric)
        else:
            self.index = make(dim, n, 16, 200, self.bits, metric)
        self.index.build(base, means.centroids, means.assignments, threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index.rabitq"))

    def load(self, folder: Path) -> None:
        self.index = getattr(self.rabitq, self.kind).load(str(folder / "index.rabitq"))

    def set(self, effort: int, threads: int) -> None:
        self.effort, self.threads = effort, threads

    def search(self, queries: Floats) -> Ids:
        found = self.index.search(queries, K, self.effort, num_threads=self.threads)[0]
        return np.asarray(found).astype(np.int64)


class Svs(Index):
    """Vamana over float16, LVQ or LeanVec; the last two run on Intel processors only (elsewhere the process ends)."""

    def __init__(self, spec: Spec, codec: str) -> None:
        super().__init__(spec)
        self.svs = package("svs")
        self.codec = codec
        self.index: Any = None
        self.distance = getattr(self.svs.DistanceType, spec.pick("MIP", "MIP", "L2"))
        self.half = spec.dim * 5 // 12 // 16 * 16  # dimensions that LeanVec keeps: 160 of 384

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        svs = self.svs
        alpha = self.spec.pick(0.95, 0.95, 1.2)
        settings = svs.VamanaBuildParameters(graph_max_degree=32, window_size=200, alpha=alpha)
        self.index = svs.Vamana.build(settings, self._source(base, learn), self.distance, num_threads=threads)

    def _source(self, base: Floats, learn: Floats | None) -> Any:
        svs = self.svs
        if self.codec == "float16":
            return base.astype(np.float16)
        self.scratch = tempfile.TemporaryDirectory()  # stays until the index goes: the loader reads lazily
        file = f"{self.scratch.name}/base.fvecs"
        svs.write_vecs(np.ascontiguousarray(base), file)
        rows = svs.VectorDataLoader(file, svs.DataType.float32, self.spec.dim)
        if self.codec == "lvq4x8":
            return svs.LVQLoader(rows, primary=4, residual=8, padding=32)
        kinds = (svs.LeanVecKind.lvq4, svs.LeanVecKind.lvq8)
        if learn is None:
            return svs.LeanVecLoader(rows, self.half, *kinds)
        matrices = svs.compute_leanvec_matrices(base[:100_000], learn, self.half)
        return svs.LeanVecLoader(rows, self.half, *kinds, *matrices)

    def save(self, folder: Path) -> None:
        self.index.save(*(str(folder / part) for part in ("config", "graph", "data")))

    def load(self, folder: Path) -> None:
        svs, data = self.svs, str(folder / "data")
        if self.codec == "float16":
            source = svs.VectorDataLoader(data, svs.DataType.float16, self.spec.dim)
        else:
            source = svs.LVQLoader(data, padding=32) if self.codec == "lvq4x8" else svs.LeanVecLoader(data)
        graph = svs.GraphLoader(str(folder / "graph"))
        self.index = svs.Vamana(str(folder / "config"), graph, source, self.distance, num_threads=1)

    def set(self, effort: int, threads: int) -> None:
        self.index.search_window_size = effort
        if self.index.num_threads != threads:
            self.index.num_threads = threads

    def search(self, queries: Floats) -> Ids:
        return np.asarray(self.index.search(queries, K)[0]).astype(np.int64)


class Vsag(Index):
    """HGraph over 8-bit codes with float32 re-ranking. It answers one query at a time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.index: Any = None
        self.parameters = ""

    def _make(self, threads: int) -> Any:
        settings = {
            "base_quantization_type": "sq8_uniform",
            "max_degree": 32,
            "ef_construction": 200,
            "build_thread_count": threads,
            "use_reorder": True,
            "precise_quantization_type": "fp32",
        }
        metric = self.spec.pick("ip", "ip", "l2")
        whole = {"dtype": "float32", "metric_type": metric, "dim": self.spec.dim, "index_param": settings}
        return package("pyvsag").Index("hgraph", json.dumps(whole))

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.index = self._make(threads)
        self.index.build(base.ravel(), np.arange(len(base)), len(base), self.spec.dim)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index.vsag"))

    def load(self, folder: Path) -> None:
        self.index = self._make(1)
        self.index.load(str(folder / "index.vsag"))

    def set(self, effort: int, threads: int) -> None:
        self.parameters = json.dumps({"hgraph": {"ef_search": effort}})

    def search(self, queries: Floats) -> Ids:
        found = [self.index.knn_search(query, K, self.parameters)[0] for query in queries]
        return np.array(found, dtype=np.int64)


class Turbovec(Index):
    """A scan of 4-bit codes, calibrated on the vectors, without re-ranking."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.kind = package("turbovec").TurboQuantIndex
        self.index: Any = None

    def build(self, base: Floats, learn: Floats | None, threads: int) -> None:
        self.index = self.kind(self.spec.dim, 4)
        sample = np.random.default_rng(1).permutation(len(base))[:2000]
        self.index.calibrate(base[sample])
        self.index.add(base)

    def save(self, folder: Path) -> None:
        self.index.write(str(folder / "index.tv"))

    def load(self, folder: Path) -> None:
        self.index = self.kind.load(str(folder / "index.tv"))
        self.index.prepare()

    def set(self, effort: str, threads: int) -> None:
        """It has no effort, and threads are those of the environment (RAYON_NUM_THREADS)."""

    def search(self, queries: Floats) -> Ids:
        return np.asarray(self.index.search(queries, K)[1]).astype(np.int64)
