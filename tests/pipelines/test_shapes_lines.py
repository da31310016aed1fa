"""Shapes of pipelines: one after another, and inputs that may be missing."""

from __future__ import annotations

from typing import Annotated

import pytest

from rag.errors import FlowError, OperatorError
from rag.operators import Channel, Sequence, operator
from rag.pipelines import Loop, Pipeline, Route, Try
from tests.pipelines.conftest import Add, Fail
from tests.pipelines.shapes import (
    QUESTION,
    VALUE,
    N,
    Number,
    Scale,
    Shape,
    best,
    check,
    default_only,
    double,
    ends,
    extra,
    halve,
    listed,
    plus,
    praise,
    ramp,
    rest_text,
    say_words,
    settle,
    start,
    stay,
)
from tests.pipelines.test_patterns import parity

when_even = Route(parity(), even=extra(), odd=stay())
last = double() >> Add(by=-1)  # made before what comes first
first = start() >> Add()

SHAPES: dict[str, Shape] = {
    "linear": Shape(Add() >> double(), {"n": 2}, {"n": 6}, "add double"),
    "parts made in another order than they run": Shape(
        first >> last, {"value": 1}, {"n": 3}, "start add double add:2", VALUE
    ),
    "one component with a default input": Shape(plus(), {"n": 1}, {"n": 11}, "plus"),
    "one component whose default is given": Shape(plus(), {"n": 1, "extra": 5}, {"n": 6}, "plus"),
    "a component made by its settings": Shape(Scale(factors={"a": 2, "b": 5}), {"n": 3}, {"n": 30}, "scale"),
    "a default that settings give": Shape(
        settle(otherwise=4) >> double(), {"query": "x"}, {"n": 8}, "settle double", QUESTION
    ),
    "a default list that settings give": Shape(
        say_words(otherwise="silence"), {"query": "x"}, {"text": "silence"}, "say_words", QUESTION
    ),
    "only default inputs": Shape(default_only(), {"query": "x"}, {"seen": 1}, "default_only", QUESTION),
    "several with only default inputs": Shape(
        default_only() >> default_only(), {"query": "x"}, {"seen": 2}, "default_only default_only:2", QUESTION
    ),
    "results on the way": Shape(
        start() >> extra() >> Add(), {"value": 1}, {"n": 2, "extra": 100, "value": 1}, "start extra add", VALUE
    ),
    "several results of one component": Shape(
        halve() >> rest_text() >> double(), {"n": 7}, {"n": 6, "text": "rest 1"}, "halve rest_text double"
    ),
    "several results of one component for one other": Shape(
        ends() >> praise(), {"query": "salt with pepper"}, {"text": "salt and pepper"}, "ends praise", QUESTION
    ),
    "columns of numbers": Shape(ramp() >> best() >> Add(), {"n": 5}, {"n": 5}, "ramp best add"),
    "a default input whose sender was not taken": Shape(when_even >> plus(), {"n": 3}, {"n": 13}, "parity stay plus"),
    "a default input whose sender was taken": Shape(when_even >> plus(), {"n": 2}, {"n": 202}, "parity extra plus"),
    "a default input that is given with the run": Shape(
        Route(parity(), even=listed(), odd=stay()) >> plus(), {"n": 3, "extra": 4}, {"n": 7}, "parity stay plus"
    ),
    "an optional input in the middle, from before and from the user": Shape(
        Add() >> plus() >> double(), {"n": 1, "extra": 1}, {"n": 6}, "add plus double"
    ),
    "a pipeline in place of a component": Shape(
        Add() >> Pipeline(double() >> Add(), inputs=N, name="both") >> double(),
        {"n": 1},
        {"n": 10},
        "add both/double both/add double",
    ),
    "a component that fails, and another in its place": Shape(
        Add() >> Try(double() >> Fail(), fallback=Add(by=50)), {"n": 1}, {"n": 52}, "add double fail add:2"
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str):
    check(SHAPES[name])


def test_no_steps_at_all_are_refused():
    with pytest.raises(FlowError, match="has no steps"):
        Pipeline(Sequence(()))


def test_a_result_of_another_type_is_an_error_that_names_the_node():
    @operator
    def wrong(n: int) -> Number:
        return {"n": 1}  # type: ignore[return-value]

    with pytest.raises(OperatorError, match="node 'wrong'.*returned dict"):
        Pipeline(wrong(), inputs=N).run(n=1)


def test_what_would_get_stuck_is_refused_before_it_runs():
    @operator
    def needs_own_result(n: int, later: int) -> Annotated[int, Channel("later")]:
        return n + later

    with pytest.raises(FlowError, match="reads channel 'later'"):
        Pipeline(Loop(needs_own_result()), inputs=N)
