"""A pipeline as a part of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rag.pipelines.execution import Run
from rag.pipelines.memo import Memo
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import traced
from rag.pipelines.step import Argument

__all__ = ["NestedNode", "remembering"]


@traced
class NestedNode(Node):
    """Runs a plan on channels of its own: it gets its inputs, and what it wrote goes back.

    So a pipeline gives in a flow what it gives alone, whatever else is there. `takes` says where each of its inputs
    comes from, `gives` are the channels that it may write. Resources that it has are its own, others the outer one's.
    """

    def __init__(
        self,
        name: str,
        body: Node,
        takes: Mapping[str, Argument],
        gives: Sequence[str],
        resources: Mapping[str, Any],
        memos: Sequence[Memo],
    ) -> None:
        self.name = name
        self.body = body
        self.waits = body.waits
        self.takes, self.gives = takes, gives
        self.resources = resources
        self.memos = memos

    def bind(self, resolve: Resolve) -> None:
        from rag.pipelines.resources import resolver  # collections and models are not needed to check

        self.body.bind(resolver(self.resources, outer=resolve))

    def run(self, values: Channels, run: Run | None) -> None:
        inner = self._enter(values)
        self.body.run(inner, remembering(run, self.memos))
        self._leave(values, inner)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        inner = [self._enter(values) for values in batch]
        self.body.run_batch(inner, remembering(run, self.memos))
        for values, written in zip(batch, inner, strict=True):
            self._leave(values, written)

    async def arun(self, values: Channels, run: Run | None) -> None:
        inner = self._enter(values)
        await self.body.arun(inner, remembering(run, self.memos))
        self._leave(values, inner)

    def describe(self, depth: int = 0) -> Iterator[str]:
        own = f", with its own {', '.join(self.resources)}" if self.resources else ""
        yield f"{'  ' * depth}{self.name}, a pipeline{own}:"
        yield from self.body.describe(depth + 1)

    def _enter(self, values: Channels) -> Channels:
        inner = {}
        for channel, source in self.takes.items():
            if source.channel in values:
                value = values[source.channel]
                inner[channel] = [value] if source.wrap else value
        return inner

    def _leave(self, values: Channels, inner: Channels) -> None:
        values.update({channel: inner[channel] for channel in self.gives if channel in inner})


def remembering(run: Run | None, memos: Sequence[Memo]) -> Run | None:
    """An observer that also has these memos; the same one when there are none."""
    if not memos:
        return run
    if run is None:
        return Run(memos=memos)
    inner = run.inner()
    inner.memos += tuple(memos)
    return inner
