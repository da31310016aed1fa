"""FaissIndex: the conformance tests for each kind and metric, and what it offers beyond the protocol."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.errors import CollectionError, DamagedFileError, InputError, NotFoundError
from rag.index import Metric, ScanIndex, VectorIndex
from rag.index.engines import FaissIndex, faiss
from rag.index.engines.faiss import Kind
from tests.index.conformance import VectorIndexConformance, random_vectors

pytest.importorskip("faiss", reason="extra faiss")

KINDS: list[Kind] = ["flat", "hnsw", "ivf"]


class Faiss(VectorIndexConformance):
    kind: Kind

    @pytest.fixture(autouse=True)
    def _never_a_plain_scan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(faiss, "SCAN_BELOW", 50)
        monkeypatch.setattr(faiss, "IVF_PROBED", 1)  # all lists: what a share of them misses is measured below

    def make(self, dim: int) -> FaissIndex:
        return FaissIndex(dim, self.metric, self.kind)

    def reopen(self, index: VectorIndex, path: Path) -> VectorIndex | None:
        assert isinstance(index, FaissIndex)
        index.save(path)
        return FaissIndex.open(path)


def _combine() -> Iterator[type[Faiss]]:
    metrics: list[Metric] = ["ip", "cosine", "l2"]
    for kind in KINDS:
        for metric in metrics:
            graph = kind == "hnsw"
            members = {"kind": kind, "metric": metric, "least_recall": 0.9 if graph else 1.0, "exact": not graph}
            yield type(f"Test{kind.title()}{metric.title()}", (Faiss,), members)


globals().update({case.__name__: case for case in _combine()})


def test_is_a_vector_index() -> None:
    assert isinstance(FaissIndex(3), VectorIndex)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """20,000 vectors around 200 centres, as texts lie around topics, and queries of the same kind."""
    rng = np.random.default_rng(0)
    centres = random_vectors(rng, 200, 32)
    vectors = (centres[rng.integers(200, size=20_100)] + 0.7 * random_vectors(rng, 20_100, 32)).astype(np.float32)
    return vectors[:20_000], vectors[20_000:]


@pytest.mark.parametrize("kind", KINDS)
def test_large_enough_for_its_kind(kind: Kind, data: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    vectors, queries = data
    ids = np.arange(len(vectors)) * 3
    ours, theirs = ScanIndex(32), FaissIndex(32, kind=kind)
    for index in (ours, theirs):
        index.add(ids, vectors)
    theirs.save(tmp_path / "index")
    theirs = FaissIndex.open(tmp_path / "index")
    assert (len(theirs), theirs.kind) == (20_000, kind)
    rng = np.random.default_rng(1)
    filters = [
        None,
        *(np.sort(rng.choice(ids, int(share * 20_000), replace=False)) for share in (0.001, 0.01, 0.1, 0.5)),
    ]
    for deleted in (0, 4000, 15_000):  # masked, and then built anew
        for index in (ours, theirs):
            index.delete(ids[:deleted])
        for allowed in filters:
            expected, found = (index.search(queries, 10, filter=allowed) for index in (ours, theirs))
            assert ((found.ids >= 0) == (expected.ids >= 0)).all(), "never fewer than there are"
            overlap = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.ids, expected.ids, strict=True)])
            missing = np.mean(expected.ids < 0)
            assert overlap + missing >= (1.0 if kind == "flat" else 0.95)
    np.testing.assert_allclose(theirs.vectors(ids[-5:]), ours.vectors(ids[-5:]), atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_searches_and_changes() -> None:
    """In a process of its own, in which no other thread is about when it forks."""
    code = """
import os, signal
import numpy as np
from rag.index.engines import FaissIndex

rng = np.random.default_rng(0)
index = FaissIndex(32, kind="ivf")
index.add(np.arange(12_000), rng.normal(size=(12_000, 32)))
queries = rng.normal(size=(200, 32))
expected = index.search(queries, 5)
if os.fork() == 0:
    signal.alarm(60)
    found = index.search(queries, 5)
    index.add(np.arange(12_000, 12_200), queries)
    found_itself = index.search(queries, 1, threads=4).ids[:, 0] == np.arange(12_000, 12_200)
    os._exit(0 if (found.ids == expected.ids).all() and found_itself.all() and len(index.vectors(found.ids[0])) else 1)
raise SystemExit(os.wait()[1])
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_vectors_come_back_and_unknown_ones_are_named() -> None:
    index = FaissIndex(4, "ip")
    vectors = random_vectors(np.random.default_rng(0), 9, 4)
    index.add(np.arange(9), vectors)
    index.delete(np.array([3]))
    np.testing.assert_array_equal(index.vectors(np.array([8, 0])), vectors[[8, 0]])
    with pytest.raises(NotFoundError, match="3"):
        index.vectors(np.array([3]))


def test_any_damage_to_a_file_is_found(tmp_path: Path) -> None:
    index = FaissIndex(8)
    index.add(np.arange(60), random_vectors(np.random.default_rng(0), 60, 8))
    path = tmp_path / "index"
    index.save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            with pytest.raises((DamagedFileError, CollectionError)):
                FaissIndex.open(path)
        except pytest.fail.Exception:
            assert not any(whole[at : at + 1]), f"byte {at} is not padding"
    for length in (0, 10, 64, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            FaissIndex.open(path)
    path.unlink()
    with pytest.raises(NotFoundError):
        FaissIndex.open(path)


def test_a_file_of_another_kind_is_no_faiss_index(tmp_path: Path) -> None:
    ScanIndex(4).save(tmp_path / "index")
    with pytest.raises(CollectionError, match="'scan'"):
        FaissIndex.open(tmp_path / "index")


def test_what_cannot_be_made() -> None:
    with pytest.raises(InputError, match="dim"):
        FaissIndex(0)
    with pytest.raises(InputError, match="metric"):
        FaissIndex(3, "dot")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="save"):
        pickle.dumps(FaissIndex(3))
