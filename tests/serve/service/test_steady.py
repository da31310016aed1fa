"""A service that runs for long: nothing is left behind by requests that end, fail or are withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import tracemalloc
from itertools import pairwise

import pytest

from rag.errors import RagError
from rag.pipelines import Pipeline
from rag.serve.service import Limits, Service
from tests.serve.service import samples


async def mixed(service: Service, rounds: int) -> None:
    """Each round: 30 runs, of which some fail and some are withdrawn, and two streams, one of them left early."""

    async def one(number: int) -> None:
        text = "bad" if number % 10 == 0 else str(number)
        asked = asyncio.ensure_future(service.run("count", {"query": text}))
        if number % 5 == 1:
            await asyncio.sleep(0)
            asked.cancel()
        with contextlib.suppress(RagError, asyncio.CancelledError):
            await asked

    async def stream(leave: bool) -> None:
        events = service.stream("count", {"query": "x"}, watch=True)
        async for event in events:
            if leave and event.kind == "node_started":
                break
        await events.aclose()

    for _ in range(rounds):
        await asyncio.gather(*(one(n) for n in range(30)), stream(False), stream(True))
        samples.batches.clear()


def test_memory_is_steady_and_no_task_is_left(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL, "rag.serve")  # what pytest keeps of the log would count as ours
    service = Service([Pipeline(samples.CountBatches(), name="count")], limits=Limits(max_wait=0.0005)).bind()

    async def main() -> tuple[list[int], int]:
        await mixed(service, 20)
        gc.collect()
        sizes = []
        tracemalloc.start()
        try:
            for _ in range(5):
                await mixed(service, 10)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        tasks = len(asyncio.all_tasks())
        await service.close()
        return sizes, tasks

    sizes, tasks = asyncio.run(main())
    assert tasks == 1
    assert service.under_way.value == 0
    growths = [after - before for before, after in pairwise(sizes[1:])]
    assert min(growths) < 20_000, growths  # a leak grows in each of the three; something made once, in one of them
