"""GraphIndex while vectors come and go: what waits to be linked, insertion orders, memory given back, and files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import DamagedFileError, InputError
from rag.index import GraphIndex, IdFilter, Metric, ScanIndex
from rag.index.files import write_sections
from rag.index.graph import Links
from rag.index.order import ORDERS, Order
from tests.index.conformance import Floats, Ids

N, DIM = 6000, 16
both_kinds = pytest.mark.parametrize("links", ["vamana", "hnsw"])


def _sorted_by_topic(seed: int, n: int = N) -> Floats:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(60, DIM)) * 1.5
    return (centres[np.sort(rng.integers(0, 60, n))] + rng.normal(size=(n, DIM))).astype(np.float32)


def _built(links: Links = "vamana", metric: Metric = "l2", **settings: Any) -> GraphIndex:
    index = GraphIndex(DIM, metric, "float32", links=links, **settings)
    index.add(np.arange(N), _sorted_by_topic(0))
    return index


QUERIES = _sorted_by_topic(7, 200)


def _truth(vectors: Floats, ids: Ids) -> Ids:
    exact = ScanIndex(DIM, "l2")
    exact.add(ids, vectors)
    return exact.search(QUERIES, 10).ids


def _recall(found: Ids, truth: Ids) -> float:
    return sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)) / truth.size


# --- rows that wait


@both_kinds
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_the_next_search_finds_what_was_added(links: Links, metric: Metric) -> None:
    index = _built(links, metric)
    fresh = 30 * _sorted_by_topic(1, 400)  # of the largest products, too
    for start in range(0, 400, 50):
        ids = np.arange(N + start, N + start + 50)
        index.add(ids, fresh[start : start + 50])
        truth = ScanIndex(DIM, metric)
        truth.add(np.arange(N), _sorted_by_topic(0))
        truth.add(np.arange(N, ids[-1] + 1), fresh[: start + 50])
        wanted = truth.search(fresh[start : start + 50], 1).ids[:, 0]
        for among in (None, IdFilter(np.arange(0, N + 400))):
            found = index.search(fresh[start : start + 50], 1, effort=20, filter=among).ids[:, 0]
            assert (found == wanted).mean() >= (1 if metric != "ip" else 0.9)
    assert index.stats().waiting == 400
    found = index.search(QUERIES, 10, effort=20, filter=np.arange(N + 100, N + 400)).ids
    assert (found >= N + 100).all()


@both_kinds
def test_rows_that_wait_are_linked_when_they_are_many_or_when_asked(links: Links, tmp_path: Path) -> None:
    index, fresh = _built(links), _sorted_by_topic(1, 3000)
    index.add(np.arange(N, N + 2000), fresh[:2000])
    index.delete(np.arange(N, N + 10))
    assert index.stats().waiting == 1990
    index.save(tmp_path / "waiting")
    index.link()
    assert index.stats().waiting == 0
    opened = GraphIndex.open(tmp_path / "waiting")
    assert opened.stats().waiting == 1990
    for one in (index, opened):
        assert (one.search(fresh[10:2000], 1, effort=20).ids[:, 0] == np.arange(N + 10, N + 2000)).mean() > 0.98
    opened.add(np.arange(N + 2000, N + 3000), fresh[2000:])
    assert opened.stats().waiting == 0
    vectors = np.vstack([_sorted_by_topic(0), fresh[10:]])
    truth = _truth(vectors, np.concatenate([np.arange(N), np.arange(N + 10, N + 3000)]))
    assert _recall(opened.search(QUERIES, 10, effort=40).ids, truth) > 0.95


@both_kinds
def test_the_same_calls_give_the_same_graph(links: Links) -> None:
    graphs = []
    for threads in (1, 2):
        index = _built(links, threads=threads)
        for start in range(0, 2500, 250):
            index.add(np.arange(N + start, N + start + 250), _sorted_by_topic(2 + start, 250))
            index.delete(np.arange(start, start + 20))
        index.consolidate()
        graphs.append(index._graph.levels())
    for one, other in zip(*graphs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


# --- orders


@both_kinds
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_makes_a_sound_graph(order: Order, links: Links) -> None:
    index = _built(links, order=order)
    found = index.search(QUERIES, 10, effort=60).ids
    # Topic by topic the graph grows in islands, which is why rows are shuffled unless one asks for something else.
    least = 0.8 if order in ("given", "cluster") else 0.95
    assert _recall(found, _truth(_sorted_by_topic(0), np.arange(N))) > least
    same = _built(links, order=order, threads=1)
    np.testing.assert_array_equal(index._graph.levels()[0][1], same._graph.levels()[0][1])
    assert index.stats().effort == same.stats().effort


def test_rows_are_linked_in_the_order_that_was_asked_for() -> None:
    graphs = [_built(order=order)._graph.levels()[0][1] for order in ORDERS]
    for i, one in enumerate(graphs):
        assert not any(np.array_equal(one, other) for other in graphs[i + 1 :])


def test_an_order_survives_a_file(tmp_path: Path) -> None:
    index = _built(order="cluster")
    index.delete(np.arange(50))
    index.save(tmp_path / "graph")
    opened = GraphIndex.open(tmp_path / "graph")
    for one in (index, opened):
        one.add(np.arange(N, N + 3000), _sorted_by_topic(3, 3000))
    np.testing.assert_array_equal(index._graph.levels()[0][1], opened._graph.levels()[0][1])


@pytest.mark.parametrize("settings", [{"order": "sorted"}, {"links": "nsw"}])
def test_choices_that_are_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        GraphIndex(8, **settings)


# --- deletions


@both_kinds
def test_ten_rounds_of_replacing_cost_little_recall(links: Links) -> None:
    vectors = _sorted_by_topic(0, 2 * N)[np.random.default_rng(0).permutation(2 * N)]
    index, step = GraphIndex(DIM, "l2", "float32", links=links), N // 10
    index.add(np.arange(N), vectors[:N])
    for start in range(0, N, step):
        index.delete(np.arange(start, start + step))
        index.add(np.arange(N + start, N + start + step), vectors[N + start : N + start + step])
    fresh = GraphIndex(DIM, "l2", "float32", links=links)
    fresh.add(np.arange(N, 2 * N), vectors[N:])
    truth = _truth(vectors[N:], np.arange(N, 2 * N))
    kept, anew = (_recall(one.search(QUERIES, 10, effort=20).ids, truth) for one in (index, fresh))
    assert kept > anew - 0.02


@both_kinds
def test_the_memory_of_deleted_vectors_is_given_back(links: Links, tmp_path: Path) -> None:
    index = _built(links)
    index.add(np.arange(N, N + 500), _sorted_by_topic(4, 500))
    gone = np.random.default_rng(0).permutation(N + 500)[:3000]
    index.delete(gone)
    before = index.stats()
    index.compact()
    after = index.stats()
    assert (after.vectors, after.tombstones, after.waiting) == (before.vectors, 0, before.waiting)
    assert sum(after.bytes.values()) < 0.6 * sum(before.bytes.values())
    left = np.setdiff1d(np.arange(N + 500), gone)
    vectors = np.vstack([_sorted_by_topic(0), _sorted_by_topic(4, 500)])[left]
    np.testing.assert_array_equal(index.vectors(left), vectors)
    index.save(tmp_path / "compact")
    for one in (index, GraphIndex.open(tmp_path / "compact")):
        assert _recall(one.search(QUERIES, 10, effort=40).ids, _truth(vectors, left)) > 0.95
        one.add(np.arange(N + 500, N + 3500), _sorted_by_topic(5, 3000))
        assert one.delete(np.arange(N + 500, N + 3500)) == 3000
        assert not (one.search(QUERIES, 10, effort=40).ids >= N + 500).any()


def test_vectors_that_come_and_go_take_no_more_and_more_memory() -> None:
    index, vectors = GraphIndex(DIM, "l2", "float32"), _sorted_by_topic(0)
    chosen = IdFilter(np.arange(0, N, 2))
    for round_ in range(6):
        index.add(np.arange(N), vectors + round_)
        assert (index.search(vectors[:20] + round_, 1, effort=20).ids[:, 0] == np.arange(20)).mean() > 0.9
        assert (index.search(vectors[:20], 5, effort=20, filter=chosen).ids % 2 == 0).all()
        assert index.delete(np.arange(N)) == N
        assert index.stats().tombstones <= N
    index.add(np.arange(3), vectors[:3])
    np.testing.assert_array_equal(index.search(vectors[:3], 1).ids[:, 0], np.arange(3))


# --- files


def test_a_file_from_before_there_were_levels_still_opens(tmp_path: Path) -> None:
    index = _built()
    meta, sections = index._content()
    for name in ("linked", "levels", "room"):
        del meta[name]
    meta["graph"] = {name: meta["graph"][name] for name in ("degree", "window", "passes", "seed")}
    write_sections(
        tmp_path / "old", "graph", meta, {name: x for name, x in sections.items() if not name.startswith("level_")}
    )
    opened = GraphIndex.open(tmp_path / "old")
    np.testing.assert_array_equal(opened.search(QUERIES, 10, effort=30).ids, index.search(QUERIES, 10, effort=30).ids)
    opened.add(np.arange(N, N + 3000), _sorted_by_topic(3, 3000))
    assert len(opened) == N + 3000


def _twice(rows: Ids) -> None:
    rows[1] = rows[0]


def _elsewhere(rows: Ids) -> None:
    rows[0] = N + 1


@pytest.mark.parametrize(
    "forge",
    [
        lambda meta, rows, links: meta.update(linked=N + 1),
        lambda meta, rows, links: meta.update(linked=-1),
        lambda meta, rows, links: meta.update(levels=[*meta["levels"][:-1], 0]),
        lambda meta, rows, links: meta.update(room=[33, *meta["room"][1:]]),
        lambda meta, rows, links: meta.update(room=[32]),
        lambda meta, rows, links: _twice(rows),
        lambda meta, rows, links: _elsewhere(rows),
        lambda meta, rows, links: rows.__setitem__(slice(None), rows[::-1].copy()),
        lambda meta, rows, links: links.__setitem__(0, meta["levels"][0]),
    ],
)
def test_forged_levels_are_refused(forge: Callable[..., None], tmp_path: Path) -> None:
    meta, sections = _built("hnsw")._content()
    rows, links = (np.concatenate(sections[name]).view(np.uint32) for name in ("level_rows", "level_links"))
    forge(meta, rows, links)
    sections |= {"level_rows": [rows.view(np.uint8)], "level_links": [links.view(np.uint8)]}
    write_sections(tmp_path / "forged", "graph", meta, sections)
    with pytest.raises((DamagedFileError, InputError), match=r"level|linked|links|room"):
        GraphIndex.open(tmp_path / "forged").search(QUERIES, 3, effort=20)


SEARCH = """
import resource, sys
import numpy as np
from rag.index import GraphIndex

queries = np.load(sys.argv[2])
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (8 << 20),) * 2)
index = GraphIndex.open(sys.argv[1])
found = index.search(queries, 10, effort=64, threads=1)
np.save(sys.argv[3], found.ids)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mapped memory on Linux only")
def test_an_index_larger_than_memory_is_searched_where_it_lies(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(N, 1024)).astype(np.float32)
    index = GraphIndex(1024, "ip", "float16", degree=16, window=32)
    index.add(np.arange(N), vectors)
    index.save(tmp_path / "large")
    assert (tmp_path / "large").stat().st_size > 12 << 20
    np.save(tmp_path / "queries.npy", vectors[:50])
    subprocess.run(
        [sys.executable, "-c", SEARCH, *(str(tmp_path / name) for name in ("large", "queries.npy", "found.npy"))],
        check=True,
    )
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(found, index.search(vectors[:50], 10, effort=64).ids)


@pytest.mark.parametrize("how", ["delete", "consolidate", "compact"])
def test_a_graph_from_a_file_is_tidied_without_adding_to_it(tmp_path: Path, how: str) -> None:
    vectors = np.random.default_rng(4).normal(size=(6000, 24)).astype(np.float32)
    index = GraphIndex(24, codec="float16", window=32)
    index.add(np.arange(6000), vectors)
    index.save(tmp_path / "graph")
    opened = GraphIndex.open(tmp_path / "graph")
    gone = np.arange(0, 6000, 3 if how == "delete" else 10)
    opened.delete(gone)
    if how != "delete":
        getattr(opened, how)()
    found = opened.search(vectors[1:2000:3], 1, effort=32).ids[:, 0]
    left = np.setdiff1d(np.arange(1, 2000, 3), gone)
    assert np.isin(left, found).mean() > 0.98
    assert not np.isin(found, gone).any()


BUILD = """
import resource, sys
import numpy as np
from rag.index import GraphIndex

vectors = np.load(sys.argv[1], mmap_mode="r")
index = GraphIndex(vectors.shape[1], "ip", "float16", degree=8, window=16, threads=1)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[2]),) * 2)
for start in range(0, len(vectors), 500):
    index.add(np.arange(start, start + 500), np.array(vectors[start : start + 500]))
index.link()
assert len(index) == len(vectors) and index.stats().waiting == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mapped memory on Linux only")
def test_a_build_takes_little_more_memory_than_the_index(tmp_path: Path) -> None:
    count, dim = 20_000, 512
    vectors = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    index = count * (2 * dim + 12 * 4 + 8)
    allowed = int(1.5 * index) + 8 * vectors[:500].nbytes
    assert allowed < vectors.nbytes + index
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path / "vectors.npy"), str(allowed)], check=True)
