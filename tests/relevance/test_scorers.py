"""Methods without training, the truncation model, and the lists that they read."""

from __future__ import annotations

import numpy as np
import pytest

from rag.errors import InputError
from rag.relevance import METHODS, SIMPLE, CandidateLists, Truncation, candidate_lists
from rag.relevance.measures import pr_auc
from rag.relevance.scorers import largest_gap_cut
from rag.relevance.summaries import SUMMARY, summary
from tests.relevance.synthetic import noisy_lists

NONE = -np.inf


@pytest.fixture
def ragged() -> CandidateLists:
    """Lists of three, one and no candidates."""
    scores = [[0.2, 0.8, 0.6], [0.9, 0.5, 0.1], [0.3, 0.3, 0.3]]
    mask = [[True, True, True], [False, True, False], [False] * 3]
    return candidate_lists(scores, mask=mask, labels=[[0, 2, 0], [1, 1, 1], [1, 1, 1]])


def test_lists_are_put_in_order_with_their_labels(ragged: CandidateLists):
    np.testing.assert_allclose(ragged.scores, [[0.8, 0.6, 0.2], [0.5, 0, 0], [0, 0, 0]])
    assert ragged.counts.tolist() == [3, 1, 0]
    assert ragged.labels.tolist() == [[True, False, False], [True, False, False], [False] * 3]
    gone = ragged.without_relevant()
    assert gone.counts.tolist() == [2, 0, 0]
    np.testing.assert_allclose(gone.scores[0], [0.6, 0.2, 0])


def test_the_values_of_the_methods(ragged: CandidateLists):
    expected = {
        "raw": [[0.8, 0.6, 0.2], [0.5, NONE, NONE], [NONE] * 3],
        "max": [[1, 0.75, 0.25], [1, NONE, NONE], [NONE] * 3],
        "topk": [[1, 1 / 2, 1 / 3], [1, NONE, NONE], [NONE] * 3],
        "gap": [[0.4, 0.4, 0], [0, NONE, NONE], [NONE] * 3],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(SIMPLE[name](ragged).values, values, atol=1e-6)
    z = SIMPLE["zscore"](ragged).values
    own = np.array([0.8, 0.6, 0.2])
    np.testing.assert_allclose(z[0], (own - own.mean()) / own.std(), rtol=1e-5)
    assert z[1, 0] == 0  # one candidate says nothing about the others


def test_the_largest_gap_is_where_the_brute_force_finds_it():
    lists = noisy_lists(200, 4)[0]
    values = SIMPLE["gap"](lists).values
    kept = (values >= largest_gap_cut(values)).sum(axis=1)
    assert kept.tolist() == (np.argmax(-np.diff(lists.scores, axis=1), axis=1) + 1).tolist()
    for threshold in (0.005, 0.02):
        steps = -np.diff(lists.scores, axis=1) >= threshold
        last = np.where(steps.any(axis=1), steps.shape[1] - np.argmax(steps[:, ::-1], axis=1), 0)
        assert (values >= threshold).sum(axis=1).tolist() == last.tolist()


def test_max_leaves_scores_alone_where_the_best_is_no_measure():
    values = SIMPLE["max"](candidate_lists([[-0.1, -0.2], [0, -0.5], [0.5, -0.5]])).values
    np.testing.assert_allclose(values, [[-0.1, -0.2], [0, -0.5], [1, -1]])


@pytest.mark.parametrize("k", [0, 1, 2, 9])
def test_short_lists_and_equal_scores_have_finite_summaries_and_values(k: int):
    lists = candidate_lists(np.full((3, k), 0.5), mask=np.ones((3, k), bool))
    assert summary(lists).shape == (3, SUMMARY)
    assert np.isfinite(summary(lists)).all()
    for method in SIMPLE.values():
        assert method(lists).values.shape == (3, k)
        assert np.isfinite(method(lists).values).all()


def test_a_summary_does_not_depend_on_how_far_lists_are_filled_up():
    lists = noisy_lists(20, 5)[0]
    wider = candidate_lists(
        np.pad(lists.scores, ((0, 0), (0, 50)), constant_values=0.99), mask=np.arange(150) < np.full((20, 1), 100)
    )
    np.testing.assert_allclose(summary(wider), summary(lists), rtol=1e-5, atol=1e-6)
    fitted = Truncation.fit(noisy_lists(100, 6)[0])
    np.testing.assert_allclose(fitted(wider).values[:, :100], fitted(lists).values, rtol=1e-4, atol=1e-4)


def test_truncation_finds_where_lists_turn_to_noise():
    fitted, lists = Truncation.fit(noisy_lists(500, 1)[0]), noisy_lists(500, 2)[0]
    values = fitted(lists).values
    assert (np.diff(values, axis=1) <= 0).all()
    assert pr_auc(values, lists.labels) > 0.8 > 2 * pr_auc(lists.scores, lists.labels)


def test_a_score_with_a_noise_level_is_not_comparable_and_zscore_is():
    lists, level = noisy_lists(1000, 2)
    oracle = pr_auc(lists.scores - level[:, None].astype(np.float32), lists.labels)
    assert pr_auc(SIMPLE["raw"](lists).values, lists.labels) < 0.4
    assert pr_auc(SIMPLE["max"](lists).values, lists.labels) < oracle - 0.1
    assert abs(pr_auc(SIMPLE["zscore"](lists).values, lists.labels) - oracle) < 0.01


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scores": [0.1, 0.2]}, r"scores have shape \(2,\)"),
        ({"scores": [[0.1, np.nan]]}, "query 0 has the score nan at place 1"),
        ({"scores": [[0.1, np.inf]]}, "query 0 has the score inf at place 1"),
        ({"scores": [[0.1]], "labels": [[1, 0]]}, "labels has shape"),
        ({"scores": [[0.1]], "mask": [[True, True]]}, "mask has shape"),
        ({"scores": [[0.1]], "queries": [[1.0], [2.0]]}, "query embeddings have shape"),
        ({"scores": [[0.1], [0.2]], "queries": [[1.0], [np.nan]]}, "the embedding of query 1"),
    ],
)
def test_wrong_input(given: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        candidate_lists(**given)  # type: ignore[arg-type]


def test_what_was_not_scored_may_be_masked():
    lists = candidate_lists([[np.nan, 0.4, -0.2]], mask=[[False, True, True]])
    np.testing.assert_allclose(lists.scores, [[0.4, -0.2, 0]])
    assert lists.counts.tolist() == [2]


def test_methods_are_known_by_name():
    assert set(SIMPLE) < set(METHODS)
