"""The profile of vectors, against closed forms and brute force, and what is recommended for it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import skew

from rag.errors import InputError
from rag.index import CODECS, Codec, Metric, ScanIndex
from rag.index.profile import Profile, QueryProfile, profile
from rag.index.recommend import GRAPH_FROM, recommend
from rag.index.trial import DEPTHS, CodecProfile, row_sizes
from tests.index.conformance import Floats, random_vectors, reference_scores

module = importlib.import_module("rag.index.profile")
trial = importlib.import_module("rag.index.trial")


def _cube(n: int, dim: int) -> Floats:
    return np.random.default_rng(1).random((n, dim)).astype(np.float32)


def _turned(vectors: NDArray[Any], dim: int) -> Floats:
    """The same points in a space of more dimensions."""
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(dim, vectors.shape[1])))[0]
    return np.asarray(vectors @ basis.T, dtype=np.float32)


def _figures(vectors: Floats, metric: Metric = "l2", **more: Any) -> Profile:
    return profile(vectors, metric=metric, **more)


def _geometry(vectors: Floats, metric: Metric) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True) if metric == "cosine" else exact


# --- dimension


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_a_cube_has_the_local_dimension_of_its_space(dim: int):
    found = _figures(_turned(_cube(3000, dim), 40))
    assert found.local_dimension == pytest.approx(dim, rel=0.15)
    assert found.local_range[0] < found.local_range[1] < found.local_range[2]
    assert found.local_range[1] == pytest.approx(dim, rel=0.15)
    assert found.directions[2] == dim
    assert found.participation == pytest.approx(dim, rel=0.05)


def test_higher_dimensions_rank_rightly_though_they_come_out_low():
    found = [_figures(_cube(3000, dim)).local_dimension for dim in (5, 10, 20, 40)]
    assert found == sorted(found)
    assert found[1] > 7


def test_directions_of_a_sphere_have_one_dimension_less_than_its_space():
    lengths = np.random.default_rng(0).uniform(0.1, 10, (3000, 1)).astype(np.float32)
    vectors = _turned(random_vectors(np.random.default_rng(3), 3000, 3), 50) * lengths
    assert _figures(vectors, "cosine").local_dimension == pytest.approx(2, rel=0.1)
    assert _figures(vectors, "l2").local_dimension > 2.3


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_principal_directions_are_those_of_the_centred_vectors(metric: Metric):
    vectors = random_vectors(np.random.default_rng(0), 500, 30) * (np.arange(30, 0, -1) ** 1.5).astype(np.float32) + 7
    points = _geometry(vectors, metric)
    variances = np.linalg.svd(points - points.mean(0), compute_uv=False) ** 2
    held = np.cumsum(variances) / variances.sum()
    found = _figures(vectors, metric)
    assert found.directions == tuple(int((held < share).sum()) + 1 for share in (0.90, 0.95, 0.99))
    assert found.participation == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-4)


def test_principal_directions_of_more_numbers_than_a_matrix_may_have(monkeypatch: pytest.MonkeyPatch):
    vectors = random_vectors(np.random.default_rng(0), 40, 64)
    plain = _figures(vectors)
    monkeypatch.setattr(module, "SPECTRUM", 50)
    again = _figures(vectors)
    assert again.directions == plain.directions
    assert again.participation == pytest.approx(plain.participation, rel=1e-4)


# --- neighbours


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_hubness_is_the_skewness_of_how_often_a_vector_is_a_neighbour(metric: Metric):
    rng = np.random.default_rng(0)
    vectors = random_vectors(rng, 400, 20) * rng.uniform(0.5, 2, (400, 1)).astype(np.float32)
    scores = reference_scores(metric, vectors, vectors)
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :10]
    assert _figures(vectors, metric).hubness == pytest.approx(skew(np.bincount(nearest.ravel(), minlength=400)), 1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_contrast_is_the_mean_distance_over_that_to_the_nearest(metric: Metric):
    vectors = random_vectors(np.random.default_rng(0), 600, 8) + 1
    points = _geometry(vectors, metric)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    mean = distances.sum() / (600 * 599)
    np.fill_diagonal(distances, np.inf)
    assert _figures(vectors, metric).contrast == pytest.approx(mean / distances.min(axis=1).mean(), rel=0.05)


def test_sorted_vectors_are_nearer_to_the_next_than_shuffled_ones():
    rng = np.random.default_rng(0)
    topics = np.repeat(random_vectors(rng, 20, 16) * 5, 50, axis=0)
    by_topic = (topics + random_vectors(rng, 1000, 16)).astype(np.float32)
    assert _figures(by_topic).succession < 0.4
    assert _figures(rng.permutation(by_topic)).succession == pytest.approx(1, abs=0.08)


# --- lengths and copies


def test_lengths_and_copies_are_of_all_vectors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "SAMPLE", 100)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 64)
    rng = np.random.default_rng(0)
    vectors = random_vectors(rng, 500, 8)
    vectors[[100, 300, 400]] = vectors[7]
    vectors[9], vectors[450] = 0, -0.0
    vectors[20] *= 100
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    found = _figures(vectors)
    assert (found.count, found.dim, found.sampled) == (500, 8, 100)
    assert found.norm_mean == pytest.approx(lengths.mean())
    assert found.norm_variation == pytest.approx(lengths.std() / lengths.mean())
    assert found.norm_peak == pytest.approx(lengths.max() / np.median(lengths))
    assert found.duplicates == pytest.approx(4 / 500)


def test_copies_leave_the_dimension_alone():
    vectors = _cube(1000, 4)
    copied = np.repeat(vectors, 5, axis=0)
    assert _figures(copied).duplicates == pytest.approx(0.8)
    assert _figures(copied).local_dimension == pytest.approx(_figures(vectors).local_dimension, rel=0.01)


# --- queries


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_queries_of_the_same_kind_are_as_far_as_vectors_and_others_farther(metric: Metric):
    rng = np.random.default_rng(0)
    basis, other = random_vectors(rng, 6, 32), random_vectors(rng, 6, 32)
    vectors, alike = random_vectors(rng, 3000, 6) @ basis, random_vectors(rng, 500, 6) @ basis
    unlike = random_vectors(rng, 500, 6) @ other
    same, strange = (_figures(vectors, metric, queries=q).queries for q in (alike, unlike))
    assert same is not None
    assert strange is not None
    assert same.count == 500
    assert same.distance == pytest.approx(1, abs=0.1)
    assert same.far == pytest.approx(0.05, abs=0.04)
    assert strange.distance > 1.5
    assert strange.far > 0.85


def test_the_length_of_a_query_means_nothing_under_ip():
    rng = np.random.default_rng(0)
    vectors, queries = random_vectors(rng, 1000, 12), random_vectors(rng, 100, 12)
    one, other = (_figures(vectors, "ip", queries=q).queries for q in (queries, queries * 1000))
    assert one is not None
    assert other is not None
    assert one.distance == pytest.approx(other.distance, rel=1e-3)


# --- codecs


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_recall_and_bytes_of_every_codec_are_those_of_its_index(metric: Metric):
    rng = np.random.default_rng(0)
    vectors, queries = random_vectors(rng, 3000, 48), random_vectors(rng, 150, 48)
    truth = np.argsort(-reference_scores(metric, queries, vectors), axis=1)[:, :10]
    found = {c.codec: c for c in _figures(vectors, metric, queries=queries).codecs}
    assert list(found) == list(CODECS)
    for codec in CODECS:
        index = ScanIndex(48, metric, codec)
        index.add(np.arange(3000), vectors)
        ids = index.search(queries, 10).ids
        recall = np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]) / 10
        assert found[codec].recall == found[codec].expected == pytest.approx(recall, abs=0.002)
        assert found[codec].bytes == pytest.approx(sum(index.stats().bytes.values()) / 3000)
        assert found[codec].scanned < found[codec].bytes
    assert found["float32"].recall == 1
    assert found["rabitq1"].recall < found["rabitq2"].recall < found["rabitq4"].recall + 0.01


@pytest.mark.parametrize("codec", DEPTHS)
def test_the_depths_are_those_of_the_engine(codec: Codec):
    rng = np.random.default_rng(0)
    # Two heaps of vectors nearer to each other than short codes can tell: what is found depends on the depth alone.
    heaps = random_vectors(rng, 1, 64) * rng.choice([-1, 1], (4000, 1))
    vectors = (heaps + 0.003 * random_vectors(rng, 4000, 64)).astype(np.float32)
    index = ScanIndex(64, "l2", codec)
    index.add(np.arange(4000), vectors)
    queries = vectors[:300] + 0.003 * random_vectors(rng, 300, 64)
    own = index.search(queries, 10).ids
    assert np.array_equal(own, index.search(queries, 10, rerank=DEPTHS[codec]).ids)
    assert not np.array_equal(own, index.search(queries, 10, rerank=DEPTHS[codec] - 2).ids)
    assert not np.array_equal(own, index.search(queries, 10, rerank=DEPTHS[codec] + 2).ids)


@pytest.mark.parametrize("dim", [24, 64])
def test_a_sample_tells_what_all_vectors_will_find(dim: int, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    vectors, queries = random_vectors(rng, 24_000, dim), random_vectors(rng, 500, dim)
    truth = {c.codec: c.recall for c in _figures(vectors, "ip", queries=queries).codecs}
    monkeypatch.setattr(trial, "SAMPLE", 3000)
    for found in _figures(vectors, "ip", queries=queries).codecs:
        assert found.expected <= found.recall
        # Centroids learned from few vectors fit these few better than centroids learned from all fit all.
        assert found.expected == pytest.approx(truth[found.codec], abs=0.1 if found.codec == "pq" else 0.02)


def test_any_of_equal_vectors_will_do():
    vectors = np.repeat(random_vectors(np.random.default_rng(0), 60, 8), 50, axis=0)
    assert _figures(vectors).codecs[0].recall == 1


def test_codecs_that_cannot_hold_the_numbers_are_left_out():
    found = _figures(random_vectors(np.random.default_rng(0), 200, 8) * 1e7)
    codecs = [c.codec for c in found.codecs]
    assert "float32" in codecs
    assert "float16" not in codecs
    assert "int8" not in codecs


# --- how it works


def test_the_seed_decides_and_threads_do_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "SAMPLE", 300)
    vectors = random_vectors(np.random.default_rng(0), 1000, 12)
    one = _figures(vectors, seed=1, threads=1)
    assert one == _figures(vectors, seed=1, threads=2)
    assert one != _figures(vectors, seed=2)


class _Store:
    """Vectors that are only given out in parts."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors, self.shape, self.most = vectors, vectors.shape, 0

    def __getitem__(self, rows: NDArray[np.int64], /) -> Floats:
        self.most = max(self.most, len(rows))
        return self._vectors[rows]


def test_vectors_are_read_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "SAMPLE", 200)
    monkeypatch.setattr(module, "SUCCESSIONS", 200)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 1000)
    vectors = random_vectors(np.random.default_rng(0), 5000, 8)
    store = _Store(vectors)
    assert profile(store, metric="l2") == _figures(vectors)
    assert store.most == 200


def test_progress_reaches_its_end():
    told: list[tuple[str, int, int]] = []
    _figures(random_vectors(np.random.default_rng(0), 500, 8), progress=lambda *state: told.append(state))
    assert {("reading", 500, 500), ("neighbours", 500, 500), ("codecs", len(CODECS), len(CODECS))} <= set(told)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (3, 4), (12, 3), (100, 1)])
def test_few_vectors_and_few_numbers_have_a_profile(shape: tuple[int, int], metric: Metric):
    vectors = random_vectors(np.random.default_rng(5), *shape)
    vectors[:2, 0] = 1, -1
    found = _figures(vectors, metric)
    numbers = dataclasses.asdict(found)
    assert all(np.isfinite(value) for value in numbers.values() if isinstance(value, float))
    assert recommend(found).kind == "scan"


Refused = tuple[Callable[[], Any], str]
REFUSED: list[Refused] = [
    (lambda: _figures(np.empty((0, 4), np.float32)), r"shape \(0, 4\)"),
    (lambda: _figures(np.empty((4, 0), np.float32)), r"shape \(4, 0\)"),
    (lambda: _figures(np.ones(4, np.float32)), r"shape \(4,\)"),
    (lambda: _figures(np.ones((1, 4), np.float32)), "at least 2"),
    (lambda: _figures(np.ones((9, 4), np.float32)), "all 9 vectors .* are the same"),
    (lambda: _figures(np.zeros((9, 4), np.float32), "ip"), "are the same"),
    (lambda: _figures(np.outer(np.arange(1, 9), [1, 2, 3]), "cosine"), "same direction"),
    (lambda: _figures(np.eye(4) * np.asarray([1, 1, np.nan, 1])[:, None]), "vector 2 holds nan at position 0"),
    (lambda: _figures(np.diag([1.0, 1, 1, -np.inf])), "vector 3 holds -inf at position 3"),
    (lambda: _figures(np.diag([1.0, 0, 1]), "cosine"), "vector 1 is all zeros"),
    (lambda: _figures(np.asarray([["a", "b"], ["c", "d"]])), "dtype"),
    (lambda: _figures(np.eye(4), queries=np.ones((2, 3))), r"queries have shape \(2, 3\)"),
    (lambda: _figures(np.eye(4), queries=np.ones((0, 4))), "no queries"),
    (lambda: _figures(np.eye(4), queries=np.full((1, 4), np.nan)), "query 0 holds nan"),
    (lambda: _figures(np.eye(4), "cosine", queries=np.zeros((1, 4))), "query 0 is all zeros"),
    (lambda: _figures(np.eye(4), seed=-1), "seed is -1"),
    (lambda: recommend(_made(10), recall=0), "recall is 0"),
    (lambda: recommend(_made(10), recall=1.1), "recall is 1.1"),
]


@pytest.mark.parametrize(("act", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused(act: Callable[[], Any], message: str):
    with pytest.raises(InputError, match=message):
        act()


# --- the recommendation


def _made(count: int, succession: float = 1.0, far: float = 0.05, **recalls: float) -> Profile:
    found = {"float32": 1.0, "int8": 1.0, "rabitq1": 0.995, "leanvec": 0.992, "leanvec4": 0.999} | recalls
    sizes = {"float32": (1544, 1536), "int8": (1168, 392), "rabitq1": (656, 64)}
    sizes |= {"leanvec": (656, 64), "leanvec4": (720, 128)}
    return Profile(
        count=count,
        dim=384,
        metric="cosine",
        sampled=min(count, 20_000),
        norm_mean=1.0,
        norm_variation=0.0,
        norm_peak=1.0,
        duplicates=0.0,
        succession=succession,
        local_dimension=20.0,
        local_range=(10.0, 20.0, 30.0),
        participation=100.0,
        directions=(100, 200, 300),
        hubness=1.0,
        contrast=1.5,
        codecs=tuple(CodecProfile(c, *sizes[c], found[c], found[c]) for c in CODECS if c in sizes),
        queries=QueryProfile(100, 1.0, far),
    )


def test_a_scan_below_the_threshold_and_a_graph_above():
    border = GRAPH_FROM // 64
    below, above = recommend(_made(border)), recommend(_made(border + 1))
    assert (below.kind, below.codec) == ("scan", "leanvec")
    assert (above.kind, above.codec) == ("graph", "leanvec4")
    assert below.scan_us == pytest.approx(377, rel=0.05)


def test_the_smallest_first_copy_that_finds_enough():
    def codec(**given: float) -> str:
        return recommend(_made(20_000, **given), recall=0.99).codec

    assert codec() == "leanvec"
    assert codec(leanvec=0.98) == "rabitq1"
    assert codec(leanvec=0.98, rabitq1=0.98) == "leanvec4"
    assert recommend(_made(20_000), recall=0.9999).codec == "int8"
    assert codec(leanvec=0.5, rabitq1=0.5, leanvec4=0.5) == "int8"
    assert recommend(_made(20_000, leanvec=0.5), recall=0.4).codec == "leanvec"


def test_a_graph_takes_a_codec_that_leads_its_walk():
    assert recommend(_made(200_000)).codec == "leanvec4"
    assert recommend(_made(200_000, leanvec4=0.9)).codec == "int8"
    deeper = _made(200_000)
    codecs = tuple(dataclasses.replace(c, expected=0.9) if c.codec == "leanvec4" else c for c in deeper.codecs)
    assert recommend(dataclasses.replace(deeper, codecs=codecs)).codec == "leanvec4"


def test_eight_bits_that_would_be_rounded_again_are_not_recommended():
    made = _made(20_000, leanvec=0.5, rabitq1=0.5, leanvec4=0.5)
    small = CodecProfile("lvq4x4", 656, 256, 1.0, 1.0)
    assert recommend(dataclasses.replace(made, codecs=(*made.codecs, small))).codec == "int8"


def test_few_vectors_stay_as_they_are():
    assert recommend(_made(1000)).codec == "float32"
    assert recommend(_made(1000)).kind == "scan"


def test_sorted_vectors_are_shuffled_before_a_graph_grows_from_them():
    assert recommend(_made(200_000, succession=0.5)).order == "random"
    assert recommend(_made(200_000, succession=1.0)).order == "given"
    assert recommend(_made(10_000, succession=0.5)).order == "given"


def test_every_choice_has_its_reason():
    reasons = " ".join(recommend(_made(200_000, succession=0.5, far=0.9)).reasons)
    for word in ("leanvec4: recall 0.999 on the sample", "graph:", "random", "queries"):
        assert word in reasons


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dim", [5, 100, 384])
def test_the_size_of_a_row_is_known_before_anything_is_stored(dim: int, metric: Metric):
    for codec, (all_bytes, scanned) in row_sizes(dim, metric).items():
        index = ScanIndex(dim, metric, codec)
        index.add(np.arange(640), random_vectors(np.random.default_rng(1), 640, dim))
        parts = index.stats().bytes
        assert all_bytes == pytest.approx(sum(parts.values()) / 640), codec
        assert scanned == pytest.approx((parts["codes"] + parts.get("factors", 0)) / 640), codec
