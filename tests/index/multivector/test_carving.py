"""Ball carving of query tokens."""

from __future__ import annotations

import numpy as np
import pytest

from rag.errors import InputError
from rag.index.multivector import TokenStore, carve
from tests.index.multivector.ragged import ragged


def test_groups_are_taken_greedily_and_summed() -> None:
    angles = np.deg2rad([0, 10, 90, 40, 100, 180, 5])  # a query of six tokens, and one of a single token
    tokens = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    sums, offsets = carve(tokens, np.array([0, 6, 7]), tau=0.7)  # up to 45 degrees
    groups = [[0, 1, 3], [2, 4], [5], [6]]
    np.testing.assert_allclose(sums, [tokens[group].sum(0) for group in groups], atol=1e-6)
    assert offsets.tolist() == [0, 3, 4]


def test_above_one_nothing_changes_and_below_scores_are_no_higher() -> None:
    rng = np.random.default_rng(0)
    store, queries = TokenStore(32, "float32"), ragged(rng, [12, 1, 32], 32)
    store.add(np.arange(40), *ragged(rng, [9] * 40, 32))
    plain = store.maxsim(*queries, k=40)
    same = store.maxsim(*carve(*queries, tau=1.01), k=40)
    assert (same.ids == plain.ids).all()
    assert (same.scores == plain.scores).all()
    last = plain
    for tau in (0.4, 0.2, 0.05):
        sums, offsets = carve(*queries, tau=tau)
        assert offsets[-1] < len(queries.tokens)
        found = store.maxsim(sums, offsets, k=40)
        by_id = np.take_along_axis(found.scores, np.argsort(found.ids, axis=1), 1)
        before = np.take_along_axis(plain.scores, np.argsort(plain.ids, axis=1), 1)
        assert (by_id <= before + 1e-4).all()
        last = found
    assert last.scores[0].sum() < plain.scores[0].sum()


def test_offsets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit tokens of shape"):
        carve(np.eye(3, dtype=np.float32), np.array([0, 2]))
