from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InputError
from rag.evaluate.significance import bootstrap, holm, randomisation_test


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_few_pairs_give_the_exact_share_of_swaps(pairs: list[tuple[int, int]]) -> None:
    difference = [a - b for a, b in pairs]
    reached = abs(sum(difference))
    swaps = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True))) for signs in product((1, -1), repeat=len(pairs))
    ]
    p = randomisation_test([a for a, _ in pairs], [b for _, b in pairs])
    assert p == pytest.approx(sum(swap >= reached for swap in swaps) / len(swaps))


def test_many_pairs_come_close_to_the_t_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, 0.1):
        ours, theirs = rng.normal(shift, 1, 800), rng.normal(0, 0.2, 800)
        p = randomisation_test(ours, theirs, samples=20_000)
        assert p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, abs=0.02)
        assert p == randomisation_test(ours, theirs, samples=20_000), "repeatable"
        assert p == randomisation_test(theirs, ours, samples=20_000), "two-sided"


def test_chance_alone_is_found_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    found = [randomisation_test(rng.normal(size=30), rng.normal(size=30), samples=400) for _ in range(400)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_equal_and_empty_runs_do_not_differ() -> None:
    assert randomisation_test([0.5] * 9, [0.5] * 9) == 1.0
    assert randomisation_test([], []) == 1.0
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\)"):
        randomisation_test([1, 2], [1, 2, 3])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for row in range(300):
        _, low, high = bootstrap(rng.exponential(1, 80), samples=500, seed=row)
        inside += low <= 1 <= high
    assert 0.9 < inside / 300 < 0.98
    found = bootstrap([1.0, 2.0, 3.0])
    assert (found.mean, found == bootstrap([1.0, 2.0, 3.0])) == (2.0, True)
    assert np.isnan(bootstrap([]).mean)
    with pytest.raises(InputError, match="level 2"):
        bootstrap([1.0], level=2)
