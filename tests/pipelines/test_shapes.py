"""Shapes of pipelines that people build elsewhere, each with the result that one expects of it.

The list follows the shapes that Haystack's acceptance tests name (deepset-ai/haystack, pipeline_run.feature); flows,
operators and numbers are our own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import Field

from rag.errors import FlowError, OperatorError
from rag.operators import Channel, Flow, Operator, Parallel, operator
from rag.pipelines import Each, Loop, Pipeline, Route
from rag.types import Answer, Message, Query
from tests.pipelines.conftest import Add, Total
from tests.pipelines.test_flows import every_way
from tests.pipelines.test_patterns import at_least, letters, parity, remember, size

Number = Annotated[int, Channel("n")]
N = {"n": int}


@operator(name="testing.double")
def double(n: int) -> Number:
    return 2 * n


@operator(name="testing.start")
def start(value: int) -> Number:
    return value


@operator(name="testing.third")
def third(n: int) -> Annotated[Literal["0", "1", "2"], Channel("route")]:
    """The remainder by three."""
    return str(n % 3)  # type: ignore[return-value]


@operator(name="testing.divisible")
def divisible(n: int, *, by: int = 3) -> Annotated[bool, Channel("divides")]:
    return n % by == 0


@operator(name="testing.stay")
def stay(n: int) -> Number:
    return n


@operator(name="testing.plus")
def plus(n: int, extra: int = 10) -> Number:
    """An input that may be missing."""
    return n + extra


@operator(name="testing.extra")
def extra(n: int) -> Annotated[int, Channel("extra")]:
    return 100 * n


class Parts(NamedTuple):
    n: int
    rest: int


@operator(name="testing.halve")
def halve(n: int) -> Parts:
    return Parts(n // 2, n % 2)


@operator(name="testing.rest_text")
def rest_text(rest: int) -> Annotated[str, Channel("text")]:
    return f"rest {rest}"


@operator(name="testing.default_only")
def default_only(n: int | None = None, seen: int | None = None) -> Annotated[int, Channel("seen")]:
    """Everything it reads may be missing."""
    return (n or 0) + (seen or 0) + 1


@operator(name="testing.words")
def words(query: Query, *, first: bool = True) -> Annotated[str, Channel("word")]:
    return query.text.split()[0 if first else -1]


@operator(name="testing.concat")
def concat(word: list[str]) -> Annotated[str, Channel("text")]:
    return " ".join(word)


@operator(name="testing.reply")
def reply(n: int) -> Answer:
    return Answer(f"it is {n}")


@operator(name="testing.join_answers")
def join_answers(answer: list[Answer]) -> Answer:
    return Answer(" and ".join(a.text for a in answer))


@operator(name="testing.listed")
def listed(n: int) -> Annotated[list[int], Channel("items")]:
    return [n]


@operator(name="testing.lengthen")
def lengthen(items: list[int]) -> Annotated[list[int], Channel("items")]:
    return [*items, len(items)]


@operator(name="testing.count_items")
def count_items(items: list[list[int]]) -> Number:
    return sum(len(i) for i in items)


class Scale(Operator, name="testing.scale"):
    """Its settings decide what it does."""

    factors: dict[str, int] = Field(default_factory=dict)

    def run(self, n: int) -> Number:
        for factor in self.factors.values():
            n *= factor
        return n


@operator(name="testing.act")
def act(query: Query, memory: list[Message] | None = None) -> list[Message]:
    """One step of an agent: it remembers what it did."""
    done = memory or []
    return [*done, Message("assistant", f"step {len(done) + 1}")]


@operator(name="testing.finished")
def finished(memory: list[Message]) -> Annotated[bool, Channel("finished")]:
    return len(memory) >= 3


to_multiple = Route(third(), {"0": stay(), "1": Add(by=2), "2": Add(by=1)})
by_ones = Route(third(), {"0": stay(), "1": Add(by=1) >> Add(by=1), "2": Add(by=1)})
when_even = Route(parity(), even=extra(), odd=stay())

SHAPES: dict[str, tuple[Flow, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # shape: (flow, inputs with their types, what is given, what is expected)
    "linear": (Add() >> double(), N, {"n": 2}, {"n": 6}),
    "many components, forks and loops": (
        start()
        >> (Add() | (double() >> Loop(Add(), until=at_least(bound=20), at_most=50)) | Add(by=-1))
        >> Total()
        >> Loop(double() >> (Add() | Add(by=2)) >> Total(), at_most=2)
        >> (Add() | double())
        >> Total(),
        {"value": int},
        {"value": 2},
        {"n": 3 * (4 * (4 * (3 + 20 + 1) + 3) + 3) + 1},
    ),
    "one component with a default input": (plus(), N, {"n": 1}, {"n": 11}),
    "one component whose default is given": (plus(), N, {"n": 1, "extra": 5}, {"n": 6}),
    "two loops of the same length": (Loop(to_multiple, until=divisible()), N, {"n": 4}, {"n": 6}),
    "two loops of different lengths": (Loop(by_ones, until=divisible()), N, {"n": 4}, {"n": 6}),
    "one loop with two conditional branches": (
        Loop(Route(parity(), even=Add(by=1), odd=Add(by=3)), until=at_least(bound=10), at_most=9),
        N,
        {"n": 1},
        {"n": 12},
    ),
    "a component made by its settings": (Scale(factors={"a": 2, "b": 5}), N, {"n": 3}, {"n": 30}),
    "two branches that do not merge": (
        start() >> (extra() | listed()),
        {"value": int},
        {"value": 2},
        {"extra": 200, "items": [2]},
    ),
    "three branches that do not merge": (
        start() >> (extra() | listed() | remember()),
        {"value": int},
        {"value": 2},
        {"extra": 200, "items": [2], "best": 2},
    ),
    "two branches that merge": (start() >> (Add() | double()) >> Total(), {"value": int}, {"value": 5}, {"n": 16}),
    "some branches merge and some do not": (
        start() >> (Add() | double() | extra()) >> Total(),
        {"value": int},
        {"value": 5},
        {"n": 16 + 5, "extra": 500},
    ),
    "two branches, one of which loops": (
        start() >> (Add() | Loop(double(), until=at_least(bound=30), at_most=9)) >> Total(),
        {"value": int},
        {"value": 2},
        {"n": 3 + 32},
    ),
    "a value that two branches build on stays as it was": (
        listed() >> (lengthen() | (lengthen() >> lengthen())) >> count_items(),
        N,
        {"n": 7},
        {"n": 2 + 3},
    ),
    "a join after a default input": (start() >> (plus() | Add()) >> Total(), {"value": int}, {"value": 1}, {"n": 13}),
    "only default inputs": (default_only(), {"query": Query}, {"query": "x"}, {"seen": 1}),
    "only default inputs, first in a loop": (Loop(default_only(), at_most=4), N, {"n": 1}, {"seen": 8}),
    "several with only default inputs": (
        default_only() >> default_only(),
        {"query": Query},
        {"query": "x"},
        {"seen": 2},
    ),
    "branches that merge into one list": (
        start() >> (Add() | Add(by=2) | Add(by=3) | Add(by=4)) >> Total(),
        {"value": int},
        {"value": 0},
        {"n": 10},
    ),
    "branches of different lengths that merge": (
        start() >> (Add() | (Add() >> Add()) | (Add() >> Add() >> Add())) >> Total(),
        {"value": int},
        {"value": 0},
        {"n": 6},
    ),
    "results on the way": (
        start() >> extra() >> Add(),
        {"value": int},
        {"value": 1},
        {"n": 2, "extra": 100, "value": 1},
    ),
    "results on the way in a loop": (
        Loop(Add() >> remember() >> Add(by=-2), at_most=3),
        N,
        {"n": 5},
        {"n": 2, "best": 6, "round": 3},
    ),
    "several results of one component": (halve() >> rest_text() >> double(), N, {"n": 7}, {"n": 6, "text": "rest 1"}),
    "a default input whose sender was not taken": (when_even >> plus(), N, {"n": 3}, {"n": 13}),
    "a default input whose sender was taken": (when_even >> plus(), N, {"n": 2}, {"n": 202}),
    "a default input that is given with the run": (
        Route(parity(), even=listed(), odd=stay()) >> plus(),
        N,
        {"n": 3, "extra": 4},
        {"n": 7},
    ),
    "a loop and a default input that is given": (Loop(plus(), at_most=3), N, {"n": 0, "extra": 2}, {"n": 6}),
    "conditional branches and several joins": (
        start()
        >> (Route(parity(), even=Add(by=10), odd=Add(by=20)) | double())
        >> Total()
        >> (Route(third(), {"0": Add(), "1": Add(by=2), "2": Add(by=3)}) | Add())
        >> Total(),
        {"value": int},
        {"value": 3},
        {"n": (29 + 3) + (29 + 1)},
    ),
    "a simple agent": (Loop(act(), until=finished(), at_most=9), {"query": Query}, {"query": "go"}, {"finished": True}),
    "a join that gets some of its inputs": (
        start() >> (Add() | Route(parity(), even=Add(by=5), odd=extra())) >> Total(),
        {"value": int},
        {"value": 1},
        {"n": 2 + 1},
    ),
    "answers that are joined": (
        start() >> (reply() | (double() >> reply())) >> join_answers(),
        {"value": int},
        {"value": 4},
        {"answer": Answer("it is 4 and it is 8")},
    ),
    "an optional input in the middle, from before and from the user": (
        Add() >> plus() >> double(),
        N,
        {"n": 1, "extra": 1},
        {"n": 6},
    ),
    "a loop in the middle": (
        Add() >> Loop(double(), until=at_least(bound=10), at_most=9) >> Add(),
        N,
        {"n": 1},
        {"n": 17},
    ),
    "a join of a conditional input": (
        start() >> (stay() | Route(parity(), even=double(), odd=stay())) >> Total(),
        {"value": int},
        {"value": 4},
        {"n": 12},
    ),
    "texts that are joined": (
        Parallel((words(), words(first=False))) >> concat(),
        {"query": Query},
        {"query": "ask and answer"},
        {"text": "ask answer"},
    ),
    "one item for each of a list": (
        letters() >> Each(size()) >> Total(),
        {"query": Query},
        {"query": "abcd"},
        {"n": 4},
    ),
    "a loop in a loop": (Loop(Loop(Add(), at_most=3) >> double(), at_most=2), N, {"n": 0}, {"n": 18}),
    "a route in a route": (
        Route(parity(), even=Route(third(), {"0": Add(by=6), "1": Add(by=7), "2": Add(by=8)}), odd=stay()),
        N,
        {"n": 4},
        {"n": 11},
    ),
    "branches in branches": (
        start() >> ((Add() | double()) >> Total() | (Add(by=2) | Add(by=3)) >> Total()) >> Total(),
        {"value": int},
        {"value": 1},
        {"n": 2 + 2 + 3 + 4},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape: str):
    flow, inputs, given, expected = SHAPES[shape]
    for state in every_way(Pipeline(flow, inputs=inputs), given):
        assert {channel: state[channel] for channel in expected} == expected


def test_a_loop_that_is_never_content_ends_at_its_bound():
    state = Pipeline(Loop(Add(), until=at_least(bound=10**9), at_most=50), inputs=N).run(n=0)
    assert (state.n, state.enough) == (50, False)


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


def test_no_steps_at_all_are_refused():
    from rag.operators import Sequence

    with pytest.raises(FlowError, match="has no steps"):
        Pipeline(Sequence(()))
