from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from rag.errors import InputError, MissingExtraError
from rag.evaluate.measures import check, exact_match, f1, judge_rankings


def test_rankings_have_the_values_of_the_definitions() -> None:
    qrels = {"q1": {"a": 3, "b": 1, "c": 0, "d": 2}, "q2": {"a": 1}, "q3": {"a": 1}}
    rankings = {"q1": ["b", "x", "a", "c"], "q2": ["x", "y", "a"], "q3": []}
    names = ["nDCG@10", "Recall@100", "RR", "AP", "P@2", "R@100"]
    values = judge_rankings(names, qrels, rankings)
    gained = 1 / math.log2(2) + 3 / math.log2(4)  # linear gains
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert values["nDCG@10"] == pytest.approx({"q1": gained / ideal, "q2": 0.5, "q3": 0.0})
    assert values["Recall@100"] == values["R@100"] == pytest.approx({"q1": 2 / 3, "q2": 1.0, "q3": 0.0})
    assert values["RR"] == pytest.approx({"q1": 1.0, "q2": 1 / 3, "q3": 0.0})
    assert values["AP"] == pytest.approx({"q1": (1 + 2 / 3) / 3, "q2": 1 / 3, "q3": 0.0})
    assert values["P@2"] == pytest.approx({"q1": 0.5, "q2": 0.0, "q3": 0.0})


def test_the_order_given_decides_not_the_names() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = [f"d{i}" for i in rng.permutation(30)]
        relevant = ids[int(rng.integers(30))]
        values = judge_rankings(["RR"], {"q": {relevant: 1}}, {"q": ids})
        assert values["RR"]["q"] == pytest.approx(1 / (ids.index(relevant) + 1))


def test_unknown_measures_are_refused() -> None:
    check(["nDCG@10", "EM", "F1", "AP(rel=2)"])
    with pytest.raises(InputError, match=r"'ndgc@10'.*nDCG@10"):
        check(["ndgc@10"])


def test_without_the_extra_only_answers_can_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    check(["EM", "F1"])
    with pytest.raises(MissingExtraError, match=r"modular-rag\[eval\]"):
        check(["nDCG@10"])


@pytest.mark.parametrize(
    ("answer", "accepted", "em", "overlap"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0, 1.0),
        ("Eiffel", ["the Eiffel Tower"], 0.0, 2 / 3),
        ("in Paris, France", ["Paris", "Paris France"], 0.0, 0.8),
        ("a an the", [""], 1.0, 1.0),
        ("", ["Paris"], 0.0, 0.0),
        ("anthem", ["them"], 0.0, 0.0),
        ("no no yes", ["no yes yes"], 0.0, 2 / 3),
        ("U.S.", ["US"], 1.0, 1.0),
        ("42", [], 0.0, 0.0),
    ],
)
def test_answers_are_compared_as_in_squad(answer: str, accepted: list[str], em: float, overlap: float) -> None:
    assert exact_match(answer, accepted) == em
    assert f1(answer, accepted) == pytest.approx(overlap)
