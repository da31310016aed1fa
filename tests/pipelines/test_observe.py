"""What an observed run keeps: nested executions, what was written and decided, tokens counted where they were spent."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from rag.errors import OperatorError
from rag.models.scripted import ScriptedModel
from rag.operators import Flow, operator
from rag.operators.resources import ChatModel
from rag.pipelines import Each, Loop, NodeFinished, Noted, Pipeline, Recurse, Route, Run, Span, Try
from rag.pipelines.execution import wait_for
from rag.types import Answer, Delta, Hits, Message, Query
from tests.pipelines.conftest import Add, AddInBatches, CountWords, Fail, Total
from tests.pipelines.test_flows import N
from tests.pipelines.test_patterns import Number, at_least, letters, parity, shorter, size

ASKED, SAID = 2, 3


def model() -> ScriptedModel:
    return ScriptedModel("three words here")


def ask(llm: ChatModel) -> None:
    llm.chat([Message("user", "one two")])


@operator
async def waiting(n: int, llm: ChatModel) -> Number:
    await llm.achat([Message("user", "one two")])
    return n


@operator
async def writing(n: int, llm: ChatModel) -> AsyncIterator[Delta | Answer]:
    text = ""
    async for piece in llm.astream([Message("user", "one two")]):
        if isinstance(piece, str):
            text += piece
            yield Delta(piece)
    yield Answer(text)


@operator
def saying(n: int, llm: ChatModel) -> Iterator[Delta | Answer]:
    text = ""
    for piece in llm.stream([Message("user", "one two")]):
        if isinstance(piece, str):
            text += piece
            yield Delta(piece)
    yield Answer(text)


@operator(waits=True)
def blocking(n: int, llm: ChatModel) -> Number:
    ask(llm)
    return n


def usage(pipeline: Pipeline, way: str) -> dict[str, tuple[int, int, int]]:
    """Tokens read, written and calls by node, summed over its executions, for a batch of two or one run."""
    run = Run()
    start = {"n": 1}
    if way == "run":
        pipeline.run(start, observe=run)
    elif way == "run_batch":
        pipeline.run_batch([start, start], observe=run)
    elif way == "arun":
        asyncio.run(pipeline.arun(start, observe=run))
    elif way == "inside a loop":

        async def inside() -> None:
            pipeline.run(start, observe=run)

        asyncio.run(inside())
    else:
        asyncio.run(pipeline.arun_batch([start, start], observe=run))
    sums: dict[str, tuple[int, int, int]] = {}
    for span in run.spans:
        read, wrote, calls = sums.get(span.node, (0, 0, 0))
        used = span.usage
        sums[span.node] = (read + used.prompt_tokens, wrote + used.completion_tokens, calls + used.calls)
    return sums


@pytest.mark.parametrize("way", ["run", "run_batch", "arun", "arun_batch", "inside a loop"])
@pytest.mark.parametrize("asking", [waiting(), writing(), saying(), blocking()])
def test_tokens_are_counted_in_every_way_to_run(asking: Flow, way: str):
    times = 2 if "batch" in way else 1
    flow = Try(asking, timeout=5) >> ((Add() >> asking) | asking)
    used = usage(Pipeline(flow, inputs=N, llm=model(), name="p"), way)
    name = type(asking).__name__
    for node in (name, f"{name}:2", f"{name}:3", "try"):
        assert used[node] == (times * ASKED, times * SAID, times), node
    assert used["parallel"] == (2 * times * ASKED, 2 * times * SAID, 2 * times)
    assert used["p"] == (3 * times * ASKED, 3 * times * SAID, 3 * times)
    assert used["add"] == (0, 0, 0)


@pytest.mark.parametrize("way", ["run", "arun", "run_batch"])
@pytest.mark.parametrize("asking", [waiting(), blocking()])
def test_budgets_see_what_other_threads_and_loops_consume(asking: Flow, way: str):
    pipeline = Pipeline(Loop(asking >> Add(), at_most=9, budget={"calls": 3}), inputs=N, llm=model(), name="p")
    times = 2 if way == "run_batch" else 1
    assert usage(pipeline, way)["p"][2] == 3 * times


def test_an_interrupted_wait_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def interrupted(self: Future[None], timeout: float | None = None) -> None:
        while not running.is_set():
            time.sleep(0.001)
        raise KeyboardInterrupt

    async def begin() -> None:
        running.set()
        await endless()

    running = threading.Event()
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_for(begin(), None)
    assert ended.wait(5)


def outline(spans: list[Span]) -> list[str]:
    """Spans in the order in which they began, indented by what is around them."""
    by_number = {span.number: span for span in spans}

    def depth(span: Span) -> int:
        return 0 if span.parent is None else 1 + depth(by_number[span.parent])

    return ["  " * depth(by_number[n]) + by_number[n].node for n in sorted(by_number)]


@pytest.mark.parametrize("batch", [1, 3])
def test_spans_nest_as_the_flow_does(batch: int):
    flow = Route(parity(), even=Loop(Add() >> (Add() | Add() >> Add()) >> Total(), at_most=2), odd=Add())
    run = Run()
    Pipeline(flow, inputs=N, name="p").run_batch([{"n": 2}] * batch, observe=run)
    a_round = [
        "      add",
        "      parallel",
        "        add:2",
        "        branch 2",
        *["          add:3", "          add:4"],
    ]
    assert outline(run.spans) == ["p", "  route", "    parity", "    loop", *2 * [*a_round, "      total"]]
    assert {span.items for span in run.spans} == {batch}
    assert [s.round for s in run.spans if s.node in ("add", "total")] == [1, 1, 2, 2]


def test_spans_say_how_long_in_the_clock_of_the_run():
    ticks = iter(range(100))
    run = Run(clock=lambda: float(next(ticks)))
    Pipeline(Add() >> Add(), inputs=N, name="p").run(n=1, observe=run)
    assert [(s.node, s.start, s.seconds) for s in run.spans] == [("add", 2, 1), ("add:2", 4, 1), ("p", 1, 5)]


def test_spans_say_what_was_written_in_a_few_words():
    @operator
    def found(query: Query) -> Hits:
        return Hits([5, 6, 7], [3, 2, 1])

    @operator
    def unknown(query: Query) -> Answer:
        return Answer("I do not know", found=False)

    run = Run()
    Pipeline(found() >> unknown() >> CountWords() >> letters()).run("abc", observe=run)
    wrote = {span.node: dict(span.wrote) for span in run.spans if span.kind == "operator"}
    assert wrote == {
        "found": {"hits": "3"},
        "unknown": {"answer": "not found, 4 words"},
        "count_words": {"n": "1", "topic": "abc"},
        "letters": {"queries": "3"},
    }
    run = Run()
    Pipeline(found() >> CountWords()).run_batch(["a", "b c", "d"], observe=run)
    assert {s.node: s.wrote.get("hits", s.wrote.get("n")) for s in run.spans[:2]} == {
        "found": "9",
        "count_words": "1 2×, 2",
    }


def test_what_flows_decided_is_with_them_and_told_as_it_happens():
    events: list[Any] = []
    run = Run(events.append)
    flow = Route(parity(), even=Add(), odd=Add() >> Try(Fail(), retries=1, backoff=0, fallback=Add(by=5)))
    Pipeline(flow, inputs=N).run_batch([{"n": n} for n in (1, 2, 4)], observe=run)
    notes = {span.node: span.note for span in run.spans if span.note}
    assert notes["route"] == "took 'odd'; took 'even' (2×)"
    assert "try 2 failed: node 'fail': ZeroDivisionError: n was 2" in notes["try"]
    assert [e.text for e in events if isinstance(e, Noted) and e.node == "route"] == [
        "took 'odd'",
        *["took 'even'"] * 2,
    ]
    assert next(s.error for s in run.spans if s.node == "fail") == "OperatorError: ZeroDivisionError: n was 2"
    assert next(s.error for s in run.spans if s.node == "route") == ""


def test_the_event_at_the_end_of_a_node_holds_the_values_or_the_error():
    pipeline = Pipeline(letters() >> Each(size() >> AddInBatches()) >> Total())
    ends = [e for e in pipeline.stream("abc") if isinstance(e, NodeFinished)]
    assert [(e.node, [dict(w) for w in e.wrote]) for e in ends[1:]] == [
        ("size", [{"n": 1}] * 3),
        ("add_in_batches", [{"n": 2}] * 3),
        ("total", [{"n": 6}]),
    ]
    events = []
    with pytest.raises(OperatorError):
        Pipeline(Fail(), inputs=N).run(n=1, observe=Run(events.append))
    assert (events[-1].error, list(events[-1].wrote)) == ("OperatorError: ZeroDivisionError: n was 1", [])


def test_a_node_that_runs_itself_in_another_way_is_one_span():
    run = Run()
    flow = Recurse(size(), derive=shorter(), max_depth=1) >> Total() >> Try(Fail(), fallback=Add()) >> letters()
    Pipeline(flow >> Each(size()) >> Total()).run_batch(["ab", "cd"], observe=run)
    assert [s.node for s in run.spans].count("recurse") == 1
    assert [s.node for s in run.spans].count("try") == 1
    assert [s.node for s in run.spans].count("each") == 1


def test_a_run_inside_an_operator_is_a_run_of_its_own():
    inner_run = Run()

    @operator
    def asks_another(n: int) -> Number:
        return Pipeline(Add(), inputs=N, name="inner").run(n=n, observe=inner_run).n

    run = Run()
    assert Pipeline(Loop(asks_another(), until=at_least(bound=3)), inputs=N, name="p").run(n=0, observe=run).n == 3
    assert {s.node for s in run.spans} == {"p", "loop", "asks_another", "at_least"}
    assert [s.parent for s in inner_run.spans if s.node == "inner"] == [None] * 3
