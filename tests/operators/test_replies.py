"""What is read out of a model's reply, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.operators.replies import first_line, items, one_of, yes_or_no


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("boats on lakes", "boats on lakes"),
        ('\n\n  Query: "boats on lakes"\nThat is my query.', "boats on lakes"),
        ("**Rewritten query:** boats", "boats"),
        ("<think>What could it be?</think>\nboats", "boats"),
        ("<think>never ends", ""),
        ("```\nboats\n```", "boats"),
        ("1. boats", "boats"),
        ('lang == "de" and kind == "a"', 'lang == "de" and kind == "a"'),
        ('"a" in tags and kind == "b"', '"a" in tags and kind == "b"'),
        ("I. Newton wrote what?", "I. Newton wrote what?"),
        ("What does 10:30 mean?", "What does 10:30 mean?"),
        ("", ""),
        ("...\n---\n", ""),
    ],
)
def test_the_first_line_is_what_was_asked_for(reply: str, line: str):
    assert first_line(reply) == line


def test_items_are_lines_or_a_json_list_without_marks_and_repetitions():
    assert items("Here are three:\n1. One boat\n2) Two boats\n- one boat\n\n• „Three boats“") == [
        "One boat",
        "Two boats",
        "Three boats",
    ]
    assert items('["a boat", "a ship", 3]') == ["a boat", "a ship"]
    assert items('["a boat"') == ['["a boat"']
    assert items("") == []


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**No**, it does not.", False),
        ("Answer: no", False),
        ("The answer is yes", True),
        ("Nobody knows", None),
        ("yesterday", None),
        ("yes or no", None),
        ("Yes/No", None),
        ("It depends: yes", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_strictly(reply: str, verdict: bool | None):
    assert yes_or_no(reply) is verdict


def test_a_name_must_be_unmistakable():
    names = ["simple", "multi-hop", "hop"]
    assert one_of("Multi-Hop.", names) == "multi-hop"
    assert one_of("I choose simple, since it is short", names) == "simple"
    assert one_of("simple or hop", names) is None
    assert one_of("a multi-hop question", names) == "multi-hop"
    assert one_of("none of them", names) is None
    assert one_of("", names) is None


@given(st.text(max_size=200))
def test_no_reply_is_an_error(reply: str):
    line = first_line(reply)
    assert line == line.strip()
    assert all(items(reply))
    assert yes_or_no(reply) in (True, False, None)
    assert one_of(reply, ["a", "b"]) in ("a", "b", None)
