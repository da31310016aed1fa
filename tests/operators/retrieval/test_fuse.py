"""Fusion against its definition, written out with dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError, InputError
from rag.operators.retrieval import Fuse
from rag.types import Hits


@st.composite
def rankings(draw: st.DrawFn) -> list[Hits]:
    """One to five rankings over few chunks, so that they overlap."""
    branches = []
    for _ in range(draw(st.integers(1, 5))):
        ids = draw(st.lists(st.integers(0, 30), unique=True, max_size=20))
        scores = sorted(draw(st.lists(st.integers(-100, 100), min_size=len(ids), max_size=len(ids))), reverse=True)
        branches.append(Hits(ids, np.array(scores, dtype=np.float32) / 8))
    return branches


def best_first(scores: dict[int, float]) -> list[tuple[int, float]]:
    rounded = {chunk: np.float32(score) for chunk, score in scores.items()}
    return sorted(rounded.items(), key=lambda item: (-item[1], item[0]))


@given(rankings(), st.floats(1, 100))
def test_rrf_is_the_sum_of_reciprocal_ranks(branches: list[Hits], c: float):
    expected: dict[int, float] = {}
    for hits in branches:
        for rank, chunk in enumerate(hits.ids.tolist(), 1):
            expected[chunk] = expected.get(chunk, 0.0) + 1 / (c + rank)
    fused = Fuse(c=c).run(branches)
    np.testing.assert_allclose(fused.scores, [s for _, s in best_first(expected)], rtol=1e-6)
    assert sorted(fused.ids.tolist()) == sorted(expected)
    assert all(a >= b for a, b in zip(fused.scores, fused.scores[1:], strict=False))


@given(rankings(), st.data())
def test_weighted_is_the_weighted_sum_of_scores_between_0_and_1(branches: list[Hits], data: st.DataObject):
    weights = tuple(data.draw(st.floats(0, 10)) for _ in branches)
    expected: dict[int, float] = {}
    for weight, hits in zip(weights, branches, strict=True):
        scores = hits.scores.astype(np.float64).tolist()
        for chunk, score in zip(hits.ids.tolist(), scores, strict=True):
            low, high = min(scores), max(scores)
            expected[chunk] = expected.get(chunk, 0.0) + weight * ((score - low) / (high - low) if high > low else 1.0)
    fused = Fuse(method="weighted", weights=weights).run(branches)
    for chunk, score in zip(fused.ids.tolist(), fused.scores.tolist(), strict=True):
        assert score == pytest.approx(expected[chunk], rel=1e-5, abs=1e-6)
    assert sorted(fused.ids.tolist()) == sorted(expected)


@given(rankings())
def test_the_branch_column_names_the_branch_that_ranked_a_chunk_best(branches: list[Hits]):
    fused = Fuse().run(branches)
    for chunk, branch in zip(fused.ids.tolist(), fused.columns["branch"].tolist(), strict=True):
        ranks = [h.ids.tolist().index(chunk) if chunk in h.ids else 99 for h in branches]
        assert ranks[branch] == min(ranks)


@st.composite
def calibrated(draw: st.DrawFn) -> list[Hits]:
    """Rankings with probabilities that fall."""
    branches = []
    for hits in draw(rankings()):
        chances = sorted(draw(st.lists(st.floats(0, 1), min_size=len(hits), max_size=len(hits))), reverse=True)
        branches.append(hits.with_columns(relevance=np.array(chances, np.float32)))
    return branches


@given(calibrated(), st.data())
def test_probability_is_the_mean_of_log_odds(branches: list[Hits], data: st.DataObject):
    weights = tuple(data.draw(st.floats(0.1, 5)) for _ in branches)
    said = []
    for hits, weight in zip(branches, weights, strict=True):
        chances = np.clip(hits.columns["relevance"].astype(np.float64), 1e-6, 1 - 1e-6)
        odds = dict(zip(hits.ids.tolist(), np.log(chances / (1 - chances)).tolist(), strict=True))
        if odds:
            said.append((odds, weight))
    expected = {
        chunk: sum(w * odds.get(chunk, min(odds.values())) for odds, w in said) / sum(w for _, w in said)
        for odds, _ in said
        for chunk in odds
    }
    fused = Fuse(method="probability", weights=weights).run(branches)
    assert sorted(fused.ids.tolist()) == sorted(expected)
    for chunk, score in zip(fused.ids.tolist(), fused.scores.tolist(), strict=True):
        assert score == pytest.approx(expected[chunk], rel=1e-5, abs=1e-5)
    assert all(a >= b for a, b in zip(fused.scores, fused.scores[1:], strict=False))


def test_probability_needs_calibrated_hits():
    with pytest.raises(InputError, match=r"branch 1 have no column 'relevance'.*Calibrate"):
        Fuse(method="probability").run([Hits([1], [0.5], {"relevance": [0.5]}), Hits([2], [0.5])])
    assert len(Fuse(method="probability").run([Hits(), Hits()])) == 0


def test_equal_scores_are_ordered_by_chunk_id():
    assert Fuse().run([Hits([5], [1.0]), Hits([3], [9.0])]).ids.tolist() == [3, 5]


def test_one_ranking_keeps_its_order():
    assert Fuse().run([Hits([9, 2, 4], [3, 2, 1])]).ids.tolist() == [9, 2, 4]


def test_k_keeps_the_best_and_empty_branches_are_fine():
    assert Fuse(k=1).run([Hits([9, 2], [3, 2]), Hits()]).ids.tolist() == [9]
    assert len(Fuse().run([Hits(), Hits()])) == 0
    assert len(Fuse().run([])) == 0


def test_weights_have_to_match_the_branches():
    with pytest.raises(InputError, match="2 weights for 1 branches"):
        Fuse(weights=(1, 2)).run([Hits([1], [1])])
    with pytest.raises(ConfigError, match="weights"):
        Fuse(weights=(-1,))
    with pytest.raises(ConfigError, match="'method' is 'max'"):
        Fuse(method="max")  # type: ignore[arg-type]
