"""Orders of insertion, against their plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from rag.errors import InputError
from rag.index import Metric, order
from rag.index.neighbours import local_dimension
from rag.index.order import ORDERS, Order, insertion_order
from tests.index.conformance import Floats, random_vectors


def _plain_dimension(vectors: Floats, row: int, k: int) -> float:
    """1 / mean over i < k of ln(r_k / r_i), over the neighbours that are no copies."""
    distances = sorted(np.linalg.norm(np.delete(vectors, row, axis=0).astype(float) - vectors[row], axis=1))[:k]
    logs = [np.log(distances[-1] / r) for r in distances[:-1] if r > 0]
    return 1 / np.mean(logs) if logs and sum(logs) else 0.0


@pytest.mark.parametrize("how", ORDERS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 400])
def test_every_order_is_a_permutation_that_its_seed_decides(how: Order, metric: Metric, n: int):
    vectors = random_vectors(np.random.default_rng(n), n, 6)
    found = insertion_order(vectors, how, 7, metric=metric)
    assert found.dtype == np.int64
    assert sorted(found) == list(range(n))
    assert np.array_equal(found, insertion_order(vectors, how, 7, metric=metric, threads=2))


def test_given_keeps_rows_and_random_shuffles_them():
    vectors = np.zeros((1000, 2), np.float32)
    assert np.array_equal(insertion_order(vectors, "given"), np.arange(1000))
    one, other = insertion_order(vectors, "random", 1), insertion_order(vectors, "random", 2)
    assert not np.array_equal(one, other)
    assert abs(spearmanr(np.arange(1000), one).statistic) < 0.15


def test_lid_is_descending_by_its_definition_and_copies_are_last():
    rng = np.random.default_rng(0)
    vectors = random_vectors(rng, 300, 5)
    vectors[:150, 3:] = 0
    vectors = np.concatenate([vectors, np.ones((101, 5), np.float32)])  # with 100 copies each: no dimension at all
    plain = [_plain_dimension(vectors, row, 100) for row in range(len(vectors))]
    found = insertion_order(vectors, "lid", metric="l2")
    assert np.allclose(np.asarray(plain)[found], sorted(plain, reverse=True), rtol=1e-4)
    assert set(found[-101:]) == set(range(300, 401))


def test_lid_under_cosine_is_that_of_directions():
    rng = np.random.default_rng(0)
    directions = random_vectors(rng, 300, 5)
    lengths = rng.uniform(0.1, 10, (300, 1)).astype(np.float32)
    unit = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    plain = np.asarray([_plain_dimension(unit, row, 100) for row in range(300)])
    assert np.allclose(plain[insertion_order(directions * lengths, "lid")], np.sort(plain)[::-1], rtol=1e-3)


def test_lid_by_a_sample_ranks_much_as_that_by_all(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    vectors = np.concatenate([random_vectors(rng, 500, 24) * (np.arange(24) < d) for d in (2, 4, 8, 24)])
    vectors = vectors.astype(np.float32)
    exact = np.argsort(insertion_order(vectors, "lid", metric="l2"))
    monkeypatch.setattr(order, "SAMPLE", 800)
    sampled = np.argsort(insertion_order(vectors, "lid", metric="l2"))
    assert spearmanr(exact, sampled).statistic > 0.8


def test_clusters_come_one_after_another():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 1000)
    centres = random_vectors(rng, 5, 16) * 50
    vectors = (centres[label] + random_vectors(rng, 1000, 16)).astype(np.float32)
    found = insertion_order(vectors, "cluster", metric="l2")
    # At most sqrt(1000) clusters, so no more changes of topic; in the order given there are some 800.
    assert (np.diff(label[found]) != 0).sum() < 31
    spread = {topic: [int(i) for i in found if label[i] == topic] for topic in range(5)}
    assert all(len(rows) == (label == topic).sum() for topic, rows in spread.items())


def test_clusters_of_copies_alone():
    found = insertion_order(np.ones((200, 4), np.float32), "cluster")
    assert sorted(found) == list(range(200))


def test_vectors_can_be_a_mapped_file(tmp_path):
    vectors = random_vectors(np.random.default_rng(0), 300, 8)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for how in ORDERS:
        assert np.array_equal(insertion_order(mapped, how), insertion_order(vectors, how))


def test_progress_reaches_its_end():
    told: list[tuple[str, int, int]] = []
    vectors = random_vectors(np.random.default_rng(0), 300, 8)
    for how in ORDERS:
        insertion_order(vectors, how, progress=lambda *state: told.append(state))
    assert ("local dimensions", 300, 300) in told
    assert ("clusters", 300, 300) in told


@pytest.mark.parametrize(
    ("vectors", "how", "seed", "message"),
    [
        (np.ones((5, 2)), "lidd", 0, "'lid'"),
        (np.ones((5, 2)), "random", -1, "seed is -1"),
        (np.ones(5), "given", 0, "shape"),
        (np.asarray([[1.0, 2], [np.nan, 1], [3, 4]]), "lid", 0, "nan|NaN|finite"),
        (np.asarray([[1.0, 2], [np.inf, 1], [3, 4]]), "cluster", 0, "inf|finite|nan"),
    ],
)
def test_what_is_refused(vectors: Floats, how: Order, seed: int, message: str):
    with pytest.raises(InputError, match=message):
        insertion_order(vectors, how, seed, metric="l2")


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([[1.0, 2, 4]], 2 / np.log(8)),
        ([[0.0, 2, 4]], 1 / np.log(2)),  # a copy counts for nothing
        ([[3.0, 3, 3]], 0),
        ([[0.0, 0, 0]], 0),
        ([[0.0, 0, 5]], 0),
        ([[5.0]], 0),
    ],
)
def test_local_dimension_by_hand(distances: list[list[float]], expected: float):
    found: NDArray[np.float64] = local_dimension(np.asarray(distances))
    assert found == pytest.approx([expected])
