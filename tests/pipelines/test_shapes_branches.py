"""Shapes of pipelines: branches that merge and that do not, joins that get all or some of their inputs."""

from __future__ import annotations

import pytest

from rag.operators import Parallel
from rag.pipelines import Each, Pipeline, Route
from rag.types import Answer
from tests.pipelines.conftest import Add, Total
from tests.pipelines.shapes import (
    QUESTION,
    VALUE,
    Shape,
    check,
    concat,
    convert,
    count_items,
    double,
    extra,
    join_answers,
    kind,
    lengthen,
    listed,
    plus,
    reply,
    start,
    stay,
    third,
    words,
)
from tests.pipelines.test_patterns import letters, parity, remember, size

converted = Route(kind(), text=convert(to="plain"), table=convert(to="rows"), other=convert(to="bytes"))

SHAPES: dict[str, Shape] = {
    "two branches that do not merge": Shape(
        start() >> (extra() | listed()), {"value": 2}, {"extra": 200, "items": [2]}, "start extra listed", VALUE
    ),
    "three branches that do not merge": Shape(
        start() >> (extra() | listed() | remember()),
        {"value": 2},
        {"extra": 200, "items": [2], "best": 2},
        "start extra listed testing.remember",
        VALUE,
    ),
    "two branches that merge": Shape(
        start() >> (Add() | double()) >> Total(), {"value": 5}, {"n": 16}, "start add double total", VALUE
    ),
    "some branches merge and some do not": Shape(
        start() >> (Add() | double() | extra()) >> Total(),
        {"value": 5},
        {"n": 16 + 5, "extra": 500},
        "start add double extra total",
        VALUE,
    ),
    "branches that merge into one list": Shape(
        start() >> (Add() | Add(by=2) | Add(by=3) | Add(by=4)) >> Total(),
        {"value": 0},
        {"n": 10},
        "start add add:2 add:3 add:4 total",
        VALUE,
    ),
    "branches of different lengths that merge": Shape(
        start() >> (Add() | (Add() >> Add()) | (Add() >> Add() >> Add())) >> Total(),
        {"value": 0},
        {"n": 6},
        "start add add:2 add:3 add:4 add:5 add:6 total",
        VALUE,
    ),
    "a value that two branches build on stays as it was": Shape(
        listed() >> (lengthen() | (lengthen() >> lengthen())) >> count_items(),
        {"n": 7},
        {"n": 2 + 3},
        "listed lengthen lengthen:2 lengthen:3 count_items",
    ),
    "an input that branches build on stays as it was": Shape(
        (lengthen() | lengthen()) >> count_items(),
        {"items": [5, 6]},
        {"n": 3 + 3, "items": [5, 6]},
        "lengthen lengthen:2 count_items",
        {"items": list[int]},
    ),
    "a join after a default input": Shape(
        start() >> (plus() | Add()) >> Total(), {"value": 1}, {"n": 13}, "start plus add total", VALUE
    ),
    "a join that gets some of its inputs": Shape(
        start() >> (Add() | Route(parity(), even=Add(by=5), odd=extra())) >> Total(),
        {"value": 1},
        {"n": 2 + 1},
        "start add parity extra total",
        VALUE,
    ),
    "a join that gets some of its inputs, in another order": Shape(
        start() >> (Route(parity(), even=Add(by=5), odd=extra()) | Add()) >> Total(),
        {"value": 2},
        {"n": 7 + 3},
        "start parity add add:2 total",
        VALUE,
    ),
    "a join of a conditional input": Shape(
        start() >> (stay() | Route(parity(), even=double(), odd=stay())) >> Total(),
        {"value": 4},
        {"n": 12},
        "start stay parity double total",
        VALUE,
    ),
    "conditional branches and several joins": Shape(
        start()
        >> (Route(parity(), even=Add(by=10), odd=Add(by=20)) | double())
        >> Total()
        >> (Route(third(), {"0": Add(), "1": Add(by=2), "2": Add(by=3)}) | Add())
        >> Total(),
        {"value": 3},
        {"n": (29 + 3) + (29 + 1)},
        "start parity add:2 double total third add:5 add:6 total:2",
        VALUE,
    ),
    "answers that are joined": Shape(
        start() >> (reply() | (double() >> reply())) >> join_answers(),
        {"value": 4},
        {"answer": Answer("it is 4 and it is 8")},
        "start reply double reply:2 join_answers",
        VALUE,
    ),
    "texts that are joined": Shape(
        Parallel((words(), words(first=False))) >> concat(),
        {"query": "ask and answer"},
        {"text": "ask answer"},
        "words words:2 concat",
        QUESTION,
    ),
    "one item for each of a list": Shape(
        letters() >> Each(size()) >> Total(), {"query": "abcd"}, {"n": 4}, "letters size total", QUESTION
    ),
    "a route in a route": Shape(
        Route(parity(), even=Route(third(), {"0": Add(by=6), "1": Add(by=7), "2": Add(by=8)}), odd=stay()),
        {"n": 4},
        {"n": 11},
        "parity third add:2",
    ),
    "branches in branches": Shape(
        start() >> ((Add() | double()) >> Total() | (Add(by=2) | Add(by=3)) >> Total()) >> Total(),
        {"value": 1},
        {"n": 2 + 2 + 3 + 4},
        "start add double total add:2 add:3 total:2 total:3",
        VALUE,
    ),
    "files converted by their kind, two joins": Shape(
        (converted | convert(to="name")) >> concat(),
        {"query": "a.csv"},
        {"text": "rows(a.csv) name(a.csv)"},
        "kind convert:2 convert:4 concat",
        QUESTION,
    ),
    "files converted by their kind, three joins": Shape(
        ((converted | convert(to="name")) >> concat() >> words(first=False) | words() | converted) >> concat(),
        {"query": "a.md"},
        {"text": "a.md a.md plain(a.md)"},
        "kind convert convert:4 concat words words:2 kind:2 convert:5 concat:2",
        QUESTION,
    ),
    "branches inside a pipeline inside a branch": Shape(
        start() >> (Pipeline((Add() | double()) >> Total(), inputs={"n": int}, name="both") | Add()) >> Total(),
        {"value": 3},
        {"n": (4 + 6) + 4},
        "start both/add both/double both/total add total",
        VALUE,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str):
    check(SHAPES[name])
