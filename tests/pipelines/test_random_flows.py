"""Random flows of every form, three levels deep, agree with a plain interpreter in every way to run."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import OperatorError
from rag.models.scripted import ScriptedModel
from rag.operators import Flow, Parallel, Sequence
from rag.pipelines import Each, Finished, Loop, Pipeline, Recurse, Route, Try, Verify
from rag.types import State
from tests.pipelines import reference as r

PRIME = r.PRIME
STEPS = st.integers(1, PRIME - 1)
REMAINDERS = ("0", "1", "2")

quiet = st.one_of(
    st.sampled_from([r.Plus, r.PlusInBatches, r.PlusInThreads, r.PlusLater, r.PlusAloud]).flatmap(
        lambda kind: STEPS.map(lambda by: kind(by=by))
    ),
    st.sampled_from("xyz").map(lambda letter: r.Sign(letter=letter)),
    st.just(r.Measure()),
    st.just(r.Blame()),
)
failing = st.tuples(st.integers(2, 9), st.integers(0, 8)).map(lambda p: r.FailIf(by=p[0], rest=p[1] % p[0]))
leaves = st.one_of(quiet, quiet, quiet, failing, st.just(r.Called()))


def in_a_row(parts: st.SearchStrategy[Flow], most: int = 3) -> st.SearchStrategy[Flow]:
    return st.lists(parts, min_size=1, max_size=most).map(lambda flows: flows[0] if len(flows) == 1 else _row(*flows))


def _row(*flows: Flow) -> Flow:
    return Sequence(tuple(step for f in flows for step in (f.steps if isinstance(f, Sequence) else (f,))))


def routes(inner: st.SearchStrategy[Flow]) -> st.SearchStrategy[Flow]:
    def route(names: set[str], flows: list[Flow]) -> Flow:
        ways = dict(zip(sorted(names), flows, strict=False))
        return Route(r.Remainder(), ways, default=None if len(ways) == 3 else sorted(names)[0])

    names = st.sets(st.sampled_from(REMAINDERS), min_size=1)
    return st.builds(route, names, st.lists(inner, min_size=3, max_size=3))


def loops(inner: st.SearchStrategy[Flow]) -> st.SearchStrategy[Flow]:
    judges = st.integers(0, PRIME).map(lambda bound: r.Above(bound=bound))
    bounds = st.integers(1, 4)
    maybe = st.none() | inner
    # A round in which each item calls the model equally often: what a budget means for one is then what it means for
    # many. Elsewhere the items of a batch share what they consume.
    even = st.builds(lambda one, other: _row(one, r.Called(), other), quiet, quiet)
    return st.one_of(
        st.builds(
            lambda body, until, most, rest: Loop(body, until, at_most=most, otherwise=rest if until else None),
            inner, st.none() | judges, bounds, maybe,
        ),
        st.builds(
            lambda body, until, calls, rest: Loop(
                body, until, at_most=6, budget={"calls": calls}, otherwise=rest if until else None
            ),
            even, st.none() | judges, st.integers(1, 6), maybe,
        ),
        st.builds(
            lambda body, check, most, rest: Verify(body, check, at_most=most, otherwise=rest),
            inner, judges, bounds, maybe,
        ),
    )  # fmt: skip


def tries(inner: st.SearchStrategy[Flow]) -> st.SearchStrategy[Flow]:
    return st.builds(
        lambda body, fail, retries, timeout, fallback: Try(
            _row(body, fail), retries=retries, backoff=0, timeout=timeout, fallback=fallback
        ),
        inner, failing | quiet, st.integers(0, 2), st.sampled_from([None, 30.0]), st.none() | inner,
    )  # fmt: skip


def deeper(inner: st.SearchStrategy[Flow]) -> st.SearchStrategy[Flow]:
    body = in_a_row(inner, 2)
    return st.one_of(
        inner,
        st.lists(body, min_size=1, max_size=3).map(lambda bs: _row(Parallel(tuple(bs)), r.Join())),
        routes(body),
        loops(body),
        tries(body),
        st.builds(
            lambda b, most: _row(r.Split(), Each(_row(r.Read(), b), at_most=most), r.Join()), body, st.integers(1, 4)
        ),
        st.builds(
            lambda b, depth, most: _row(
                r.Split(), Recurse(_row(r.Read(), b), derive=r.Follow(), max_depth=depth, max_nodes=most), r.Join()
            ),
            body, st.integers(0, 2), st.integers(1, 5),
        ),
    )  # fmt: skip


flows = in_a_row(deeper(in_a_row(deeper(in_a_row(deeper(leaves), 2)), 2)))


def expected(flow: Flow, start: int) -> dict[str, Any] | None:
    """The channels in the end; None when it fails."""
    try:
        return compared(r.interpret(flow, {"start": start}, [0]))
    except r.Failed:
        return None


def compared(channels: Any) -> dict[str, Any]:
    """The channels that the reference knows, of errors only whether there was one."""
    return {name: channels[name] for name in r.Everything._fields} | {"error": bool(channels["error"])}


def outcome(state: State | Exception) -> dict[str, Any] | None:
    if isinstance(state, State):
        return compared(state)
    assert isinstance(state, OperatorError), repr(state)
    assert (state.node or "").startswith("random_fail_if"), repr(state)
    assert isinstance(state.__cause__, ValueError)
    return None


@given(flow=flows, starts=st.lists(st.integers(0, PRIME - 1), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_flows_agree_with_a_plain_interpreter_in_every_way_to_run(flow: Flow, starts: list[int]):
    flow = _row(r.Begin(), flow)
    pipeline = Pipeline(flow, inputs={"start": int}, llm=ScriptedModel("yes"))
    wanted = [expected(flow, start) for start in starts]

    def run(work: Any) -> Any:
        try:
            return work()
        except Exception as error:
            return error

    for start, want in zip(starts, wanted, strict=True):
        assert outcome(run(lambda s=start: pipeline.run(start=s))) == want, "run"
        assert outcome(run(lambda s=start: ending(list(pipeline.stream(start=s))))) == want, "stream"
    batch = run(lambda: pipeline.run_batch([{"start": start} for start in starts]))
    agree(batch, wanted)

    async def in_a_loop() -> None:
        async def arun(work: Any) -> Any:
            try:
                return await work
            except Exception as error:
                return error

        async def streamed(start: int) -> State:
            return ending([event async for event in pipeline.astream(start=start)])

        for start, want in zip(starts, wanted, strict=True):
            assert outcome(await arun(pipeline.arun(start=start))) == want, "arun"
            assert outcome(await arun(streamed(start))) == want, "astream"
        agree(await arun(pipeline.arun_batch([{"start": start} for start in starts])), wanted)

    asyncio.run(in_a_loop())


def ending(events: list[Any]) -> State:
    assert isinstance(events[-1], Finished)
    return events[-1].state


def agree(batch: Any, wanted: list[dict[str, Any] | None]) -> None:
    """A batch ends as its items do one by one, and fails when one of them does."""
    if None in wanted:
        assert outcome(batch) is None, "batch"
    else:
        assert [outcome(state) for state in batch] == wanted, "batch"
