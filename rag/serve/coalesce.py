"""Concurrent requests to one pipeline meet in a batch, where encoders and indexes work for all of them at once.

A request that comes while nothing runs starts at once. While something runs, requests wait until a batch is full or
`max_wait` has passed, whichever is first: idle service has no added latency, busy service has full batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from rag.errors import DeadlineError
from rag.pipelines import Pipeline, Run, Span
from rag.pipelines.execution import Stopped
from rag.types import State

__all__ = ["Coalescer"]


@dataclass(eq=False)
class _Job:
    """One request: what it starts with, what makes its result, until when, and who waits for it."""

    inputs: dict[str, Any]
    finish: Callable[[State], Any]
    until: float
    waiter: asyncio.Future[Any]
    gone: bool = False
    batch: _Batch | None = None


@dataclass(eq=False)
class _Batch:
    jobs: list[_Job]
    run: Run | None = None
    spans: list[Span] = field(default_factory=list)

    def left_by(self, job: _Job) -> None:
        """Nobody waits for this job any more; the run stops when nobody waits for any."""
        job.gone = True
        if self.run is not None and all(j.gone for j in self.jobs):
            self.run.stop()


class Coalescer:
    """Runs requests to one pipeline in batches of at most `max_batch`, at most `at_once` batches at the same time.

    `max_wait` is in seconds. When a batch fails, its requests run one by one, so that each gets its own result or
    error. `observe` is told the size and the spans of every batch. To be used in one event loop.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        executor: Executor,
        *,
        max_batch: int = 32,
        max_wait: float = 0.002,
        at_once: int = 2,
        observe: Callable[[int, Sequence[Span]], None] = lambda size, spans: None,
    ) -> None:
        self._pipeline = pipeline
        self._executor = executor
        self._max_batch, self._max_wait, self._at_once = max_batch, max_wait, at_once
        self._observe = observe
        self._waiting: list[_Job] = []
        self._running: set[_Batch] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return len(self._waiting)

    async def run(self, inputs: dict[str, Any], finish: Callable[[State], Any], seconds: float) -> Any:
        """Run the pipeline from these inputs and return `finish(state)`, which is called in the thread of the run.

        Raises DeadlineError after so many seconds, and what the run raises. Cancelling it withdraws the request.
        """
        loop = asyncio.get_running_loop()
        job = _Job(inputs, finish, time.perf_counter() + seconds, loop.create_future())
        self._waiting.append(job)
        self._start_batches()
        try:
            return await asyncio.wait_for(job.waiter, seconds)
        except asyncio.TimeoutError as error:
            if isinstance(error, DeadlineError):
                raise
            raise DeadlineError(f"the run took longer than {seconds:g} s") from None
        finally:
            if job.batch is None:
                if job in self._waiting:
                    self._waiting.remove(job)
            else:
                job.batch.left_by(job)

    def _start_batches(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            if self._running and len(self._waiting) < self._max_batch:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(self._max_wait, self._waited)
                return
            self._start()

    def _waited(self) -> None:
        self._timer = None
        if self._waiting and len(self._running) < self._at_once:
            self._start()
            self._start_batches()

    def _start(self) -> None:
        jobs, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        batch = _Batch(jobs)
        for job in jobs:
            job.batch = batch
        self._running.add(batch)
        done = asyncio.get_running_loop().run_in_executor(self._executor, self._work, batch)
        done.add_done_callback(lambda future: self._deliver(batch, future))

    def _deliver(self, batch: _Batch, future: asyncio.Future[list[tuple[Any, BaseException | None]]]) -> None:
        self._running.discard(batch)
        self._observe(len(batch.jobs), batch.spans)  # first: whoever has an answer finds it counted
        failed = asyncio.CancelledError() if future.cancelled() else future.exception()
        outcomes = [(None, failed)] * len(batch.jobs) if failed is not None else future.result()
        for job, (value, error) in zip(batch.jobs, outcomes, strict=True):
            if job.waiter.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                job.waiter.cancel()
            elif error is not None:
                job.waiter.set_exception(error)
            else:
                job.waiter.set_result(value)
        self._start_batches()

    def _work(self, batch: _Batch) -> list[tuple[Any, BaseException | None]]:
        """The result or the error of every job; runs in a thread."""
        try:
            return [(value, None) for value in self._run_jobs(batch, batch.jobs)]
        except Exception as error:  # noqa: BLE001  it is handed to whoever waits
            if len(batch.jobs) == 1 or isinstance(error, Stopped | DeadlineError):
                return [(None, _delivered(error))] * len(batch.jobs)
        outcomes: list[tuple[Any, BaseException | None]] = []
        for job in batch.jobs:
            try:
                outcomes.append((self._run_jobs(batch, [job])[0], None))
            except Exception as error:  # noqa: BLE001
                outcomes.append((None, _delivered(error)))
        return outcomes

    def _run_jobs(self, batch: _Batch, jobs: list[_Job]) -> list[Any]:
        run = Run(deadline=max(job.until for job in jobs) - time.perf_counter())
        batch.run = run
        if all(job.gone for job in jobs):
            raise Stopped
        try:
            if len(jobs) == 1:
                states = [self._pipeline.run(jobs[0].inputs, observe=run)]
            else:
                states = self._pipeline.run_batch([job.inputs for job in jobs], observe=run)
        finally:
            batch.spans += run.spans
        return [None if job.gone else job.finish(state) for job, state in zip(jobs, states, strict=True)]


def _delivered(error: Exception) -> BaseException:
    """A stopped run is a cancelled wait for whoever still waits."""
    return asyncio.CancelledError() if isinstance(error, Stopped) else error
