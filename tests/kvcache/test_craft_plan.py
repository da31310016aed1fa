"""Cache-Craft's measures on numbers worked out by hand; no model and no torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.kvcache import CacheCraft, Segment
from rag.kvcache.plan import (
    Profile,
    fix_overhead,
    highest,
    order_penalty,
    prefix_overlap,
    profile_of,
    seen_before,
)
from rag.kvcache.variants import Variants

INTER = {"a": 3.0, "b": 1.0, "c": 4.0}


def test_overlap_is_weighted_by_attention():
    assert prefix_overlap(INTER, ["c", "x", "a"]) == pytest.approx(7 / 8)
    assert prefix_overlap(INTER, ["b"]) == pytest.approx(1 / 8)
    assert prefix_overlap(INTER, ["x"]) == prefix_overlap({}, ["x"]) == prefix_overlap({}, []) == 0
    assert prefix_overlap({"a": 0.0}, ["a"]) == 0


def test_pairs_in_the_other_order_are_counted():
    assert order_penalty("abc", "abc") == 0
    assert order_penalty("abc", "cba") == 1
    assert order_penalty("abc", "xbyaz") == 1  # one common pair, turned round
    assert order_penalty("abcd", "bacd") == pytest.approx(1 / 6)
    assert order_penalty("abcd", "dabc") == pytest.approx(3 / 6)
    assert order_penalty("abc", "a") == order_penalty("", "abc") == 0
    assert order_penalty("abc", "acba") == pytest.approx(1 / 3)  # the first place of a chunk that stands there twice


def test_what_is_seen_before():
    assert seen_before(INTER, ["a", "b", "c"]) == 1
    assert seen_before({}, []) == 1
    assert seen_before({}, ["a"]) == 0
    assert seen_before(INTER, []) == 0
    assert seen_before(INTER, ["c", "b", "a"]) == 0
    assert seen_before(INTER, ["a", "c"]) == pytest.approx(7 / 8)
    assert seen_before(INTER, ["a", "c", "b"]) == pytest.approx(2 / 3)  # one of three pairs
    assert seen_before(INTER, ["a", "x", "y", "z"]) == pytest.approx(3 / 8 / 4)  # three of four are new


def test_the_overhead():
    assert fix_overhead(0.4, 0.75, 0.5) == pytest.approx(0.15)
    assert fix_overhead(0.4, 0.75, 1.0) == 0
    assert fix_overhead(2.0, 0.8, 0.0) == 1
    scores = np.array([0.1, 0.9, 0.3, 0.9, 0.2], np.float32)
    assert highest(scores, 0.6).tolist() == [1, 3, 2]
    assert highest(scores, 0.61).tolist() == [1, 3, 2, 4]
    assert highest(scores, 0.01).tolist() == [1]
    assert highest(scores, 0.0).tolist() == []


def test_a_profile():
    # Two tokens behind instructions (group 0, 4 tokens), a (1, 2 tokens), b (2, 3), and a again (3, 2); own group 4.
    attention = np.array([[0.5, 0.1, 0.1, 0.1, 0.2], [0.3, 0.2, 0.1, 0.0, 0.4]], np.float32)
    got, scores = profile_of(attention, {"a": [1, 3], "b": [2]}, 4, [4, 2, 3, 2, 2])
    assert got.inter == pytest.approx({"a": 0.4, "b": 0.2})
    assert scores.tolist() == pytest.approx([0.3, 0.3])
    outer = 0.3 / (2 * 2) + 0.2 / (2 * 3) + 0.1 / (2 * 2)
    assert got.impact == pytest.approx(1 / (1 + math.exp(-outer / (0.6 / 4))))
    first, scores = profile_of(attention[:, :2], {}, 1, [4, 2])
    assert (dict(first.inter), first.impact, scores.tolist()) == ({}, 0.5, [0.0, 0.0])


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 9)), st.lists(st.sampled_from("abcdefg"), max_size=6))
def test_measures_stay_in_bounds(inter: dict[str, float], new: list[str]):
    assert 0 <= seen_before(inter, new) <= 1
    assert 0 <= order_penalty(list(inter), new) <= 1
    assert 0 <= fix_overhead(1.3, 0.7, seen_before(inter, new)) <= 1


def profile(impact: float = 0.5, **inter: float) -> Profile:
    return Profile(inter, impact)


def test_the_variant_that_lost_least_is_taken():
    kept = Variants(5)
    chunk = ("chunk", "head")
    for context, made in [("1", profile(a=3, b=1)), ("2", profile(0.9, a=1)), ("3", profile(x=1)), ("4", profile())]:
        assert kept.add(chunk, context, made) is None
    got = kept.choices(chunk, ["a", "b"], 0.4)
    assert [choice.variant.context for choice in got] == ["1", "2"]
    assert [choice.overhead for choice in got] == pytest.approx([0, 0.4 * 0.9 * 0.5])
    assert "best of 4 variants" in str(got[0])
    assert [choice.variant.context for choice in kept.choices(chunk, [], 0.4)] == ["4"]
    assert kept.choices(chunk, ["c"], 0.4) == kept.choices(("chunk", "other"), ["a"], 0.4) == []
    kept.forget(chunk, "1")
    assert [choice.variant.context for choice in kept.choices(chunk, ["a", "b"], 0.4)] == ["2"]


def test_a_new_variant_replaces_the_one_that_is_worth_least():
    kept = Variants(2)
    chunk = ("chunk", "head")
    kept.add(chunk, "1", profile(a=1))
    kept.add(chunk, "2", profile(b=1))
    kept.used(kept.choices(chunk, ["b"], 0.4))
    assert kept.add(chunk, "3", profile(c=1)) == "1"
    kept.used(kept.choices(chunk, ["c"], 0.4))
    kept.used(kept.choices(chunk, ["c"], 0.4))
    assert kept.add(chunk, "3", profile(c=2)) is None  # the same context again
    for _ in range(100):
        kept.used([])  # older uses count for less and less, all alike
    kept.used(kept.choices(chunk, ["c"], 0.4))
    assert kept.add(chunk, "4", profile(d=1)) == "2"
    assert len(kept.of(chunk)) == 2


def test_chunks_are_put_behind_what_they_have_seen():
    kept = Variants(5)
    kept.add(("a", ""), "1", profile())
    kept.add(("b", ""), "2", profile(a=1))
    kept.add(("c", ""), "3", profile(a=1, b=1))
    chunks = [("c", ""), ("x", ""), ("b", ""), ("a", "")]
    assert [chunks[at][0] for at in kept.arranged(chunks)] == ["a", "b", "c", "x"]
    assert kept.arranged([("x", ""), ("y", "")]) == [0, 1]
    assert kept.arranged([]) == []


@pytest.mark.parametrize("settings", [{"share": -0.1}, {"variants": -1}, {"rehearsals": []}, {"rehearsals": [[]]}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]):
    with pytest.raises(ConfigError):
        CacheCraft(**settings)  # type: ignore[arg-type]
    CacheCraft(0.0, [[Segment("chunk", "a")]], 2)
