"""GraphIndex: the conformance tests, and walks against brute force where there are too many vectors to scan."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from rag.errors import DamagedFileError, InputError
from rag.index import Codec, GraphIndex, IdFilter, Metric, ScanIndex, VectorIndex
from rag.index.graph import Links
from tests.index.conformance import Floats, Ids, VectorIndexConformance, random_vectors

N, DIM = 9000, 24
NO_ROW = 2**32 - 1
METRICS: list[Metric] = ["ip", "cosine", "l2"]
CODECS: list[Codec] = ["float32", "int8", "lvq4x8", "leanvec4"]


class Graph(VectorIndexConformance):
    codec: Codec
    links: Links

    def make(self, dim: int) -> GraphIndex:
        return GraphIndex(dim, self.metric, self.codec, links=self.links)

    def reopen(self, index: VectorIndex, path: Path) -> VectorIndex | None:
        assert isinstance(index, GraphIndex)
        index.save(path)
        return GraphIndex.open(path)


def _combine() -> Iterator[type[Graph]]:
    kinds: list[tuple[Links, Codec]] = [("vamana", "float32"), ("vamana", "leanvec4"), ("hnsw", "float32")]
    for links, codec in kinds:
        for metric in METRICS:
            exact = codec == "float32"
            members = {
                "codec": codec,
                "links": links,
                "metric": metric,
                "precision": 3e-6 if exact else 6e-4,
                "least_recall": 1.0 if exact else 0.97,
            }
            yield type(f"Test{links.title()}{codec.title()}{metric.title()}", (Graph,), members)


globals().update({case.__name__: case for case in _combine()})


def _clustered(seed: int, n: int = N) -> Floats:
    """Vectors around a hundred centres, sorted by centre, as documents sorted by topic are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(100, DIM)) * 1.5
    return (centres[np.sort(rng.integers(0, 100, n))] + rng.normal(size=(n, DIM))).astype(np.float32)


def _built(codec: Codec = "float32", metric: Metric = "cosine", links: Links = "vamana", **settings: int) -> GraphIndex:
    index = GraphIndex(DIM, metric, codec, links=links, **settings)
    index.add(np.arange(N), _clustered(0))
    return index


both_kinds = pytest.mark.parametrize("links", ["vamana", "hnsw"])


@pytest.fixture(scope="module", params=["vamana", "hnsw"])
def built(request: pytest.FixtureRequest) -> GraphIndex:
    """Not to be changed."""
    return _built(links=request.param)


@pytest.fixture(scope="module")
def exact() -> ScanIndex:
    index = ScanIndex(DIM)
    index.add(np.arange(N), _clustered(0))
    return index


QUERIES = _clustered(7, 200)


def _recall(found: Ids, truth: Ids) -> float:
    there = (truth >= 0).sum()
    return sum(len(np.intersect1d(a[a >= 0], b)) for a, b in zip(found, truth, strict=True)) / float(there)


# --- walks


@both_kinds
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codec", CODECS)
def test_walks_find_the_true_neighbours(codec: Codec, metric: Metric, links: Links) -> None:
    index = _built(codec, metric, links)
    scan = ScanIndex(DIM, metric)
    scan.add(np.arange(N), _clustered(0))
    truth = scan.search(QUERIES, 10)
    found = index.search(QUERIES, 10, effort=64)
    assert _recall(found.ids, truth.ids) >= 0.95
    same = found.ids == truth.ids
    np.testing.assert_allclose(found.scores[same], truth.scores[same], rtol=2e-3, atol=2e-3)


def test_more_effort_finds_more(built: GraphIndex, exact: ScanIndex) -> None:
    truth = exact.search(QUERIES, 10).ids
    recalls = [_recall(built.search(QUERIES, 10, effort=effort).ids, truth) for effort in (10, 30, 90)]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[2]
    assert recalls[2] >= 0.98


@pytest.mark.parametrize("recall", [0.8, 0.9, 0.95, 0.99, 1.0])
def test_the_recall_that_is_asked_for_is_reached(built: GraphIndex, exact: ScanIndex, recall: float) -> None:
    assert _recall(built.search(QUERIES, 10, recall=recall).ids, exact.search(QUERIES, 10).ids) >= recall


def test_real_queries_can_stand_in_for_the_sampled_ones(exact: ScanIndex) -> None:
    index = _built()
    curve = index.calibrate(QUERIES[:100])
    assert list(curve.slacks) == sorted(curve.slacks)
    assert index.stats().effort == curve
    found = index.search(QUERIES[100:], 10, recall=0.9)
    assert _recall(found.ids, exact.search(QUERIES[100:], 10).ids) >= 0.88


def test_a_batch_finds_what_single_queries_find(built: GraphIndex) -> None:
    together = built.search(QUERIES[:15], 7, effort=40, threads=2)
    many = built.search(QUERIES, 7, effort=40, threads=2)  # which may be scanned
    for row, query in enumerate(QUERIES[:50]):
        alone = built.search(query[None], 7, effort=40, threads=1)
        assert (many.scores[row] >= alone.scores[0] - 1e-6).all()
        if row < 15:
            np.testing.assert_array_equal(alone.ids[0], together.ids[row])
            np.testing.assert_array_equal(alone.scores[0], together.scores[row])


@both_kinds
def test_the_graph_does_not_depend_on_threads(links: Links) -> None:
    one, two = (_built(links=links, threads=threads, seed=3) for threads in (1, 2))
    for (rows, ways), (other_rows, other_ways) in zip(one._graph.levels(), two._graph.levels(), strict=True):
        np.testing.assert_array_equal(rows, other_rows)
        np.testing.assert_array_equal(ways, other_ways)
    assert one.stats().effort == two.stats().effort


def test_every_vector_can_be_reached(built: GraphIndex) -> None:
    (_, links), *upper = built._graph.levels()
    assert links.shape == (N, 32)
    for rows, ways in upper:
        assert len(set(rows.tolist())) == len(rows) == len(ways)
        assert set(ways.ravel().tolist()) <= {*range(len(rows)), NO_ROW}
    for (above, _), (below, _) in zip(upper[1:], upper, strict=False):
        assert np.isin(above, below).all()
    if upper:
        assert 0.8 < 16 * len(upper[0][0]) / N < 1.2
    assert all(len(set(row[row != NO_ROW].tolist())) == (row != NO_ROW).sum() for row in links)
    assert not (links == np.arange(N)[:, None]).any()
    seen, fresh = {0}, {0}
    while fresh:
        fresh = set(links[list(fresh)].ravel().tolist()) - seen - {NO_ROW}
        seen |= fresh
    assert len(seen) >= (0.999 if built._links == "vamana" else 0.99) * N


# --- filters


@pytest.mark.parametrize("share", [0.002, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("how", ["random", "near", "far"])
def test_filters_lose_nothing(built: GraphIndex, exact: ScanIndex, share: float, how: str) -> None:
    queries = QUERIES[:30]
    by = {
        "random": np.random.default_rng(0).random(N),
        "near": -_clustered(0) @ queries[0],
        "far": _clustered(0) @ queries[0],
    }[how]
    allowed = np.sort(np.argsort(by)[: int(share * N)])
    found = built.search(queries, 10, filter=IdFilter(allowed), effort=32)
    assert np.isin(found.ids, allowed).all()
    assert _recall(found.ids, exact.search(queries, 10, filter=allowed).ids) >= 0.95
    np.testing.assert_array_equal(built.search(queries, 10, filter=allowed, effort=32).ids, found.ids)


def test_few_on_an_island_are_found_all_the_same() -> None:
    rng = np.random.default_rng(0)
    crowd = random_vectors(rng, 6000, 8)
    island = random_vectors(rng, 3000, 8) + 500
    index = GraphIndex(8, "l2", "float32", degree=8, window=16)
    index.add(np.arange(9000), np.vstack([crowd, island]))
    found = index.search(crowd[:5], 20, filter=np.arange(6000, 9000), effort=20)
    assert (found.ids >= 6000).all()


def test_a_filter_serves_indexes_that_change(exact: ScanIndex) -> None:
    index, chosen = _built(), IdFilter(np.arange(0, N, 2))
    before = index.search(QUERIES, 5, filter=chosen, effort=32).ids
    index.delete(np.unique(before))
    after = index.search(QUERIES, 5, filter=chosen, effort=32).ids
    assert not np.isin(after, before).any()
    assert (after % 2 == 0).all()
    assert _recall(exact.search(QUERIES, 5, filter=chosen).ids, before) >= 0.9


# --- changes


@both_kinds
def test_what_is_added_later_is_found_and_what_is_deleted_is_not(links: Links) -> None:
    index, vectors = _built(links=links), _clustered(0)
    fresh = _clustered(1, 3000)
    for start in range(0, 3000, 500):
        index.add(np.arange(N + start, N + start + 500), fresh[start : start + 500])
    assert (index.search(fresh, 1, effort=32).ids[:, 0] >= N).mean() > 0.97
    index.delete(np.arange(0, N, 3))
    assert len(index) == N + 3000 - len(range(0, N, 3))
    found = index.search(vectors[::3], 10, effort=32).ids
    assert not np.isin(found, np.arange(0, N, 3)).any()


@both_kinds
def test_links_are_led_around_deleted_vectors(links: Links) -> None:
    index = _built(links=links)
    dead = np.arange(0, N, 7)
    index.delete(dead)
    assert np.isin(index._graph.levels()[0][1], dead).any()
    index.consolidate()
    for rows, ways in index._graph.levels():
        gone = np.flatnonzero(np.isin(rows if len(rows) else np.arange(N), dead))
        assert not np.isin(np.delete(ways, gone, axis=0), gone).any()


@both_kinds
def test_replacing_half_of_the_vectors_costs_no_recall(links: Links) -> None:
    index, fresh = _built(links=links), _clustered(5, N // 2)
    index.delete(np.arange(0, N, 2))
    index.add(np.arange(0, N, 2), fresh)
    vectors = _clustered(0)
    vectors[::2] = fresh
    anew, exact = GraphIndex(DIM, "cosine", "float32", links=links), ScanIndex(DIM)
    for other in (anew, exact):
        other.add(np.arange(N), vectors)
    truth = exact.search(QUERIES, 10).ids
    replaced, built = (_recall(one.search(QUERIES, 10, effort=32).ids, truth) for one in (index, anew))
    assert replaced > built - 0.01


def test_searches_go_on_while_vectors_come_and_go() -> None:
    index, fresh = _built(), _clustered(3, 1000)

    def write(_: int) -> bool:
        for start in range(0, 1000, 100):
            index.add(np.arange(N + start, N + start + 100), fresh[start : start + 100])
        return index.delete(np.arange(N, N + 1000)) == 1000

    def search(_: int) -> bool:
        found = index.search(QUERIES, 10, effort=32, threads=1)
        return bool((found.ids >= 0).all() and (np.diff(found.scores, axis=1) <= 0).all())

    jobs: list[tuple[Callable[[int], bool], int]] = [(write, 0), *((search, i) for i in range(20))]
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda job: job[0](job[1]), jobs))


@both_kinds
def test_an_interrupted_addition_adds_nothing(links: Links) -> None:
    index = _built(links=links)
    waiting = _clustered(6, 50)
    index.add(np.arange(10**6, 10**6 + 50), waiting)
    before = index.search(QUERIES, 5, effort=32).ids

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    many = random_vectors(np.random.default_rng(4), 60_000, DIM)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            index.add(np.arange(N, N + 60_000), many)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert len(index) == N + 50
    after = index.search(QUERIES, 5, effort=64).ids
    assert not ((after >= N) & (after < 10**6)).any()
    assert _recall(after, before) > 0.9
    for _ in range(2):  # what waited before waits on, then is linked
        found = index.search(waiting, 1, effort=64).ids[:, 0]
        assert (found == np.arange(10**6, 10**6 + 50)).mean() > 0.9
        index.add(np.arange(len(index), len(index) + 10), many[:10] + len(index))
        index.link()
    assert len(index) == N + 70


# --- files


def test_a_saved_graph_answers_as_before_and_can_grow(built: GraphIndex, tmp_path: Path) -> None:
    built.save(tmp_path / "graph")
    opened = GraphIndex.open(tmp_path / "graph")
    np.testing.assert_array_equal(opened.search(QUERIES, 10, recall=0.9).ids, built.search(QUERIES, 10, recall=0.9).ids)
    assert opened.stats() == built.stats()
    opened.add(np.arange(N, N + 100), _clustered(2, 100))
    opened.save(tmp_path / "grown")
    assert len(GraphIndex.open(tmp_path / "grown")) == N + 100
    assert len(GraphIndex.open(tmp_path / "graph")) == N


@pytest.mark.parametrize("level", [0, 1])
def test_damaged_links_are_noticed(built: GraphIndex, tmp_path: Path, level: int) -> None:
    path, levels = tmp_path / "graph", built._graph.levels()
    if level >= len(levels):
        pytest.skip("there is no such level")
    built.save(path)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(levels[level][1][100:101].tobytes()) + 5] ^= 64
    path.write_bytes(data)
    if level:  # small enough to be checked at once
        with pytest.raises(DamagedFileError, match="level_links"):
            GraphIndex.open(path)
        return
    index = GraphIndex.open(path)
    for _ in range(2):
        with pytest.raises(DamagedFileError, match="links"):
            index.search(QUERIES, 3)


# --- wrong input


@pytest.mark.parametrize(
    "settings", [{"degree": 4}, {"degree": 1000}, {"window": 1}, {"passes": 0}, {"degree": True}, {"threads": -1}]
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        GraphIndex(8, **settings)


@pytest.mark.parametrize("recall", [0, -1, 1.5, True, float("nan")])
def test_a_recall_that_is_none_is_refused(built: GraphIndex, recall: float) -> None:
    with pytest.raises(InputError, match="recall"):
        built.search(QUERIES, 3, recall=recall)


def test_an_empty_graph_cannot_be_calibrated() -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        GraphIndex(DIM).calibrate(QUERIES)


def test_it_cannot_be_pickled(built: GraphIndex) -> None:
    with pytest.raises(TypeError, match=r"GraphIndex\.open"):
        pickle.dumps(built)


def test_vectors_that_are_all_alike_are_no_trouble() -> None:
    index = GraphIndex(DIM, "l2", "lvq8")
    index.add(np.arange(5000), np.ones((5000, DIM), np.float32))
    found = index.search(np.ones((1, DIM), np.float32), 3, effort=16)
    assert (found.ids >= 0).all()
    np.testing.assert_allclose(found.scores, 0, atol=1e-5)
