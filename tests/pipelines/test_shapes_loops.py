"""Shapes of pipelines: loops, one and several, with values that enter and leave them, and agents."""

from __future__ import annotations

import pytest

from rag.pipelines import Loop, Pipeline, Recurse, Route
from rag.types import Answer, Message
from tests.pipelines.conftest import Add, Total
from tests.pipelines.shapes import (
    QUESTION,
    VALUE,
    N,
    Shape,
    act,
    answered,
    check,
    concat,
    convert,
    criticise,
    default_only,
    divisible,
    double,
    draft,
    extra,
    finished,
    plus,
    polite,
    search,
    start,
    stay,
    third,
    tool,
    write,
)
from tests.pipelines.test_patterns import at_least, parity, remember, shorter, size

to_multiple = Route(third(), {"0": stay(), "1": Add(by=2), "2": Add(by=1)})
by_ones = Route(third(), {"0": stay(), "1": Add(by=1) >> Add(by=1), "2": Add(by=1)})
agent = Loop(Route(tool(), search=search(), write=write()), until=answered(), at_most=5)

SHAPES: dict[str, Shape] = {
    "many components, forks and loops": Shape(
        start()
        >> (Add() | (double() >> Loop(Add(), until=at_least(bound=20), at_most=50)) | Add(by=-1))
        >> Total()
        >> Loop(double() >> (Add() | Add(by=2)) >> Total(), at_most=2)
        >> (Add() | double())
        >> Total(),
        {"value": 2},
        {"n": 3 * (4 * (4 * (3 + 20 + 1) + 3) + 3) + 1},
        "start add double"
        + " add:2 at_least" * 16
        + " add:3 total"
        + " double:2 add:4 add:5 total:2" * 2
        + " add:6 double:3 total:3",
        VALUE,
    ),
    "two loops of the same length": Shape(
        Loop(to_multiple, until=divisible()), {"n": 4}, {"n": 6}, "third add divisible"
    ),
    "two loops of different lengths": Shape(
        Loop(by_ones, until=divisible()), {"n": 4}, {"n": 6}, "third add add:2 divisible"
    ),
    "one loop with two conditional branches": Shape(
        Loop(Route(parity(), even=Add(by=1), odd=Add(by=3)), until=at_least(bound=10), at_most=9),
        {"n": 1},
        {"n": 12},
        "parity add:2 at_least parity add at_least parity add:2 at_least parity add at_least parity add:2 at_least",
    ),
    "two branches, one of which loops": Shape(
        start() >> (Add() | Loop(double(), until=at_least(bound=30), at_most=9)) >> Total(),
        {"value": 2},
        {"n": 3 + 32},
        "start add" + " double at_least" * 4 + " total",
        VALUE,
    ),
    "only default inputs, first in a loop": Shape(
        Loop(default_only(), at_most=4), {"n": 1}, {"seen": 8}, "default_only " * 4
    ),
    "results on the way in a loop": Shape(
        Loop(Add() >> remember() >> Add(by=-2), at_most=3),
        {"n": 5},
        {"n": 2, "best": 6, "round": 3},
        "add testing.remember add:2 " * 3,
    ),
    "a loop and a default input that is given": Shape(
        Loop(plus(), at_most=3), {"n": 0, "extra": 2}, {"n": 6}, "plus " * 3
    ),
    "a loop in the middle": Shape(
        Add() >> Loop(double(), until=at_least(bound=10), at_most=9) >> Add(),
        {"n": 1},
        {"n": 17},
        "add" + " double at_least" * 3 + " add:2",
    ),
    "a loop that was made before what comes first": Shape(
        (lambda loop: start() >> (Add() >> loop))(Loop(double(), at_most=2)),
        {"value": 1},
        {"n": 8},
        "start add double double",
        VALUE,
    ),
    "a loop in a loop": Shape(
        Loop(Loop(Add(), at_most=3) >> double(), at_most=2), {"n": 0}, {"n": 18}, "add add add double " * 2
    ),
    "a loop that feeds its own criticism back": Shape(
        Loop(draft() >> criticise(), until=polite(), at_most=9),
        {"query": "salt"},
        {"answer": Answer("salt, please, thank you")},
        "draft criticise polite " * 3,
        QUESTION,
    ),
    "a value that a loop uses and that goes on after it": Shape(
        Loop(Add() >> remember(), until=at_least(bound=5), at_most=9) >> (extra() | double()) >> Total() >> plus(),
        {"n": 2},
        {"best": 5, "n": 5 + 10 + 500},
        "add testing.remember at_least " * 3 + "extra double total plus",
    ),
    "a value that only one round gives": Shape(
        Loop(double() >> Route(third(), {"0": stay(), "1": extra(), "2": stay()}), at_most=3) >> plus(),
        {"n": 1},
        {"n": 8 + 400},
        "double third stay:2 double third extra double third stay:2 plus",
    ),
    "files converted, three joins and a loop": Shape(
        ((convert(to="plain") | convert(to="rows")) >> concat() >> Loop(Add(), at_most=2) | Add(by=5)) >> Total(),
        {"query": "a", "n": 1},
        {"text": "plain(a) rows(a)", "n": 3 + 6},
        "convert convert:2 concat add add add:2 total",
        {**QUESTION, **N},
    ),
    "a recursion": Shape(
        Recurse(size(), derive=shorter(), max_depth=1) >> Total(),
        {"query": "abc"},
        {"n": 3 + 2 + 2},
        "size shorter size total",
        QUESTION,
    ),
    "a simple agent": Shape(
        Loop(act(), until=finished(), at_most=9), {"query": "go"}, {"finished": True}, "act finished " * 3, QUESTION
    ),
    "an agent that can search": Shape(
        agent,
        {"query": "salt"},
        {"answer": Answer("from facts about salt"), "memory": [Message("tool", "facts about salt")]},
        "tool search answered tool write answered",
        QUESTION,
    ),
    "an agent in a feedback loop": Shape(
        Loop(agent >> Add(), until=at_least(bound=2)),
        {"query": "salt", "n": 0},
        {"answer": Answer("from facts about salt"), "n": 2},
        "tool search answered tool write answered add at_least tool write answered add at_least",
        {**QUESTION, **N},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str):
    check(SHAPES[name])


def test_a_loop_that_is_never_content_ends_at_its_bound():
    state = Pipeline(Loop(Add(), until=at_least(bound=10**9), at_most=50), inputs=N).run(n=0)
    assert (state.n, state.enough) == (50, False)
