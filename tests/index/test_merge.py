"""merge_matches against sorting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import InputError
from rag.index import Matches, merge_matches


def _matches(pairs: list[list[tuple[int, float]]], k: int) -> Matches:
    ids, scores = np.full((len(pairs), k), -1), np.full((len(pairs), k), -np.inf, np.float32)
    for row, found in enumerate(pairs):
        for column, (i, score) in enumerate(sorted(found, key=lambda p: (-p[1], p[0]))[:k]):
            ids[row, column], scores[row, column] = i, score
    return Matches(ids, scores)


@given(
    parts=st.lists(st.lists(st.integers(-3, 3).map(float), max_size=8), min_size=1, max_size=4),
    k=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_merging_is_sorting_all(parts: list[list[float]], k: int, seed: int) -> None:
    ids = iter(np.random.default_rng(seed).permutation(100).tolist())
    pairs = [[(next(ids), score) for score in part] for part in parts]
    merged = merge_matches([_matches([p], 8) for p in pairs], k)
    expected = _matches([[pair for p in pairs for pair in p]], k)
    np.testing.assert_array_equal(merged.ids, expected.ids)
    np.testing.assert_array_equal(merged.scores, expected.scores)
    assert merged.ids.dtype == np.int64
    assert merged.scores.dtype == np.float32


def test_nothing_to_merge_is_refused() -> None:
    with pytest.raises(InputError):
        merge_matches([], 3)
    with pytest.raises(InputError):
        merge_matches([_matches([[]], 2), _matches([[], []], 2)], 3)
