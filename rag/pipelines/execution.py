"""One run of a plan: where its events go, when it has to stop, and the thread and loop that help it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import count
from typing import Any, TypeVar

from rag.errors import DeadlineError
from rag.pipelines.events import Event, Noted, Span
from rag.pipelines.memo import Memo
from rag.pipelines.observe import current
from rag.pipelines.spans import recorder

__all__ = ["Run", "Stopped", "gather", "side_by_side", "wait_for", "within"]

T = TypeVar("T")


class Stopped(CancelledError):  # noqa: N818  a signal, not an error
    """Nobody wants the result of this run any more."""


class Run:
    """The observer of one run. A run that nobody observes has none, and costs nothing for it.

    `emit` gets the events, `clock` gives seconds; after `deadline` seconds the run ends with a DeadlineError, and after
    `stop()` quietly, at the next border between two nodes or tokens. `memos` remember results of operators. `spans` are
    the executions that have ended; they also go to OpenTelemetry when a tracer provider is set.
    """

    __slots__ = (
        "_outer",
        "_stopped",
        "began",
        "clock",
        "deadline",
        "emit",
        "memos",
        "numbers",
        "recorder",
        "spans",
    )

    def __init__(
        self,
        emit: Callable[[Event], None] | None = None,
        *,
        deadline: float | None = None,
        memos: Sequence[Memo] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.emit = emit or (lambda event: None)
        self.clock = clock
        self.deadline = deadline
        self.memos = tuple(memos)
        self.began = clock()
        self.spans: list[Span] = []
        self.numbers = count()
        self.recorder = recorder()
        self._stopped = False
        self._outer: Run | None = None

    def inner(self) -> Run:
        """A run that reports to this one and ends with it, but can be stopped alone."""
        run = Run(self.emit, memos=self.memos, clock=self.clock)
        run.began, run.spans, run.numbers, run._outer = self.began, self.spans, self.numbers, self
        return run

    def stop(self) -> None:
        self._stopped = True

    def check(self) -> None:
        """Raises Stopped once `stop` was called, DeadlineError once the deadline has passed."""
        if self._stopped:
            raise Stopped
        if self.deadline is not None and self.clock() - self.began > self.deadline:
            raise DeadlineError(f"the run took longer than {self.deadline:g} s")
        if self._outer is not None:
            self._outer.check()

    def note(self, node: str, text: str, **facts: Any) -> None:
        """Tell what a node decided, in words and as facts: for its execution that is under way, and as an event."""
        execution = current(self)
        if execution is not None and execution.node == node:
            execution.tell(text, facts)
        self.emit(Noted(node, text))

    def round_ended(self, node: str, number: int, reason: str) -> None:
        """Tell that a loop has done so many rounds; `reason`, when it is not empty, is why there is no further one."""
        execution = current(self)
        if execution is not None and execution.node == node:
            execution.ended += bool(reason)
            execution.round = 0 if execution.ended == execution.items else number + (not reason)
        if reason:
            self.note(node, f"ended in round {number}: {reason}", rounds=number, stopped=reason)

    def remembered(self, node: str) -> None:
        """Tell that a node had a result already."""
        execution = current(self)
        if execution is not None:
            execution.remembered += 1
        self.emit(Noted(node, "remembered"))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=32, thread_name_prefix="rag-branch")


def side_by_side(tasks: list[Callable[[], None]]) -> None:
    """Run the tasks at the same time and wait for all; the first error, in their order, is raised.

    The caller takes the first task, and any that no thread has begun by then: branches inside branches cannot starve.
    """
    futures: list[Future[None]] = [_pool().submit(contextvars.copy_context().run, task) for task in tasks[1:]]
    errors: list[BaseException] = []
    for task, future in zip(tasks, [None, *futures], strict=True):
        try:
            if future is None or future.cancel():
                task()
            else:
                future.result()
        except BaseException as error:  # noqa: BLE001  raised below, when no branch runs any more
            errors.append(error)
    if errors:
        raise errors[0]


def within(seconds: float | None, work: Callable[[Run | None], None], run: Run | None) -> None:
    """Run `work` and wait for it, but not longer than so many seconds: then it is told to stop, TimeoutError raised."""
    if seconds is None:
        work(run)
        return
    inner = run.inner() if run is not None else Run()
    done: Future[None] = Future()
    context = contextvars.copy_context()

    def body() -> None:
        try:
            done.set_result(context.run(work, inner))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=body, name="rag-try", daemon=True).start()
    finished, _ = wait([done], seconds)
    if not finished:
        inner.stop()
        raise TimeoutError
    done.result()


async def gather(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run the coroutines at the same time; the first error, in their order, is raised when the later ones have ended.

    So the error is the one that they would meet one after another, whichever comes first in time.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        for task in tasks:
            await task
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rag-loop", daemon=True).start()
    return loop


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine for a caller that is not async itself; also works inside a running event loop."""
    task = asyncio.run_coroutine_threadsafe(coroutine, _loop())  # which runs it in a copy of the caller's context
    try:
        return task.result()
    except BaseException:
        task.cancel()  # an interrupted caller leaves nothing running behind
        raise
