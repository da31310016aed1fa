"""Faults: what raises, hangs, refuses, says nonsense or is withdrawn leaves a clear error and nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from rag.errors import ConfigError, DeadlineError, FlowError, ModelError, OperatorError
from rag.models.scripted import ScriptedModel
from rag.operators import Flow, operator
from rag.operators.generation import Generate
from rag.operators.orchestration import RouteByModel, Sufficient
from rag.pipelines import Each, Loop, Pipeline, Route, Run, Try, Verify
from rag.types import Answer, Context, Delta, Hits, Passage, Query
from tests.pipelines.conftest import Add, AddAsync, Fail, Total
from tests.pipelines.test_flows import N
from tests.pipelines.test_patterns import Number, at_least, letters, parity, size

NONSENSE = ["", "\x00\ufffd", "{]}<>!!", "As an AI, yes and no.", "route: nowhere", "7" * 5000]


@operator(name="testing.one_passage")
def one_passage(query: Query) -> Context:
    text = "A sheet is a rope that controls a sail."
    return Context((Passage(1, 0, "sheet.md", text, 0, len(text), 1, 1.0),))


@operator(name="testing.quote")
def quote(context: Context) -> Answer:
    return Answer(context.passages[0].text)


@operator(name="testing.not_content")
def not_content(n: int) -> Number:
    return n


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("rag-try", "rag-stream", "rag-ask"))}


# Models


@pytest.mark.parametrize("said", NONSENSE)
def test_a_router_that_hears_nonsense_takes_its_default(said: str):
    router = RouteByModel(routes={"first": "one", "second": "two"}, default="second")
    pipeline = Pipeline(Route(router, first=size(), second=letters()), llm=ScriptedModel(said))
    run = Run()
    assert [q.text for q in pipeline.run("ab", observe=run).queries] == ["a", "b"]
    assert [span.note for span in run.spans if span.kind == "route"] == ["took 'second'"]


@pytest.mark.parametrize("said", NONSENSE)
def test_a_judge_that_hears_nonsense_ends_the_loop_or_its_bound_does(said: str):
    answering = one_passage() >> Verify(Generate(), check=Sufficient(), at_most=3)
    model = ScriptedModel(said)
    run = Run()
    assert isinstance(Pipeline(answering, llm=model).run("What is a sheet?", observe=run).answer, Answer)
    assert len(model.calls) <= 6
    (told,) = [span.note for span in run.spans if span.kind == "verify"]
    assert told.startswith("ended in round")


@pytest.mark.parametrize("way", ["run", "arun", "run_batch"])
def test_an_endpoint_that_hangs_is_given_up_for_the_fallback(way: str):
    model = ScriptedModel("late", delay=0.6)
    flow = one_passage() >> Try(Generate(), timeout=0.05, fallback=quote())
    pipeline = Pipeline(flow, llm=model)
    began = time.monotonic()
    if way == "run":
        states = [pipeline.run("what is a sheet?")]
    elif way == "arun":
        states = [asyncio.run(within_a_loop(pipeline))]
    else:
        states = pipeline.run_batch(["what is a sheet?"])
    assert "rope" in states[0].answer.text
    if way != "arun":  # an event loop that ends waits for its threads
        assert time.monotonic() - began < 0.5
    with pytest.raises(DeadlineError, match=r"node 'try': it took longer than 0\.05 s"):
        Pipeline(one_passage() >> Try(Generate(), timeout=0.05), llm=model).run("what?")


async def within_a_loop(pipeline: Pipeline) -> Any:
    return await pipeline.arun("what is a sheet?")


def test_an_endpoint_that_limits_the_rate_is_asked_again_and_one_that_fails_is_replaced():
    limited = ScriptedModel([ModelError("429 Too Many Requests"), ModelError("429"), "A rope [1]."])
    run = Run()
    patient = Pipeline(one_passage() >> Try(Generate(), retries=2, backoff=0.01), llm=limited)
    assert patient.run("What is a sheet?", observe=run).answer.text.startswith("A rope")
    assert len(limited.calls) == 3
    (told,) = [span.note for span in run.spans if span.kind == "try"]
    assert told.count("429") == 2
    failing = ScriptedModel(lambda messages: ModelError("500 Internal Server Error"))
    with pytest.raises(ModelError, match="node 'generate': 500"):
        Pipeline(one_passage() >> Try(Generate(), retries=1, backoff=0), llm=failing).run("What is a sheet?")


# Flows and operators


@operator(name="testing.takes_a_while", waits=True)
def slow(n: int) -> Number:
    time.sleep(0.03)
    ended.append(n)
    return n


@operator(name="testing.takes_a_while_async")
async def slow_async(n: int) -> Number:
    try:
        await asyncio.sleep(0.03)
    finally:
        ended.append(n)
    return n


ended: list[int] = []


@pytest.mark.parametrize("branch", [slow(), slow_async()])
@pytest.mark.parametrize("fault", [Fail(), AddAsync() >> Fail()])
def test_a_branch_that_raises_ends_the_run_when_no_branch_is_running_any_more(branch: Flow, fault: Flow):
    pipeline = Pipeline((branch | fault | branch) >> Total(), inputs=N)
    for way in (lambda: pipeline.run(n=1), lambda: pipeline.run_batch([{"n": 1}]), lambda: list(pipeline.stream(n=1))):
        ended.clear()
        with pytest.raises(OperatorError, match="node 'fail': ZeroDivisionError") as caught:
            way()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert ended == [1, 1]

    async def main() -> int:
        ended.clear()
        with pytest.raises(OperatorError, match="node 'fail'"):
            await pipeline.arun(n=1)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert len(ended) == 2


def test_the_error_of_the_first_branch_is_raised_in_every_way_to_run():
    @operator
    async def fails_late(n: int) -> Number:
        await asyncio.sleep(0.02)
        raise KeyError("late")

    @operator
    async def fails_soon(n: int) -> Number:
        raise KeyError("soon")

    pipeline = Pipeline((fails_late() | fails_soon()) >> Total(), inputs=N)
    for run in (lambda: pipeline.run(n=1), lambda: asyncio.run(pipeline.arun(n=1))):
        with pytest.raises(OperatorError, match="late"):
            run()


def test_a_loop_whose_judge_is_never_content_ends_at_its_bound_and_says_so():
    run = Run()
    state = Pipeline(Loop(not_content(), until=at_least(bound=10), at_most=7), inputs=N).run(n=1, observe=run)
    assert (state.round, state.enough) == (7, False)
    assert [span.note for span in run.spans if span.kind == "loop"] == ["ended in round 7: 7 rounds are the bound"]


def test_operators_with_wrong_annotations_are_refused_where_they_are_defined():
    with pytest.raises(FlowError, match=r"custom\.no_return.*return"):

        @operator
        def no_return(n: int):  # type: ignore[no-untyped-def]
            return n

    with pytest.raises(FlowError, match=r"custom\.no_type.*'n'"):

        @operator
        def no_type(n) -> Number:  # type: ignore[no-untyped-def]
            return n

    with pytest.raises(FlowError, match=r"custom\.plain_dict"):

        @operator
        def plain_dict(n: int) -> dict[str, int]:
            return {"n": n}

    @operator
    def liar(hits: Hits) -> Hits:
        return [1, 2]  # type: ignore[return-value]

    @operator
    def found(query: Query) -> Hits:
        return Hits([1], [1.0])

    with pytest.raises(OperatorError, match="node 'liar'.*returned list for channel 'hits'"):
        Pipeline(found() >> liar()).run("x")


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "rag.operators.retrieval.Dense", "densse"])
def test_names_that_are_not_registered_are_refused(name: str):
    with pytest.raises(ConfigError, match=f"no operator .*{name}"):
        Pipeline.from_yaml(f"flow:\n  - {name}\n")


def test_a_yaml_bomb_is_refused_at_once():
    layers = ["  - &x0 [dense, bm25]"] + [f"  - &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 30)]
    began = time.monotonic()
    with pytest.raises(ConfigError, match="unfolds to more than"):
        Pipeline.from_yaml("flow:\n" + "\n".join(layers) + "\n")
    assert time.monotonic() - began < 2


# Many at once, and for long


def mixed() -> Pipeline:
    """Every form of flow, with async, threaded, streaming and failing operators; quick."""
    branches = (AddAsync() >> Add()) | (slow_async_less() | Add())
    inner = Loop(branches >> Total(), until=at_least(bound=30), at_most=3)
    flow = Route(parity(), even=inner, odd=Add()) >> Try(fails_at_seven(), retries=1, backoff=0, fallback=Add())
    return Pipeline(flow >> as_query() >> letters() >> Each(size()) >> Total() >> speak(), inputs=N, name="mixed")


@operator(name="testing.takes_a_moment")
async def slow_async_less(n: int) -> Number:
    await asyncio.sleep(0.001)
    return n


@operator(name="testing.fails_at_seven")
def fails_at_seven(n: int) -> Number:
    if n % 7 == 0:
        raise ValueError("seven")
    return n


@operator(name="testing.as_query")
def as_query(n: int) -> Query:
    return Query("x" * (n % 5))


@operator(name="testing.speak")
def speak(n: int) -> Iterator[Delta | Answer]:
    yield Delta(str(n))
    yield Answer(str(n))


def test_200_concurrent_runs_of_which_40_are_cancelled_lose_nothing_and_leave_no_task():
    pipeline = mixed()
    wanted = [pipeline.run(n=n).answer.text for n in range(200)]

    async def main() -> tuple[list[Any], int]:
        tasks = [asyncio.ensure_future(pipeline.arun(n=n)) for n in range(200)]
        await asyncio.sleep(0.001)  # they have begun
        for task in tasks[::5]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        return outcomes, len(asyncio.all_tasks())

    outcomes, tasks = asyncio.run(main())
    assert tasks == 1
    for n, outcome in enumerate(outcomes):
        if n % 5 == 0 and isinstance(outcome, asyncio.CancelledError):
            continue
        assert outcome.answer.text == wanted[n]
    assert sum(isinstance(o, asyncio.CancelledError) for o in outcomes[::5]) > 20
    assert pipeline.run(n=3).answer.text == wanted[3]


def test_200_concurrent_streams_of_which_40_are_left_lose_nothing_and_leave_no_task():
    pipeline = mixed()
    wanted = [pipeline.run(n=n).answer.text for n in range(200)]

    async def one(n: int) -> str | None:
        events = pipeline.astream(n=n)
        async for event in events:
            if n % 5 == 0:
                await events.aclose()  # type: ignore[attr-defined]
                return None
            last = event
        return str(last.state.answer.text)  # type: ignore[union-attr]

    async def main() -> tuple[list[str | None], int]:
        outcomes = await asyncio.gather(*(one(n) for n in range(200)))
        return outcomes, len(asyncio.all_tasks())

    outcomes, tasks = asyncio.run(main())
    assert tasks == 1
    assert outcomes == [None if n % 5 == 0 else wanted[n] for n in range(200)]


def test_memory_is_steady_over_many_runs():
    pipeline = mixed()

    def rounds(count: int) -> None:
        for n in range(count):
            pipeline.run(n=n % 50)
            pipeline.run(n=n % 50, observe=Run())
            if n % 10 == 0:
                pipeline.run_batch([{"n": m} for m in range(8)])
                events = pipeline.stream(n=n % 50)
                next(events)
                events.close()  # type: ignore[attr-defined]
                asyncio.run(pipeline.arun(n=n % 50))

    rounds(100)
    tracemalloc.start()
    try:
        rounds(50)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        rounds(300)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 30_000  # 690 runs between the two
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()
