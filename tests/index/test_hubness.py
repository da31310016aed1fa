"""Hubs: the report against its definition, corrections against their formulas, and what they gain on pairs."""

import numpy as np
import pytest

from rag.errors import InputError
from rag.index.hubness import HUBNESS_KINDS, HubnessBanks, hub_report


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_report_counts_places() -> None:
    ids = np.array([7, 3, 5, 9])
    found = np.array([[3, 5], [3, 9], [3, -1]])
    report = hub_report(found, ids)
    counts = np.array([3, 1, 0, 1])  # of 3, 5, 7, 9
    deviations = counts - counts.mean()
    assert report.skewness == pytest.approx((deviations**3).mean() / (deviations**2).mean() ** 1.5)
    assert (report.hub_share, report.never) == (3 / 5, 1 / 4)
    assert (report.hubs.tolist(), report.places.tolist()) == ([3, 5, 9, 7], [3, 1, 1, 0])
    assert hub_report(np.array([[1], [2]]), np.array([1, 2])).skewness == 0
    for places, vectors in ((found, np.empty(0, np.int64)), (np.full((2, 2), -1), ids), (np.empty((0, 3), int), ids)):
        with pytest.raises(InputError, match="nothing to report"):
            hub_report(places, vectors)


def test_corrections_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    queries, items, vectors = (unit(rng.normal(size=(n, 12))) for n in (40, 30, 25))
    vectors[:5] = items[:5]  # not held against themselves
    near = vectors.astype(float) @ queries.T
    own = vectors.astype(float) @ items.T
    own[np.arange(5), np.arange(5)] = -np.inf

    def log_mean(cosines: np.ndarray, beta: float) -> np.ndarray:
        return np.log(np.exp(beta * cosines).sum(1) / np.isfinite(cosines).sum(1))

    expected = {
        "csls": np.sort(near, axis=1)[:, -10:].mean(1) / 2,
        "inverted_softmax": log_mean(near, 15) / 15,
        "gallery_softmax": log_mean(own, 4) / 4,
        "dual_softmax": (log_mean(near, 15) + log_mean(own, 4)) / 19,
    }
    assert expected.keys() == set(HUBNESS_KINDS)
    for kind in HUBNESS_KINDS:
        banks = HubnessBanks(3 * queries, items, kind, neighbours=10, beta_queries=15, beta_items=4)
        np.testing.assert_allclose(banks.bias(2 * vectors), expected[kind], atol=2e-5)


@pytest.mark.parametrize("kind", HUBNESS_KINDS)
def test_the_bias_can_be_a_coordinate_of_the_vectors(kind) -> None:
    rng = np.random.default_rng(1)
    queries, vectors, asked = (unit(rng.normal(size=(n, 16))) for n in (50, 200, 20))
    bias = HubnessBanks(queries, vectors[:60], kind).bias(vectors)
    scores = asked @ vectors.T - bias
    longer = np.hstack([asked, np.ones((20, 1), np.float32)]) @ np.hstack([vectors, -bias[:, None]]).T
    np.testing.assert_allclose(longer, scores, atol=1e-5)


def pairs(rng: np.random.Generator, count: int, bank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries with their own items, and other queries of the same kind: apart from the items, which have hubs.

    A query lies beside its item and is shifted like all queries; items lean towards that shift, some much more.
    """
    dim = 256
    shift = unit(rng.normal(size=(1, dim)))
    base = unit(rng.normal(size=(count + bank, dim)))
    lean = np.abs(rng.normal(0, 0.25, size=(count, 1)))
    items = unit(base[:count] + lean * shift)
    noise = unit(rng.normal(size=(count + bank, dim)))
    queries = unit(0.5 * base + 0.8 * shift + 0.9 * noise)
    return queries[:count], items, queries[count:]


def test_hubs_are_put_right_by_known_queries() -> None:
    asked, items, bank = pairs(np.random.default_rng(3), 1500, 1500)
    cosines = asked @ items.T

    def first(scores: np.ndarray) -> float:
        return float((scores.argmax(1) == np.arange(len(asked))).mean())

    def skewness(scores: np.ndarray) -> float:
        return hub_report(np.argsort(-scores, axis=1)[:, :10], np.arange(len(items))).skewness

    raw, hubs = first(cosines), skewness(cosines)
    assert hubs > 3
    assert raw < 0.8
    for kind, beta, less in (("csls", 1.0, 1.0), ("inverted_softmax", 50.0, 0.2), ("dual_softmax", 50.0, 0.5)):
        scores = cosines - HubnessBanks(bank, items, kind, beta_queries=beta, beta_items=beta).bias(items)
        assert first(scores) > 0.95, kind
        assert skewness(scores) < less * hubs, kind


def test_what_cannot_be_corrected_is_refused() -> None:
    some, none = np.eye(4, dtype=np.float32), np.empty((0, 4), np.float32)
    for queries, items, kind in ((none, some, "csls"), (none, some, "dual_softmax"), (some, none, "gallery_softmax")):
        with pytest.raises(InputError, match="bank of .* is empty"):
            HubnessBanks(queries, items, kind)
    with pytest.raises(InputError, match=r"'cls'.*"):
        HubnessBanks(some, some, "cls")
    for bad in (np.zeros((2, 4), np.float32), np.full((2, 4), np.nan, np.float32)):
        with pytest.raises(InputError, match="NaN, infinity, or a vector of zeros"):
            HubnessBanks(bad, some)
    with pytest.raises(InputError, match="above 0"):
        HubnessBanks(some, some, neighbours=0)
    with pytest.raises(InputError):
        HubnessBanks(some, some).bias(np.ones((2, 5), np.float32))
    # One vector that is the whole bank is held against nothing.
    alone = HubnessBanks(some[:1], some[:1], "dual_softmax").bias(some[:1])
    assert np.isfinite(alone).all()
