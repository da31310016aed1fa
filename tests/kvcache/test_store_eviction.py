"""The three policies, against their definitions over all entries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.kvcache.eviction import Ranking, policy_of

STEPS = st.lists(st.tuples(st.sampled_from("aaattte"), st.integers(0, 6), st.integers(1, 5)), max_size=300)


@pytest.mark.parametrize("eviction", ["benefit", "lru", "lfu"])
@given(steps=STEPS)
def test_the_entry_with_the_least_priority_goes(eviction: str, steps: list[tuple[str, int, int]]):
    ranking: Ranking[int] = Ranking(eviction)  # type: ignore[arg-type]
    known: dict[int, dict[str, float]] = {}
    age, now = 0.0, 0

    def priority(one: dict[str, float]) -> float:
        if eviction == "lru":
            return one["used"]
        return one["uses"] if eviction == "lfu" else one["age"] + one["uses"] * one["tokens"] / one["nbytes"]

    for action, name, size in steps:
        if action == "a" and name not in known:
            now += 1
            ranking.add(name, 3, size)
            known[name] = {"uses": 1, "used": now, "age": age, "tokens": 3, "nbytes": size}
        elif action == "t" and name in known:
            now += 1
            ranking.touch(name)
            known[name] |= {"uses": known[name]["uses"] + 1, "used": now, "age": age}
        elif action == "e":
            expected = min(known, key=lambda n: (priority(known[n]), known[n]["used"]), default=None)
            assert ranking.evict() == expected
            if expected is not None:
                age = max(age, priority(known.pop(expected)))


def test_benefit_on_a_trace_by_hand():
    ranking: Ranking[str] = Ranking("benefit")
    ranking.add("short", 10, 100)  # 1 x 10 / 100 = 0.1
    ranking.add("narrow", 10, 20)  # 0.5
    ranking.add("popular", 10, 100)
    for _ in range(3):
        ranking.touch("popular")  # 4 x 10 / 100 = 0.4
    assert ranking.evict() == "short"  # the age is now 0.1
    ranking.add("new", 10, 25)  # 0.1 + 0.4 = 0.5, as narrow has, which was used before
    assert [ranking.evict(), ranking.evict(), ranking.evict()] == ["popular", "narrow", "new"]
    assert ranking.evict() is None


def test_what_was_popular_once_makes_room_for_what_is():
    """LFU keeps the favourites of yesterday for ever; benefit does not."""
    held = {}
    for eviction in ("benefit", "lfu"):
        ranking: Ranking[int] = Ranking(eviction)  # type: ignore[arg-type]
        inside: set[int] = set()
        draw = np.random.default_rng(0)
        for step in range(2000):
            name = int(draw.integers(10)) + (0 if step < 1000 else 100)
            if name in inside:
                ranking.touch(name)
                continue
            if len(inside) == 10:
                inside.remove(ranking.evict())  # type: ignore[arg-type]
            ranking.add(name, 1, 1)
            inside.add(name)
        held[eviction] = sum(name >= 100 for name in inside)
    assert held["benefit"] == 10
    assert held["lfu"] < 5


def test_an_unknown_policy_is_named():
    with pytest.raises(ConfigError, match="'lruu'"):
        policy_of("lruu")  # type: ignore[arg-type]
