"""Requests that meet in batches: when they do, what a failure does to the others, withdrawing, time limits."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.errors import DeadlineError, ModelError
from rag.pipelines import Pipeline
from rag.serve.coalesce import Coalescer
from rag.types import Query
from tests.serve.service import samples


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as executor:
        yield executor


def ask(coalescer: Coalescer, text: str, seconds: float = 10):
    return coalescer.run({"query": Query(text)}, lambda state: state.answer.text, seconds)


async def until(condition, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_idle_runs_at_once_and_busy_gathers(pool: ThreadPoolExecutor):
    coalescer = Coalescer(Pipeline(samples.Hold() >> samples.CountBatches()), pool, at_once=1, max_batch=4)

    async def main() -> list[str]:
        first = asyncio.ensure_future(ask(coalescer, "0"))
        await asyncio.to_thread(samples.entered.acquire)
        others = [asyncio.ensure_future(ask(coalescer, str(n))) for n in range(1, 11)]
        await until(lambda: coalescer.waiting == 10)
        samples.gate.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(main()) == [str(n) for n in range(11)]
    assert samples.batches == [1, 4, 4, 2]


def test_while_busy_a_batch_starts_after_the_wait(pool: ThreadPoolExecutor):
    coalescer = Coalescer(
        Pipeline(samples.Hold() >> samples.CountBatches()), pool, at_once=2, max_wait=0.05, max_batch=100
    )

    async def main() -> None:
        tasks = [asyncio.ensure_future(ask(coalescer, str(n))) for n in range(6)]
        await asyncio.to_thread(samples.entered.acquire)
        await until(lambda: coalescer.waiting == 0)
        samples.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert sorted(samples.batches) == [1, 5]


def test_one_failure_does_not_fail_the_others(pool: ThreadPoolExecutor):
    coalescer = Coalescer(Pipeline(samples.Hold() >> samples.CountBatches()), pool, at_once=1)

    async def main() -> list[object]:
        first = asyncio.ensure_future(ask(coalescer, "first"))
        await asyncio.to_thread(samples.entered.acquire)
        others = [asyncio.ensure_future(ask(coalescer, t)) for t in ("a", "bad", "c")]
        await until(lambda: coalescer.waiting == 3)
        samples.gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, a, bad, c = asyncio.run(main())
    assert (first, a, c) == ("first", "a", "c")
    assert isinstance(bad, ModelError)
    assert bad.node == "count_batches"
    assert samples.batches == [1, 3, 1, 1, 1]


def test_withdrawn_requests_do_not_run_and_the_run_of_nobody_stops(pool: ThreadPoolExecutor):
    coalescer = Coalescer(Pipeline(samples.Hold() >> samples.CountBatches()), pool, at_once=1)

    async def main() -> None:
        running = asyncio.ensure_future(ask(coalescer, "running"))
        await asyncio.to_thread(samples.entered.acquire)
        queued = asyncio.ensure_future(ask(coalescer, "queued"))
        await until(lambda: coalescer.waiting == 1)
        for task in (running, queued):
            task.cancel()
        await asyncio.gather(running, queued, return_exceptions=True)
        assert coalescer.waiting == 0
        samples.gate.set()
        assert await ask(coalescer, "next") == "next"

    asyncio.run(main())
    assert samples.batches == [1]  # the cancelled run never reached its second node


def test_the_time_limit_counts_from_the_request(pool: ThreadPoolExecutor):
    coalescer = Coalescer(Pipeline(samples.Hold() >> samples.CountBatches()), pool, at_once=1)

    async def main() -> None:
        slow, queued = (asyncio.ensure_future(ask(coalescer, t, seconds=0.15)) for t in ("slow", "queued"))
        for task in (slow, queued):
            with pytest.raises(DeadlineError, match=r"longer than 0\.15 s"):
                await task
        samples.gate.set()
        assert await ask(coalescer, "next") == "next"

    asyncio.run(main())
    assert samples.batches == [1]


def test_the_spans_of_every_batch_are_reported(pool: ThreadPoolExecutor):
    seen: list[tuple[int, list[str]]] = []
    coalescer = Coalescer(
        Pipeline(samples.CountBatches(), name="p"),
        pool,
        observe=lambda size, spans: seen.append((size, [s.node for s in spans])),
    )
    assert asyncio.run(ask(coalescer, "x")) == "x"
    assert seen == [(1, ["count_batches", "p"])]
