"""One run of a plan: where its events go, when it has to stop, and the thread and loop that help it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from rag.pipelines.events import Event, Span

__all__ = ["Run", "Stopped", "side_by_side", "wait_for"]

T = TypeVar("T")


class Stopped(CancelledError):  # noqa: N818  a signal, not an error
    """Nobody wants the result of this run any more."""


class Run:
    """The observer of one run. A run that nobody observes has none, and costs nothing for it.

    `emit` gets the events, `clock` gives seconds. `stop()` ends the run at the next border between two nodes.
    """

    __slots__ = ("_stopped", "began", "clock", "emit", "spans")

    def __init__(
        self, emit: Callable[[Event], None] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.emit = emit or (lambda event: None)
        self.clock = clock
        self.began = clock()
        self.spans: list[Span] = []
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def check(self) -> None:
        """Raises Stopped once `stop` was called."""
        if self._stopped:
            raise Stopped

    def span(self, node: str, start: float, items: int = 1) -> float:
        """Note that `node` ran from `start` until now; returns the seconds."""
        seconds = self.clock() - start
        self.spans.append(Span(node, start - self.began, seconds, items))
        return seconds


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


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rag-loop", daemon=True).start()
    return loop


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine for a caller that is not async itself; also works inside a running event loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()
