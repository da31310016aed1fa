"""ScanIndex: the conformance tests for each codec and metric, and what it offers beyond the protocol."""

from __future__ import annotations

import json
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag import _native
from rag.errors import CollectionError, DamagedFileError, InputError, NotFoundError
from rag.index import CODECS, Codec, GraphIndex, Metric, ScanIndex, VectorIndex
from tests.index.conformance import Floats, VectorIndexConformance, random_vectors

EXACT: list[Codec] = ["float32", "float16"]
TWO_COPIES = [codec for codec in CODECS if codec not in EXACT]


class Scan(VectorIndexConformance):
    codec: Codec

    def make(self, dim: int) -> ScanIndex:
        return ScanIndex(dim, self.metric, self.codec)

    def reopen(self, index: VectorIndex, path: Path) -> VectorIndex | None:
        assert isinstance(index, ScanIndex)
        index.save(path)
        return ScanIndex.open(path)


def _combine() -> Iterator[type[Scan]]:
    metrics: list[Metric] = ["ip", "cosine", "l2"]
    for codec in CODECS:
        for metric in metrics:
            precision = {"float32": 3e-6, "lvq4x4": 6e-3}.get(codec, 6e-4)
            least_recall = 1.0 if codec in EXACT else 0.97
            members = {"codec": codec, "metric": metric, "precision": precision, "least_recall": least_recall}
            yield type(f"Test{codec.title()}{metric.title()}", (Scan,), members)


globals().update({case.__name__: case for case in _combine()})


def _filled(codec: Codec, n: int = 500, dim: int = 48, metric: Metric = "cosine") -> tuple[ScanIndex, Floats]:
    vectors = random_vectors(np.random.default_rng(0), n, dim)
    index = ScanIndex(dim, metric, codec)
    index.add(np.arange(n), vectors)
    return index, vectors


def _closeness(codec: Codec) -> dict[str, float]:
    """How near stored numbers are to those given: half a step of the finest copy."""
    if codec == "float32":
        return {"rtol": 1e-6, "atol": 1e-7}
    if codec in ("float16", "int8"):
        return {"rtol": 2**-11, "atol": 1e-7}
    return {"rtol": 0, "atol": 1.01 * 2 / (255 if codec == "lvq4x4" else 4095) / 2}  # components lie within -1 .. 1


def test_is_a_vector_index() -> None:
    assert isinstance(ScanIndex(3), VectorIndex)


@pytest.mark.parametrize("codec", CODECS)
def test_vectors_come_back(codec: Codec) -> None:
    index, vectors = _filled(codec)
    ids = np.array([7, 3, 499, 3])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors(ids), unit[ids], **_closeness(codec))
    index.delete(np.array([3]))
    with pytest.raises(NotFoundError, match="id 3 "):
        index.vectors(ids)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "float32"])
@pytest.mark.parametrize("q", [1, 64])
def test_compressed_codecs_find_nearly_all_of_the_true_neighbours(codec: Codec, q: int) -> None:
    exact, vectors = _filled("float32", n=20_000, dim=96)
    index, _ = _filled(codec, n=20_000, dim=96)
    queries = vectors[:q] + random_vectors(np.random.default_rng(1), q, 96)
    truth, found = exact.search(queries, 10).ids, index.search(queries, 10).ids
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)])
    # Vectors without any structure are the worst case; 8 bits cannot tell the nearest of neighbours apart.
    assert recall >= {"rabitq1": 0.85, "pq": 0.85, "rabitq2": 0.95, "leanvec": 0.95, "lvq4x4": 0.95}.get(codec, 0.98)


@pytest.mark.parametrize("codec", TWO_COPIES)
def test_a_deeper_rerank_finds_more_and_all_of_them_find_everything(codec: Codec) -> None:
    exact, _ = _filled("float16" if codec == "int8" else "float32", n=3000, dim=64)
    index, _ = _filled(codec, n=3000, dim=64)
    queries = random_vectors(np.random.default_rng(1), 50, 64)
    truth = exact.search(queries, 10).ids

    def recall(rerank: int) -> float:
        found = index.search(queries, 10, rerank=rerank).ids
        return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]))

    assert recall(10) <= recall(40) <= recall(1400)
    assert recall(10) < 1
    assert recall(3000) >= (0.97 if codec == "lvq4x4" else 0.998)


@pytest.mark.parametrize("codec", ["lvq4x8", "rabitq2", "leanvec", "pq"])
def test_what_was_learned_is_saved_with_the_index(codec: Codec, tmp_path: Path) -> None:
    index, vectors = _filled(codec, n=2000, dim=300)
    index.save(tmp_path / "vectors.scan")
    opened = ScanIndex.open(tmp_path / "vectors.scan")
    more = random_vectors(np.random.default_rng(5), 500, 300)
    for one in (index, opened):
        one.add(np.arange(2000, 2500), more)
    queries = vectors[:30]
    for rerank in (0, 10):
        before, after = index.search(queries, 10, rerank=rerank), opened.search(queries, 10, rerank=rerank)
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)


def test_leanvec_learns_from_queries_that_are_unlike_the_vectors() -> None:
    rng = np.random.default_rng(3)
    dim, directions = 512, np.linalg.qr(rng.normal(size=(512, 512)))[0]
    vectors = (rng.normal(size=(8000, dim)) * np.linspace(2, 1, dim) @ directions).astype(np.float32)
    # Queries live where the vectors vary least, which a reduction that has not seen them throws away.
    queries = (rng.normal(size=(1100, dim)) * np.linspace(0, 1, dim) ** 3 @ directions).astype(np.float32)
    learning, asked = queries[:1000], queries[1000:]
    exact = ScanIndex(dim, "ip")
    exact.add(np.arange(8000), vectors)
    truth = exact.search(asked, 10).ids

    def recall(learned_queries: Floats | None) -> float:
        index = ScanIndex(dim, "ip", "leanvec")
        index.learn(vectors, learned_queries)
        index.add(np.arange(8000), vectors)
        found = index.search(asked, 10, rerank=100).ids
        return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]))

    assert recall(learning) > recall(None) + 0.2


def test_learning_is_refused_when_it_comes_too_late_or_has_nothing_to_learn_from() -> None:
    index, vectors = _filled("leanvec", n=50)
    with pytest.raises(InputError, match="already"):
        index.learn(vectors)
    with pytest.raises(InputError, match="no vectors"):
        ScanIndex(48, "ip", "leanvec").learn(vectors[:0])
    with pytest.raises(InputError, match="finite"):
        ScanIndex(48, "ip", "leanvec").learn(np.full((3, 48), np.nan, np.float32))


@pytest.mark.parametrize("codec", ["lvq8", "rabitq1", "leanvec", "pq"])
def test_vectors_that_are_all_alike_are_no_trouble(codec: Codec) -> None:
    index = ScanIndex(20, "l2", codec)
    index.add(np.arange(300), np.ones((300, 20), np.float32))
    found = index.search(np.ones((1, 20), np.float32), 3)
    np.testing.assert_array_equal(found.ids, [[0, 1, 2]])
    np.testing.assert_allclose(found.scores, 0, atol=1e-5)


def test_numbers_beyond_half_floats_are_refused_by_name() -> None:
    vectors = np.full((1, 2), 1e5, np.float32)
    with pytest.raises(InputError, match="float32"):
        ScanIndex(2, "ip", "float16").add(np.array([0]), vectors)
    ScanIndex(2, "ip", "float32").add(np.array([0]), vectors)
    ScanIndex(2, "cosine", "float16").add(np.array([0]), vectors)  # stored at unit length


def test_scores_that_would_overflow_are_refused() -> None:
    with pytest.raises(InputError, match="1e18"):
        ScanIndex(2, "l2").add(np.array([0]), np.full((1, 2), 1e30, np.float32))


def test_l2_keeps_small_distances_far_from_the_origin() -> None:
    vectors = (4096 + np.repeat(np.arange(100) / 64, 8).reshape(100, 8)).astype(np.float32)
    index = ScanIndex(8, "l2")
    index.add(np.arange(100), vectors)
    for q in (1, 100):
        found = index.search(vectors[:q], 2)
        np.testing.assert_array_equal(found.scores[:, 0], 0)
        np.testing.assert_array_equal(found.scores[:, 1], np.float32(-8 / 64**2))


@pytest.mark.parametrize(("dim", "metric", "codec"), [(0, "ip", "float32"), (3, "dot", "float32"), (3, "ip", "int4")])
def test_unknown_settings_are_refused(dim: int, metric: Metric, codec: Codec) -> None:
    with pytest.raises(InputError):
        ScanIndex(dim, metric, codec)


def test_stats_count_vectors_and_bytes() -> None:
    index, _ = _filled("int8", n=100, dim=64)
    index.delete(np.arange(10))
    stats = index.stats()
    assert (stats.vectors, stats.tombstones, stats.dim, stats.metric, stats.codec) == (90, 10, 64, "cosine", "int8")
    assert stats.bytes == {"ids": 800, "codes": 6400, "factors": 800, "secondary": 12800, "tombstones": 16}


def test_pickling_is_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match="save"):
        pickle.dumps(ScanIndex(3))


def test_a_long_search_can_be_interrupted() -> None:
    index, vectors = _filled("float32", n=20_000, dim=256)
    queries = np.tile(vectors[:2000], (2, 1))

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before, isa = signal.signal(signal.SIGALRM, interrupt), _native.isa()
    _native.set_isa("portable")  # slow enough to be caught in the middle
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.process_time()
        with pytest.raises(Interrupted):
            index.search(queries, 10, threads=1)
        assert time.process_time() - start < 0.6
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _native.set_isa(isa)
    assert len(index.search(queries[:1], 3).ids) == 1


@pytest.mark.parametrize("codec", TWO_COPIES)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_first_pass_gives_a_batch_the_candidates_of_single_queries(codec: Codec, metric: Metric) -> None:
    index, vectors = _filled(codec, n=2500, dim=100, metric=metric)
    queries = vectors[:70] + random_vectors(np.random.default_rng(1), 70, 100)
    # No deeper than k: a candidate more or less in the first pass would show in the result.
    batch = index.search(queries, 20, rerank=20)
    for threads in (1, 3):
        alone = [index.search(query[None], 20, rerank=20, threads=threads) for query in queries]
        np.testing.assert_array_equal(batch.ids, np.concatenate([found.ids for found in alone]))
        np.testing.assert_array_equal(batch.scores, np.concatenate([found.scores for found in alone]))
    for some in (slice(9), slice(30, 64)):
        np.testing.assert_array_equal(index.search(queries[some], 20, rerank=20).ids, batch.ids[some])


@pytest.mark.parametrize("codec", ["float32", "rabitq1", "leanvec", "pq"])
def test_of_many_equal_vectors_the_smallest_ids_are_found(codec: Codec) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(6000)
    index = ScanIndex(32, "ip", codec)
    index.learn(random_vectors(rng, 500, 32))
    index.add(ids, np.tile(random_vectors(rng, 1, 32), (6000, 1)))
    for q in (1, 40):
        found = index.search(random_vectors(rng, q, 32), 50)
        np.testing.assert_array_equal(found.ids, np.tile(np.arange(50), (q, 1)))


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_stored_depends_neither_on_threads_nor_on_how_many_are_added_at_once(codec: Codec) -> None:
    vectors = random_vectors(np.random.default_rng(0), 1100, 70)
    whole, parts = ScanIndex(70, "l2", codec), ScanIndex(70, "l2", codec)
    for index in (whole, parts):
        index.learn(vectors)
    whole.add(np.arange(1100), vectors)
    for first, last in ((0, 1), (1, 8), (8, 505), (505, 1100)):
        parts.add(np.arange(first, last), vectors[first:last])
    np.testing.assert_array_equal(whole.vectors(np.arange(1100)), parts.vectors(np.arange(1100)))
    queries = random_vectors(np.random.default_rng(1), 30, 70)
    a, b = whole.search(queries, 20, rerank=20), parts.search(queries, 20, rerank=20)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("kind", [ScanIndex, GraphIndex])
@pytest.mark.parametrize("codec", TWO_COPIES)
def test_without_the_finer_copy_the_same_candidates_are_found(
    codec: Codec, kind: type[ScanIndex] | type[GraphIndex], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = random_vectors(rng, 900, 40), random_vectors(rng, 20, 40)
    both, short = ScanIndex(40, "ip", codec), kind(40, "ip", codec, finer=False)
    for index in (both, short):
        index.learn(vectors)
        index.add(np.arange(900), vectors)
    assert "secondary" not in short.stats().bytes
    assert sum(short.stats().bytes.values()) < sum(both.stats().bytes.values()) + 4 * 33 * 900 * (kind is GraphIndex)
    short.save(tmp_path / "short")
    for index in (short, kind.open(tmp_path / "short")):
        assert index.stats() == short.stats()
        found, wanted = index.search(queries, 60), both.search(queries, 60, rerank=60)
        alike = [len(np.intersect1d(a, b)) / 60 for a, b in zip(found.ids, wanted.ids, strict=True)]
        assert np.mean(alike) > (0.999 if kind is ScanIndex else 0.9)
        assert (np.diff(found.scores, axis=1) <= 0).all()


def test_searches_go_on_while_vectors_are_added() -> None:
    index, vectors = _filled("leanvec", n=3000, dim=64)
    more = random_vectors(np.random.default_rng(1), 60_000, 64)
    before = index.search(vectors[:20], 1)
    adding = threading.Thread(target=index.add, args=(np.arange(3000, 63_000), more))
    adding.start()
    while adding.is_alive():
        found = index.search(vectors[:20], 1)
        np.testing.assert_array_equal(found.ids, before.ids)  # each finds itself, new ones or not
        np.testing.assert_array_equal(found.scores, before.scores)
    adding.join()
    assert len(index) == 63_000
    np.testing.assert_array_equal(index.search(more[-5:], 1).ids[:, 0], np.arange(62_995, 63_000))


def test_an_interrupted_add_adds_nothing() -> None:
    index, vectors = _filled("leanvec", n=500, dim=256)
    more = np.tile(random_vectors(np.random.default_rng(1), 20_000, 256), (4, 1))

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before, isa = signal.signal(signal.SIGALRM, interrupt), _native.isa()
    _native.set_isa("portable")  # slow enough to be caught in the middle
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with pytest.raises(Interrupted):
            index.add(np.arange(500, 80_500), more)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _native.set_isa(isa)
    assert len(index) == 500
    index.add(np.arange(500, 600), more[:100])
    np.testing.assert_array_equal(index.search(more[:100], 1).ids[:, 0], np.arange(500, 600))
    np.testing.assert_array_equal(index.search(vectors[:9], 1).ids[:, 0], np.arange(9))


# --- files


@pytest.fixture(params=CODECS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    index, _ = _filled(request.param)
    index.delete(np.array([4]))
    path = tmp_path / "vectors.scan"
    index.save(path)
    return path


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Where each part of a file lies: from, to."""
    data = path.read_bytes()
    table = int.from_bytes(data[12:16], "little")
    places = {"magic": (0, 8), "version": (8, 12), "header": (12, 64), "table": (64, 64 + table)}
    for entry in json.loads(data[64 : 64 + table])["sections"]:
        places[entry["name"]] = (entry["offset"], entry["offset"] + entry["length"])
    return places


def test_a_flipped_bit_anywhere_is_found(saved: Path) -> None:
    data, rng = saved.read_bytes(), np.random.default_rng(0)
    for name, (start, end) in _places(saved).items():
        for place in {start, end - 1, *rng.integers(start, end, 5).tolist()}:
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(rng.integers(8))
            saved.write_bytes(damaged)
            with pytest.raises(CollectionError) as caught:
                ScanIndex.open(saved)
            assert str(saved) in str(caught.value)
            if name not in ("magic", "version", "header"):
                assert isinstance(caught.value, DamagedFileError)
                assert repr(name) in str(caught.value)


def test_a_file_cut_short_or_grown_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    for length in (0, 1, 63, 64, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(DamagedFileError, match=r"bytes long|checksum"):
            ScanIndex.open(saved)
    saved.write_bytes(data + b"\0")
    with pytest.raises(DamagedFileError, match="bytes long"):
        ScanIndex.open(saved)


def test_a_version_from_the_future_says_what_to_do(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[8] = 200
    saved.write_bytes(data)
    with pytest.raises(CollectionError, match=r"version 200.*upgrade"):
        ScanIndex.open(saved)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        ScanIndex.open(tmp_path / "nothing")


def test_a_save_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rag.index.files.os.fsync", full)
    with pytest.raises(CollectionError, match="No space left"):
        ScanIndex(3).save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_an_opened_index_outlives_its_file_and_can_be_saved_over_it(saved: Path) -> None:
    index = ScanIndex.open(saved)
    query = random_vectors(np.random.default_rng(9), 1, 48)
    before = index.search(query, 5)
    index.add(np.array([4, 1000]), random_vectors(np.random.default_rng(10), 2, 48))
    index.delete(np.array([4, 1000]))
    index.save(saved)
    np.testing.assert_array_equal(ScanIndex.open(saved).search(query, 5).ids, before.ids)
    saved.unlink()
    np.testing.assert_array_equal(index.search(query, 5).scores, before.scores)


def test_saving_an_empty_index(tmp_path: Path) -> None:
    ScanIndex(3, "l2", "int8").save(tmp_path / "empty")
    index = ScanIndex.open(tmp_path / "empty")
    assert (len(index), index.dim, index.metric, index.codec) == (0, 3, "l2", "int8")
