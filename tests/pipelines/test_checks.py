"""Graphs that do not fit together are refused before anything runs, with node, channel and a way out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

import pytest

from rag.errors import ConfigError, FlowError, NotFoundError
from rag.operators import Channel, Flow, Operator, lookup, operator
from rag.operators.registry import register
from rag.operators.signature import assignable, show_type
from rag.pipelines import Pipeline
from rag.types import Answer, Hits, Query
from tests.pipelines.conftest import Add, CountWords, Say, Total, shout


@operator
def text_topic(query: Query) -> Annotated[str, Channel("n")]:
    """Writes a text where others expect a number."""
    return query.text


@operator
def wrong_hits(query: Query) -> Annotated[str, Channel("hits")]:
    """Writes a text to a standard channel."""
    return query.text


@operator
def show_hits(hits: Hits) -> Answer:
    """Reads hits."""
    return Answer(str(len(hits)))


@pytest.mark.parametrize(
    ("flow", "message", "hint"),
    [
        (Add(), "node 'add': reads channel 'n' (int), which nothing before it writes", "put one that writes it before"),
        (show_hits(), "reads channel 'hits' (Hits), which nothing before it writes", "put one that writes it before"),
        (
            CountWords() >> (Add() | Add()) >> Add(),
            "node 'add:3': reads channel 'n' as int, but 'parallel'",
            "join the",
        ),
        (
            text_topic() >> Add(),
            "reads channel 'n' as int, but it holds str, written by 'text_topic'",
            "never converted",
        ),
        (wrong_hits(), "writes str to channel 'hits', which holds Hits", "name another channel"),
        (
            (CountWords() | text_topic()) >> Total(),
            "reads channel 'n' as list[int], but 'parallel' leaves one int | str",
            "join the branches",
        ),
        ((Add() | CountWords()) >> Total(), "reads channel 'n' (int), which nothing before it writes", "put one"),
    ],
)
def test_refused(flow: Flow, message: str, hint: str):
    with pytest.raises(FlowError) as caught:
        Pipeline(flow)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_every_problem_is_told_at_once():
    with pytest.raises(FlowError) as caught:
        Pipeline(Add() >> show_hits())
    assert "'add'" in caught.value.message
    assert "also node 'show_hits'" in caught.value.message


def test_a_class_or_a_number_is_no_flow():
    with pytest.raises(FlowError, match=r"CountWords is a class.*write CountWords\(\)"):
        _ = Add() >> CountWords  # type: ignore[operator]
    with pytest.raises(FlowError, match="3 .int. cannot stand in a flow"):
        _ = Add() | 3  # type: ignore[operator]


def test_unknown_inputs_need_a_type():
    with pytest.raises(ConfigError, match=r"did you mean 'query'"):
        Pipeline(shout(), inputs=["qery"])


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="unknown setting 'bye'.*did you mean 'by'"):
        Add(bye=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="'by' is 1000 .int.: Input should be less than or equal to 100"):
        Add(by=1000)


def test_names_are_looked_up_with_suggestions():
    assert lookup("testing.add") is Add
    assert lookup("add") is Add
    with pytest.raises(NotFoundError, match="did you mean"):
        lookup("dens")


def test_two_operators_cannot_share_a_name():
    with pytest.raises(ConfigError, match="two operators are named 'testing.add'"):
        register("testing.add", Total)


def test_signatures_that_say_too_little_are_refused():
    with pytest.raises(FlowError, match="parameter 'hits' of run has no type"):

        class NoType(Operator):
            def run(self, hits) -> Hits:  # type: ignore[no-untyped-def]
                return hits  # type: ignore[no-any-return]

    with pytest.raises(FlowError, match="run has no return type"):

        class NoReturn(Operator):
            def run(self, hits: Hits):  # type: ignore[no-untyped-def]
                return hits

    with pytest.raises(FlowError, match="run returns float, and no channel has that type"):

        class NoChannel(Operator):
            def run(self, hits: Hits) -> float:
                return 1.0

    with pytest.raises(FlowError, match=r"takes \*args"):

        class Variadic(Operator):
            def run(self, *args: int) -> Hits:
                return Hits()

    with pytest.raises(FlowError, match="is a generator that returns Answer"):

        @operator
        def stream(query: Query) -> Answer:  # type: ignore[misc]
            yield Answer("x")


def test_annotations_may_name_what_is_defined_in_the_same_function():
    class Topic(str):
        __slots__ = ()

    @operator
    def name_topic(query: Query) -> Annotated[Topic, Channel("topic")]:
        return Topic(query.text)

    @operator
    def say_topic(topic: Topic) -> Answer:
        return Answer(topic)

    assert Pipeline(name_topic() >> say_topic()).run("hi").answer.text == "hi"


def test_annotations_may_name_what_is_defined_later():
    assert isinstance(Pipeline(Early()).run("x").late, Late)


class Early(Operator):
    """Its annotations name a class that stands below it."""

    def run(self, query: Query) -> Annotated[Late, Channel("late")]:
        return Late()


class Late: ...


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        (int, int, True),
        (int, float, False),
        (bool, int, True),
        (str, Query, False),
        (int, Any, True),
        (int, Optional[int], True),
        (Optional[int], int, False),
        (Union[int, str], Union[str, int, None], True),
        (list[int], list[int], True),
        (list[int], list[str], False),
        (list[bool], list[int], True),
        (list[int], list, True),
        (Literal["a"], str, True),
        (Literal["a"], Literal["a", "b"], True),
        (Literal["a", "c"], Literal["a", "b"], False),
        (Annotated[int, Channel("x")], int, True),
    ],
)
def test_what_may_be_read_as_what(source: Any, target: Any, fits: bool):
    assert assignable(source, target) is fits


def test_types_are_shown_as_one_writes_them():
    assert show_type(list[Optional[Hits]]) == "list[Hits | None]"


def test_explain_shows_nodes_channels_and_settings():
    text = Pipeline(CountWords() >> (Add(by=2) | Add()) >> Total() >> Say()).explain()
    for part in (
        "inputs  query: Query",
        "count_words: CountWords()   query -> n, topic",
        "parallel, branch 2 of 2:",
        "add: Add(by=2)   n -> n",
        "parallel leaves one value a branch in: n",
        "total: Total()   n -> n",
        "final   query: Query, n: int, topic: str, answer: Answer",
    ):
        assert part in text
