"""Conditional, looping, recursive and failing flows: one concept a section, every way to run gives the same."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

import pytest

from rag.errors import DeadlineError, FlowError, OperatorError
from rag.models import load as load_model
from rag.operators import Channel, operator
from rag.operators.resources import ChatModel
from rag.pipelines import Budget, Each, Loop, Pipeline, Recurse, Route, Run, Try, Verify
from rag.types import Answer, Hits, Message, Query, Usage
from tests.pipelines.conftest import Add, AddAsync, AddInBatches, CountWords, Fail, Total, batch_sizes, shout
from tests.pipelines.test_flows import N, every_way

Number = Annotated[int, Channel("n")]


@operator(name="testing.parity")
def parity(n: int) -> Annotated[Literal["even", "odd"], Channel("route")]:
    """Whether n is even."""
    return "even" if n % 2 == 0 else "odd"


@operator(name="testing.free_route")
def free_route(query: Query) -> Annotated[str, Channel("route")]:
    """The question is the route."""
    return query.text


@operator(name="testing.at_least")
def at_least(n: int, *, bound: int) -> Annotated[bool, Channel("enough")]:
    """Whether n has reached the bound."""
    return n >= bound


@operator(name="testing.remember")
def remember(n: int, best: int | None = None) -> Annotated[int, Channel("best")]:
    """The largest n seen so far."""
    return n if best is None else max(n, best)


@operator(name="testing.letters")
def letters(query: Query) -> list[Query]:
    """A query for each letter."""
    return [Query(c) for c in query.text]


@operator(name="testing.shorter")
def shorter(query: Query) -> list[Query]:
    """The query without its first and without its last letter."""
    return [Query(t) for t in (query.text[1:], query.text[:-1]) if t]


@operator(name="testing.size")
def size(query: Query) -> Number:
    """Length of the query."""
    return len(query.text)


def notes(pipeline: Pipeline, **inputs: Any) -> list[str]:
    run = Run()
    pipeline.run(observe=run, **inputs)
    return [span.note for span in run.spans if span.note]


# Route


def test_a_route_takes_the_way_that_is_named():
    pipeline = Pipeline(Route(parity(), even=Add(by=10), odd=Add(by=100)), inputs=N)
    for n, expected in ((2, 12), (3, 103)):
        for state in every_way(pipeline, {"n": n}):
            assert state.n == expected
    assert notes(pipeline, n=3) == ["took 'odd'"]


def test_each_item_of_a_batch_takes_its_own_way_and_those_that_go_together_stay_together():
    batch_sizes.clear()
    pipeline = Pipeline(Route(parity(), even=AddInBatches(by=10), odd=AddInBatches(by=100)), inputs=N)
    states = pipeline.run_batch([{"n": i} for i in range(5)])
    assert [s.n for s in states] == [10, 101, 12, 103, 14]
    assert sorted(batch_sizes) == [2, 3]


def test_what_is_not_named_goes_to_the_default():
    pipeline = Pipeline(Route(free_route(), {"a": shout(), "b": shout(marks=2)}, default="b"))
    assert pipeline.run("zzz").query.text == "zzz!!"
    with pytest.raises(OperatorError, match="node 'route': the router names 'zzz'"):
        Pipeline(Route(free_route(), a=shout())).run("zzz")


def test_routes_are_checked():
    with pytest.raises(FlowError, match="may name odd, which is no way"):
        Pipeline(Route(parity(), even=Add()), inputs=N)
    with pytest.raises(FlowError, match="never names 'third'"):
        Pipeline(Route(parity(), even=Add(), odd=Add(), third=Add()), inputs=N)
    with pytest.raises(FlowError, match="does not write the channel 'route'"):
        Pipeline(Route(Add(), even=Add()), inputs=N)
    with pytest.raises(FlowError, match="default 'evn' is none of its ways"):
        Pipeline(Route(parity(), even=Add(), odd=Add(), default="evn"), inputs=N)


def test_what_only_one_way_writes_is_not_certain():
    flow = Route(free_route(), a=CountWords(), b=shout(), default="b")
    with pytest.raises(FlowError, match="'count_words' writes, but not on every way"):
        Pipeline(flow >> Add())
    optional = Pipeline(flow >> maybe())
    assert optional.run("a").seen == 1
    assert optional.run("x").seen == -1


@operator
def maybe(n: int | None = None) -> Annotated[int, Channel("seen")]:
    return -1 if n is None else n


def test_ways_with_different_types_fit_readers_of_both():
    @operator
    def text(n: int) -> Annotated[str, Channel("out")]:
        return "x"

    @operator
    def number(n: int) -> Annotated[int, Channel("out")]:
        return 1

    @operator
    def both(out: int | str) -> Number:
        return 0

    @operator
    def only_text(out: str) -> Number:
        return 0

    way = Route(parity(), even=text(), odd=number())
    assert Pipeline(way >> both(), inputs=N).run(n=1).n == 0
    with pytest.raises(FlowError, match=r"holds str \| int"):
        Pipeline(way >> only_text(), inputs=N)


# Loop and Verify


def test_a_loop_ends_when_the_judge_says_so_or_at_its_bound():
    pipeline = Pipeline(Loop(Add(by=3), until=at_least(bound=10), at_most=5), inputs=N)
    for start, end, rounds in ((0, 12, 4), (9, 12, 1), (-50, -35, 5)):
        for state in every_way(pipeline, {"n": start}):
            assert (state.n, state.round, state.enough) == (end, rounds, end >= 10)
    assert notes(pipeline, n=0) == ["ended in round 4: 'enough' is true"]
    assert notes(pipeline, n=-50) == ["ended in round 5: 5 rounds are the bound"]


def test_one_round_is_the_body():
    assert Pipeline(Loop(Add(by=3), at_most=1), inputs=N).run(n=1).n == Pipeline(Add(by=3), inputs=N).run(n=1).n


def test_without_a_judge_a_loop_runs_its_rounds():
    assert Pipeline(Loop(Add() >> AddAsync(), at_most=100), inputs=N).run(n=0).n == 200


def test_items_leave_a_loop_one_by_one():
    batch_sizes.clear()
    pipeline = Pipeline(Loop(AddInBatches(by=1), until=at_least(bound=3), at_most=10), inputs=N)
    assert [s.n for s in pipeline.run_batch([{"n": i} for i in (0, 2, 1)])] == [3, 3, 3]
    assert batch_sizes == [3, 2, 1]


def test_a_round_reads_what_the_last_one_wrote():
    pipeline = Pipeline(Loop(Add(by=-1) >> remember(), at_most=3), inputs=N)
    for state in every_way(pipeline, {"n": 5}):
        assert (state.n, state.best) == (2, 4)


def test_what_only_a_later_round_has_must_be_optional():
    @operator
    def needs(best: int) -> Number:
        return best

    with pytest.raises(FlowError, match=r"not on every way|nothing before it writes"):
        Pipeline(Loop(needs() >> remember()), inputs=N)


def test_loops_are_checked():
    with pytest.raises(FlowError, match="`until` must write one bool channel; it writes none"):
        Pipeline(Loop(Add(), until=Add()), inputs=N)


def test_otherwise_runs_when_the_judge_was_never_content():
    loop = Loop(Add(), until=at_least(bound=3), at_most=2, otherwise=Add(by=100))
    pipeline = Pipeline(loop, inputs=N)
    for state in every_way(pipeline, {"n": 0}):
        assert state.n == 102
    assert pipeline.run(n=2).n == 3
    assert [s.n for s in pipeline.run_batch([{"n": 0}, {"n": 2}])] == [102, 3]


def test_budgets_of_calls_and_tokens_end_a_loop():
    @operator
    def call(n: int, llm: ChatModel) -> Number:
        llm.chat([Message("user", "hello")])
        return n + 1

    model = load_model("scripted")
    for budget, rounds in (({"calls": 3}, 3), (Budget(calls=1), 1), (None, 6)):
        pipeline = Pipeline(Loop(call(), at_most=6, budget=budget), inputs=N, llm=model)
        assert pipeline.run(n=0).n == rounds
        assert asyncio.run(pipeline.arun(n=0)).n == rounds
    assert (
        "the budget of 3 calls is spent"
        in notes(Pipeline(Loop(call(), at_most=6, budget={"calls": 3}), inputs=N, llm=model), n=0)[-1]
    )
    assert Budget(tokens=10).spent(Usage(4, 6, 1), 0) == "the budget of 10 tokens is spent"
    assert Budget(seconds=2).spent(Usage(), 2.5) == "the budget of 2 seconds is spent"
    assert Budget(tokens=11).spent(Usage(4, 6, 1), 0) is None


def test_items_of_a_batch_have_a_budget_each():
    @operator
    def call(n: int, llm: ChatModel) -> Number:
        llm.chat([Message("user", "hello")])
        return n + 1

    model = load_model("scripted")
    loop = Loop(call(), until=at_least(bound=10), at_most=9, budget={"calls": 3})
    pipeline = Pipeline(loop, inputs=N, llm=model)
    assert [s.n for s in pipeline.run_batch([{"n": n} for n in (0, 9, 5)])] == [3, 10, 8]


def test_verify_makes_again_until_it_is_accepted():
    pipeline = Pipeline(Verify(Add(by=2), check=at_least(bound=5), at_most=10), inputs=N)
    for state in every_way(pipeline, {"n": 0}):
        assert (state.n, state.round) == (6, 3)


# Each


def test_each_runs_its_body_for_every_item_as_one_batch():
    pipeline = Pipeline(letters() >> Each(size() >> AddInBatches(by=4)) >> Total())
    for state in every_way(pipeline, {"query": "abc"}):
        assert state.n == 15
        assert state.query.text == "abc"
    batch_sizes.clear()
    assert [s.n for s in pipeline.run_batch(["abc", "", "d"])] == [15, 0, 5]
    assert batch_sizes == [4]


def test_each_goes_over_hits_one_chunk_at_a_time():
    @operator
    def found(query: Query) -> Hits:
        return Hits([5, 6, 7], [3, 2, 1])

    @operator
    def first_id(hits: Hits) -> Number:
        assert len(hits) == 1
        return int(hits.ids[0])

    for state in every_way(Pipeline(found() >> Each(first_id(), over="hits") >> Total()), {"query": "x"}):
        assert state.n == 18
        assert len(state.hits) == 3


def test_each_has_a_bound_and_is_checked():
    pipeline = Pipeline(letters() >> Each(size(), at_most=2) >> Total())
    assert pipeline.run("abcd").n == 2
    assert notes(pipeline, query="abcd") == ["2 items, 2 left out"]
    with pytest.raises(FlowError, match="there is no channel 'queries' to go over"):
        Pipeline(Each(size()))
    with pytest.raises(FlowError, match="holds Query, not a list"):
        Pipeline(Each(size(), over="query"))


# Recurse


def test_recursion_visits_every_query_once_within_its_bounds():
    pipeline = Pipeline(Recurse(size(), derive=shorter(), max_depth=2, max_nodes=100) >> Total())
    for state in every_way(pipeline, {"query": "abcd"}):
        assert [q.text for q in state.queries] == ["abcd", "bcd", "abc", "cd", "bc", "ab"]
        assert state.n == 4 + 3 + 3 + 2 + 2 + 2
    bounded = Pipeline(Recurse(size(), derive=shorter(), max_depth=20, max_nodes=4))
    assert len(bounded.run("abcdef").queries) == 4
    assert len(Pipeline(Recurse(size(), derive=shorter(), max_depth=0)).run("abc").queries) == 1
    with pytest.raises(FlowError, match="does not write the channel 'queries'"):
        Pipeline(Recurse(size(), derive=size()))


# Try


class Flaky:
    """Fails so many times, then works."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def operator(self) -> Any:
        @operator
        def flaky(n: int) -> Number:
            self.failures -= 1
            if self.failures >= 0:
                raise ConnectionError(f"{self.failures} to go")
            return n + 1

        return flaky()


def test_failures_are_tried_again():
    assert Pipeline(Try(Flaky(2).operator(), retries=2, backoff=0), inputs=N).run(n=0).n == 1
    assert asyncio.run(Pipeline(Try(Flaky(2).operator(), retries=2, backoff=0), inputs=N).arun(n=0)).n == 1
    with pytest.raises(OperatorError, match="ConnectionError: 0 to go"):
        Pipeline(Try(Flaky(3).operator(), retries=2, backoff=0), inputs=N).run(n=0)


def test_the_fallback_finds_the_channels_as_they_were_and_the_error():
    @operator
    def explain(n: int, error: str) -> Answer:
        return Answer(f"{n}: {error}")

    pipeline = Pipeline(Try(Add() >> Fail() >> say_done(), fallback=explain()), inputs=N)
    for state in every_way(pipeline, {"n": 1}):
        assert state.n == 1
        assert "ZeroDivisionError: n was 2" in state.answer.text


@operator
def say_done(n: int) -> Answer:
    return Answer("done")


def test_in_a_batch_only_the_items_that_fail_fall_back():
    @operator
    def picky(n: int) -> Number:
        if n == 1:
            raise ValueError("not one")
        return n * 10

    pipeline = Pipeline(Try(picky(), fallback=Add(by=100)), inputs=N)
    assert [s.n for s in pipeline.run_batch([{"n": i} for i in range(3)])] == [0, 101, 20]


def test_a_try_that_takes_too_long_is_given_up():
    @operator
    def slow(n: int) -> Number:
        time.sleep(0.5)
        return n

    pipeline = Pipeline(Try(slow(), timeout=0.05, fallback=Add(by=7)), inputs=N)
    began = time.monotonic()
    assert pipeline.run(n=0).n == 7
    assert time.monotonic() - began < 0.4
    with pytest.raises(DeadlineError, match=r"node 'try': it took longer than 0.05 s"):
        Pipeline(Try(slow(), timeout=0.05), inputs=N).run(n=0)

    @operator
    async def slow_async(n: int) -> Number:
        await asyncio.sleep(5)
        return n

    assert asyncio.run(Pipeline(Try(slow_async(), timeout=0.05, fallback=Add(by=7)), inputs=N).arun(n=0)).n == 7


def test_a_deadline_ends_a_run_between_nodes():
    @operator
    def nap(n: int) -> Number:
        time.sleep(0.02)
        return n

    with pytest.raises(DeadlineError, match="the run took longer than 0.03 s"):
        Pipeline(Loop(nap(), at_most=100), inputs=N).run(n=0, observe=Run(deadline=0.03))


# YAML


def test_every_pattern_survives_the_round_trip():
    flow = (
        Route(free_route(), {"a": CountWords() >> (Add() | Add(by=2)) >> Total(), "b": size()}, default="b")
        >> Loop(
            Add(by=3) >> remember(),
            until=at_least(bound=10),
            at_most=5,
            budget={"tokens": 100, "seconds": 2.5},
            otherwise=Add(),
        )
        >> Verify(Add(), check=at_least(bound=3))
        >> letters()
        >> Each(size(), at_most=7)
        >> Total()
        >> Try(Add(), retries=2, timeout=3.5, fallback=Add(by=9))
        >> Recurse(size(), derive=shorter(), max_nodes=5)
        >> Total()
    )
    pipeline = Pipeline(flow)
    text = pipeline.to_yaml()
    again = Pipeline.from_yaml(text)
    assert again == pipeline
    assert again.to_yaml() == text
    assert again.run("abc").n == pipeline.run("abc").n
    for part in ("route", "loop", "at most 5 rounds", "try", "each", "recurse", "verify"):
        assert part in pipeline.explain()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "flow:\n  - loop: {body: [add], at_mots: 3}\n",
            2,
            "'loop' has no setting 'at_mots' (did you mean 'at_most'?)",
        ),
        ("flow:\n  - loop:\n      at_most: 3\n", 2, "'loop' needs the setting 'body'"),
        ("flow:\n  - loop:\n      body: [add]\n      at_most: 0\n", 4, "greater than or equal to 1"),
        ("inputs: {n: int}\nflow:\n  - route:\n      by: parity\n      flows: {even: add}\n", 3, "may name odd"),
        (
            "inputs: {n: int}\nflow:\n  - try:\n      body:\n        - add\n        - say\n        - nix\n",
            7,
            "no operator",
        ),
        (
            "inputs: {n: int}\nflow:\n  - loop:\n      body:\n        - add\n        - letters\n",
            6,
            "reads channel 'query'",
        ),
    ],
)
def test_wrong_patterns_name_the_line(text: str, line: int, message: str):
    from rag.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        Pipeline.from_yaml(text)
    assert message in str(caught.value)
    assert f"line {line}" in str(caught.value)
