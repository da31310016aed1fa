"""A flow that may fail: retries, a time limit, something else in its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from pydantic import Field

from rag.errors import DeadlineError
from rag.operators import Flow
from rag.pipelines.execution import Run, Stopped, within
from rag.pipelines.flows.composite import Composite
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import traced
from rag.pipelines.plan import Checker, Path, Scope, Slot, compile_flow, merge_scopes

__all__ = ["Try"]


class Try(Composite, form="try"):
    """Run `body`; when it fails, try again, and at last run `fallback`.

        Try(Generate(), retries=2, timeout=30, fallback=ExtractiveAnswer())

    The wait before the n-th new try is `backoff` * 2^(n-1) seconds. `timeout` limits each try; what a try that ran out
    of time still computes is thrown away. A try that failed leaves no trace in the channels. The fallback finds the
    error's text in the channel `error`; without one the last error is raised. In a batch the items that fail are tried
    again alone.
    """

    body: Flow = Field(description="what is tried")
    retries: int = Field(0, ge=0, le=20, description="new tries after a failure")
    backoff: float = Field(
        0.5, ge=0, le=60, description="seconds before the first new try, doubled for each further one"
    )
    timeout: float | None = Field(None, gt=0, description="seconds that one try may take")
    fallback: Flow | None = Field(None, description="what runs when every try failed")

    def __init__(
        self,
        body: Flow,
        *,
        retries: int = 0,
        backoff: float = 0.5,
        timeout: float | None = None,
        fallback: Flow | None = None,
    ) -> None:
        super().__init__(body=body, retries=retries, backoff=backoff, timeout=timeout, fallback=fallback)


@traced
class TryNode(Node):
    """Runs its body on a copy of the channels, which counts only when it came to its end."""

    def __init__(self, name: str, body: Node, fallback: Node | None, flow: Try) -> None:
        self.name = name
        self.body, self.fallback = body, fallback
        self.retries, self.backoff, self.timeout = flow.retries, flow.backoff, flow.timeout
        self.waits = body.waits or (fallback is not None and fallback.waits)

    def bind(self, resolve: Resolve) -> None:
        self.body.bind(resolve)
        if self.fallback is not None:
            self.fallback.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        error = self._tries(values, run)
        if error is not None:
            self._fall_back(values, error, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        if len(batch) == 1:
            self.run(batch[0], run)
            return
        copies = [dict(values) for values in batch]
        try:
            within(self.timeout, lambda inner: self.body.run_batch(copies, inner), run)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001  which item it was is found by trying each alone
            if run is not None:
                run.note(self.name, f"the batch failed, each item is tried alone: {error}")
            for values in batch:
                self.run(values, run)
            return
        for values, copy in zip(batch, copies, strict=True):
            values.update(copy)

    async def arun(self, values: Channels, run: Run | None) -> None:
        for number in range(self.retries + 1):
            copy = dict(values)
            try:
                await asyncio.wait_for(self.body.arun(copy, run), self.timeout)
            except (Stopped, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the next try or the fallback follows
                failure = self._explained(error)
            else:
                values.update(copy)
                return
            self._note(number, failure, run)
            if number < self.retries:
                await asyncio.sleep(self.backoff * 2**number)
        if self.fallback is None:
            raise failure
        values["error"] = str(failure)
        await self.fallback.arun(values, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        indent = "  " * depth
        limit = f", {self.timeout:g} s each" if self.timeout else ""
        yield f"{indent}{self.name}, {self.retries + 1} times at most{limit}:"
        yield from self.body.describe(depth + 1)
        if self.fallback is not None:
            yield f"{indent}{self.name}, when all fail:"
            yield from self.fallback.describe(depth + 1)

    def _tries(self, values: Channels, run: Run | None) -> Exception | None:
        """Try until it succeeds; the last error when it never does."""
        failure: Exception | None = None
        for number in range(self.retries + 1):
            copy = dict(values)
            try:
                within(self.timeout, lambda inner, copy=copy: self.body.run(copy, inner), run)  # type: ignore[misc]
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the next try or the fallback follows
                failure = self._explained(error)
            else:
                values.update(copy)
                return None
            self._note(number, failure, run)
            if number < self.retries:
                time.sleep(self.backoff * 2**number)
        return failure

    def _fall_back(self, values: Channels, error: Exception, run: Run | None) -> None:
        if self.fallback is None:
            raise error
        values["error"] = str(error)
        self.fallback.run(values, run)

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, TimeoutError | asyncio.TimeoutError) or isinstance(error, DeadlineError):
            return error
        late = DeadlineError(f"it took longer than {self.timeout:g} s")
        late.node = self.name
        return late

    def _note(self, number: int, error: Exception, run: Run | None) -> None:
        if run is not None:
            run.note(self.name, f"try {number + 1} failed: {error}", failed_tries=number + 1)


@compile_flow.register
def _compile(flow: Try, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    name = checker.name("try")
    body, after = compile_flow(flow.body, scope, (*path, flow.child_number("body")), checker)
    if flow.fallback is None:
        return TryNode(name, body, None, flow), after
    with_error = {**scope, "error": Slot(str, name)}
    fallback, end = compile_flow(flow.fallback, with_error, (*path, flow.child_number("fallback")), checker)
    return TryNode(name, body, fallback, flow), merge_scopes([after, end], name, path, checker)
