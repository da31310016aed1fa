"""Sequence and parallel branches: what is written where, in every way to run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InputError, OperatorError
from rag.operators import Channel, Flow, Parallel, Sequence, operator
from rag.pipelines import Finished, NodeFinished, NodeStarted, Pipeline, Run, Token
from rag.types import Answer, Delta, Message, Query
from tests.pipelines.conftest import (
    Add,
    AddAsync,
    AddInBatches,
    CountWords,
    Fail,
    Meet,
    Say,
    SayAsync,
    SayIterator,
    Total,
    batch_sizes,
    shout,
)

N = {"n": int}


def every_way(pipeline: Pipeline, start: dict[str, Any]) -> list[Any]:
    """The final states of all ways to run."""

    async def streamed() -> Any:
        return [event async for event in pipeline.astream(start)][-1].state

    return [
        pipeline.run(start),
        pipeline.run_batch([start, start])[1],
        list(pipeline.stream(start))[-1].state,
        asyncio.run(pipeline.arun(start)),
        asyncio.run(pipeline.arun_batch([start]))[0],
        asyncio.run(streamed()),
    ]


def test_a_sequence_runs_in_order():
    assert Pipeline(Add(by=2) >> Add(by=3), inputs=N).run(n=1).n == 6


def test_operators_compose_as_an_algebra():
    a, b, c = Add(by=1), Add(by=2), Add(by=3)
    assert (a >> b) >> c == a >> (b >> c) == Sequence((a, b, c))
    assert (a | b) | c == a | (b | c) == Parallel((a, b, c))
    assert repr((a | b >> c) >> a) == "(Add() | (Add(by=2) >> Add(by=3))) >> Add()"


def test_branches_are_joined_by_the_operator_that_reads_a_list():
    pipeline = Pipeline(CountWords() >> (Add(by=10) | Add(by=100)) >> Total())
    for state in every_way(pipeline, {"query": "a b c"}):
        assert state.n == 13 + 103


def test_a_branch_that_leaves_a_channel_alone_hands_on_its_value():
    assert Pipeline(CountWords() >> (Add(by=10) | shout()) >> Total()).run("a b").n == 12 + 2


def test_one_branch_may_make_a_new_channel():
    state = Pipeline((CountWords() | shout()) >> Add()).run("a b")
    assert state.n == 3
    assert state.topic == "a"


def test_inputs_are_as_they_were_after_branches():
    assert Pipeline((shout() | CountWords()) >> shout(marks=2)).run("why").query.text == "why!!"


def test_an_input_that_branches_wrote_over_can_still_be_joined():
    pipeline = Pipeline((Add(by=10) | Add(by=100)) >> (Total() | Add()) >> Total(), inputs=N)
    for state in every_way(pipeline, {"n": 1}):
        assert state.n == (11 + 101) + (1 + 1)


def test_a_join_of_one_branch_gets_a_list_of_one():
    assert Pipeline(CountWords() >> Total()).run("a b").n == 2


def test_nested_branches_are_one_list():
    inner = Add(by=1) | Add(by=2)
    assert Pipeline(CountWords() >> (inner | (Add(by=3) >> Add(by=4))) >> Total()).run("x").n == 2 + 3 + 8


@pytest.mark.parametrize("say", [Say(), SayAsync(), SayIterator()])
def test_streaming_operators_give_the_same_in_every_way(say: Flow):
    for state in every_way(Pipeline(CountWords() >> say), {"query": "ho and ho"}):
        assert state.answer.text == "ho ho ho "


@pytest.mark.parametrize("say", [Say(), SayAsync(), SayIterator()])
def test_events_tell_what_happens_in_order(say: Flow):
    pipeline = Pipeline(CountWords() >> say)
    events = list(pipeline.stream("ho ho"))
    kinds = [type(e) for e in events]
    assert kinds == [NodeStarted, NodeFinished, NodeStarted, Token, Token, NodeFinished, Finished]
    assert "".join(e.text for e in events if isinstance(e, Token)) == events[-1].state.answer.text

    async def collect() -> list[Any]:
        return [e async for e in pipeline.astream("ho ho")]

    assert [type(e) for e in asyncio.run(collect())] == kinds


def test_async_operators_work_inside_a_running_loop_too():
    async def main() -> int:
        return Pipeline(AddAsync() >> AddAsync(by=5), inputs=N).run(n=1).n

    assert asyncio.run(main()) == 7


def test_waiting_branches_run_at_the_same_time():
    pipeline = Pipeline((Meet() | Meet()) >> Total(), inputs=N)
    assert pipeline.run(n=1).n == 2
    assert asyncio.run(pipeline.arun(n=1)).n == 2


def test_batches_reach_run_batch_whole():
    batch_sizes.clear()
    states = Pipeline(AddInBatches(by=2) >> Add(), inputs=N).run_batch([{"n": i} for i in range(5)])
    assert [s.n for s in states] == [3, 4, 5, 6, 7]
    assert batch_sizes == [5]
    assert Pipeline(AddInBatches(), inputs=N).run_batch([]) == []


def test_optional_channels_may_be_absent_or_given():
    pipeline = Pipeline(Say(), inputs=N)
    assert pipeline.run(n=1).answer.text == "nothing "
    assert pipeline.run(n=1, topic="ho").answer.text == "ho "


def test_optional_lists_may_be_given_too():
    @operator
    def count_turns(query: Query, memory: list[Message] | None = None) -> Annotated[int, Channel("turns")]:
        return len(memory or [])

    pipeline = Pipeline(count_turns())
    assert pipeline.run("x").turns == 0
    assert pipeline.run("x", memory=[Message("user", "hi")]).turns == 1
    with pytest.raises(InputError, match=r"input 'memory' is str, expected list\[Message\]"):
        pipeline.run("x", memory="hi")


def test_an_operators_error_names_the_node_and_keeps_its_cause():
    pipeline = Pipeline(Add() >> Fail(), inputs=N)
    with pytest.raises(OperatorError, match="node 'fail': ZeroDivisionError: n was 2") as caught:
        pipeline.run(n=1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(OperatorError, match="node 'fail'"):
        asyncio.run(pipeline.arun(n=1))
    with pytest.raises(OperatorError, match="node 'fail'"):
        list(pipeline.stream(n=1))


def test_an_operator_that_returns_another_type_is_caught():
    @operator(name="testing.liar")
    def liar(n: int) -> Annotated[int, Channel("n")]:
        return "seven"  # type: ignore[return-value]

    with pytest.raises(OperatorError, match="returned str for channel 'n', its signature says int"):
        Pipeline(liar(), inputs=N).run(n=1)


def test_inputs_are_checked_before_the_run():
    pipeline = Pipeline(Add(), inputs=N)
    with pytest.raises(InputError, match="input 'n' is missing"):
        pipeline.run()
    with pytest.raises(InputError, match="input 'n' is str, expected int"):
        pipeline.run(n="1")
    with pytest.raises(InputError, match="no input 'm'"):
        pipeline.run(n=1, m=2)


def test_closing_a_stream_stops_the_run():
    begun, gone_on = threading.Event(), threading.Event()

    @operator
    def endless(n: int) -> Iterator[Delta | Answer]:
        while True:
            yield Delta("ho")
            begun.set()
            time.sleep(0.001)

    @operator
    def after(answer: Answer) -> None:
        gone_on.set()

    events = Pipeline(endless() >> after(), inputs=N).stream(n=1)
    next(events)
    assert begun.wait(5)
    threads = threading.active_count()
    events.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while threading.active_count() >= threads and time.monotonic() < deadline:
        time.sleep(0.005)
    assert threading.active_count() < threads
    assert not gone_on.is_set()


def test_an_observer_gets_a_span_for_every_node():
    run = Run()
    Pipeline(Add() >> (Add() | Add()) >> Total(), inputs=N).run(n=1, observe=run)
    assert sorted(s.node for s in run.spans if s.kind == "operator") == ["add", "add:2", "add:3", "total"]


def test_states_are_immutable_records():
    state = Pipeline(Add(), inputs=N).run(n=1)
    assert dict(state) == {"n": 2}
    with pytest.raises(AttributeError, match="immutable"):
        state.n = 3
    with pytest.raises(AttributeError, match="no channel 'answer' was written; there are n"):
        _ = state.answer


trees = st.recursive(
    st.integers(-5, 5).map(lambda by: Add(by=by)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Sequence(tuple(parts))),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Sequence((Parallel(tuple(parts)), Total()))),
    ),
    max_leaves=12,
)


def interpret(flow: Flow, n: int) -> int:
    """What a flow of these operators means, in plain Python. Branches that leave n alone do not occur here."""
    if isinstance(flow, Add):
        return n + flow.by
    assert isinstance(flow, Sequence)
    if isinstance(flow.steps[0], Parallel) and flow.steps[-1] == Total():
        return sum(interpret(branch, n) for branch in flow.steps[0].branches)
    for step in flow.steps:
        n = interpret(step, n)
    return n


@given(tree=trees, start=st.integers(-100, 100))
@settings(max_examples=40, deadline=None)
def test_random_flows_agree_with_a_plain_interpreter(tree: Flow, start: int):
    pipeline = Pipeline(tree, inputs=N)
    for state in every_way(pipeline, {"n": start}):
        assert state.n == interpret(tree, start)
