"""Telling by a list whether anything in it is relevant."""

from __future__ import annotations

import numpy as np
import pytest

from rag.relevance import Answerable, candidate_lists
from rag.relevance.measures import auroc
from tests.relevance.synthetic import noisy_lists


@pytest.fixture(scope="module")
def answerable() -> Answerable:
    return Answerable.fit(noisy_lists(1500, 1)[0], noisy_lists(500, 2)[0])


def test_lists_without_anything_relevant_are_told_better_than_by_their_best_score(answerable: Answerable):
    lists, _ = noisy_lists(800, 3)
    gone = lists.without_relevant()
    by_list = auroc(answerable(lists), answerable(gone))
    assert by_list > 0.9
    assert by_list > auroc(lists.scores[:, 0], gone.scores[:, 0]) + 0.2  # the noise differs from query to query


def test_the_threshold_lets_its_share_of_answerable_questions_through(answerable: Answerable):
    lists, _ = noisy_lists(2000, 4)
    for share in (0.8, 0.95):
        passed = answerable(lists) >= np.float32(answerable.curve.at_recall(share))
        assert passed.mean() == pytest.approx(share, abs=0.05)


def test_probabilities_hold_at_even_odds(answerable: Answerable):
    lists, _ = noisy_lists(2000, 5)
    values = np.concatenate([answerable(lists), answerable(lists.without_relevant())])
    chance, truth = 1 / (1 + np.exp(-values)), np.arange(4000) < 2000
    for low in (0, 0.25, 0.5, 0.75):
        some = (chance >= low) & (chance < low + 0.25)
        assert truth[some].mean() == pytest.approx(chance[some].mean(), abs=0.1)


def test_empty_and_short_lists(answerable: Answerable):
    lists = candidate_lists([[0.9, 0.5, 0.4], [0.9, 0, 0]], mask=[[True] * 3, [False] * 3])
    values = answerable(lists)
    assert np.isfinite(values[0])
    assert values[1] == -np.inf
    assert answerable(candidate_lists(np.zeros((2, 0)))).tolist() == [-np.inf, -np.inf]
    only, padded = candidate_lists([[0.9]]), candidate_lists([[0.9] + [0] * 9], mask=[[True] + [False] * 9])
    np.testing.assert_allclose(answerable(only), answerable(padded))
