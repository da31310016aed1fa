"""Measures and thresholds against brute force and published definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.relevance.logistic import fit_logistic, sigmoid
from rag.relevance.measures import auroc, calibration_error, cut, pr_auc
from rag.relevance.thresholds import OperatingCurve

tables = st.integers(0, 10_000).map(lambda seed: _table(np.random.default_rng(seed)))


def _table(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Falling values with ties and places without a candidate, and labels with at least one that is relevant."""
    n, k = int(rng.integers(1, 8)), int(rng.integers(1, 12))
    values = -np.sort(-rng.integers(0, 6, (n, k)).astype(np.float32), axis=1)
    there = np.arange(k) < rng.integers(1, k + 1, (n, 1))
    labels = (rng.random((n, k)) < 0.4) & there
    labels[0, 0] = True
    return np.where(there, values, np.float32(-np.inf)), labels


@given(tables)
@settings(max_examples=80, deadline=None)
def test_pooled_average_precision(table: tuple[np.ndarray, np.ndarray]):
    values, labels = table
    there = np.isfinite(values)
    expected = np.mean([labels[there & (values >= v)].mean() for v in values[labels]])
    assert pr_auc(values, labels) == pytest.approx(expected)


@given(tables, st.floats(0.05, 1))
@settings(max_examples=80, deadline=None)
def test_a_threshold_by_recall_is_the_largest_that_reaches_it(table: tuple[np.ndarray, np.ndarray], target: float):
    values, labels = table
    threshold = OperatingCurve.of(values, labels).at_recall(target)
    assert labels[values >= threshold].sum() >= target * labels.sum() - 1e-6
    higher = np.unique(values[values > threshold])
    assert all(labels[values >= t].sum() < target * labels.sum() for t in higher)


@given(tables, st.floats(0.05, 1))
@settings(max_examples=80, deadline=None)
def test_a_threshold_by_precision_keeps_the_most_that_it_can(table: tuple[np.ndarray, np.ndarray], target: float):
    values, labels = table
    reached = {t: (labels[values >= t].mean(), labels[values >= t].sum()) for t in np.unique(values[labels])}
    most = max((found for precision, found in reached.values() if precision >= target), default=None)
    curve = OperatingCurve.of(values, labels)
    if most is None:
        with pytest.raises(ConfigError, match="no threshold has a precision of"):
            curve.at_precision(target)
    else:
        assert reached[np.float32(curve.at_precision(target))][1] == most


@given(tables, st.integers(-1, 6))
@settings(max_examples=80, deadline=None)
def test_a_cut_counted_pair_by_pair(table: tuple[np.ndarray, np.ndarray], threshold: int):
    values, labels = table
    found = cut(values, labels, threshold)
    kept, there = values >= threshold, np.isfinite(values)
    assert found.recall == pytest.approx((kept & labels).sum() / labels.sum())
    assert found.filtered == pytest.approx(1 - kept.sum() / there.sum())
    assert found.null == pytest.approx(np.mean([not row.any() for row in kept]))
    ranks, lost, all_lost = [], 0, 0
    for row in range(len(values)):
        if not labels[row].any():
            continue
        left = [place + 1 for place in range(values.shape[1]) if labels[row, place] and kept[row, place]]
        ranks.append(1 / left[0] if left else 0)
        lost += len(left) < labels[row].sum()
        all_lost += not left
    assert (found.mrr, found.damaged, found.emptied) == pytest.approx(
        (np.mean(ranks), lost / len(ranks), all_lost / len(ranks))
    )


def test_a_threshold_holds_on_queries_that_it_was_not_set_on():
    from tests.relevance.synthetic import noisy_lists

    (held, level), (fresh, other) = noisy_lists(1000, 7), noisy_lists(1000, 8)
    threshold = OperatingCurve.of(held.scores - level[:, None].astype(np.float32), held.labels).at_recall(0.95)
    found = cut(fresh.scores - other[:, None].astype(np.float32), fresh.labels, threshold)
    assert found.recall == pytest.approx(0.95, abs=0.015)
    assert found.filtered > 0.85


def test_a_long_curve_is_thinned_and_still_right():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((100, 100)).astype(np.float32)
    labels = rng.random((100, 100)) < sigmoid(values)
    curve = OperatingCurve.of(values, labels)
    assert len(curve.thresholds) <= 1024
    assert curve.recall[-1] == 1
    for target in (0.5, 0.9, 0.99):
        recall = labels[values >= curve.at_recall(target)].sum() / labels.sum()
        assert target <= recall < target + 0.002


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 30).astype(float)
    pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
    assert auroc(a, b) == pytest.approx(pairs)
    assert np.isnan(auroc(a, b[:0]))


def test_calibration_error_of_chances_that_hold_and_of_some_that_do_not():
    rng = np.random.default_rng(0)
    chances = rng.random(20_000).astype(np.float32)
    labels = rng.random(20_000) < chances
    assert calibration_error(chances, labels) < 0.02
    assert calibration_error(np.full(20_000, 0.9, np.float32), labels) == pytest.approx(0.9 - labels.mean(), abs=1e-5)
    assert calibration_error(chances**3, labels) > 0.2


def test_logistic_regression_finds_the_weights_that_made_the_labels():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20_000, 3))
    true = np.array([2.0, -1.0, 0.5, -0.7])
    labels = rng.random(20_000) < sigmoid(features @ true[:3] + true[3])
    np.testing.assert_allclose(fit_logistic(features, labels), true, atol=0.1)
    separable = fit_logistic(features, features[:, 0] > 0, 1e-4)  # has no finite optimum without the penalty
    assert np.isfinite(separable).all()
    assert separable[0] > 10
