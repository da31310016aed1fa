"""A flow for every item of a list: sub-queries, chunks, the values that branches left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import Field

from rag.operators import Flow
from rag.operators.signature import STANDARD_CHANNELS, show_type
from rag.pipelines.execution import Run, gather
from rag.pipelines.flows.composite import Composite
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import traced
from rag.pipelines.plan import Checker, Path, Scope, Slot, compile_flow
from rag.types import Hits

__all__ = ["Each"]


class Each(Composite, form="each"):
    """Run `body` once for every item of the channel `over` (Modular RAG, arXiv:2407.21059, branching pattern).

        MultiQuery() >> Each(Dense(k=50)) >> Fuse()                              # one ranking for each question
        Dense(k=5) >> Each(BuildContext() >> Generate(), over="hits") >> Merge()  # one answer for each chunk

    The body sees the item in the channel `item`: `query` for `queries`, and so on; for `hits` it is hits with one row.
    All items run as one batch. Afterwards every channel that the body wrote holds one value an item, to be read as a
    list, and the pipeline's inputs are as they were.
    """

    body: Flow = Field(description="what runs for every item")
    over: str = Field("queries", description="channel with the items: a list, hits, or what branches left")
    item: str | None = Field(
        None, description="channel in which the body finds its item; by the item's type if left out"
    )
    at_most: int = Field(64, ge=1, le=10_000, description="items at most; further ones are left out")

    def __init__(self, body: Flow, *, over: str = "queries", item: str | None = None, at_most: int = 64) -> None:
        super().__init__(body=body, over=over, item=item, at_most=at_most)


@traced
class EachNode(Node):
    """Splits a channel, runs its body on all items of all states as one batch, collects what it wrote."""

    def __init__(self, name: str, body: Node, over: str, item: str, written: list[str], at_most: int) -> None:
        self.name = name
        self.body = body
        self.over, self.item = over, item
        self.written = written
        self.at_most = at_most
        self.waits = body.waits

    def bind(self, resolve: Resolve) -> None:
        self.body.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        self.run_batch([values], run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        split = [self._split(values, run) for values in batch]
        together = [copy for copies in split for copy in copies]
        if together:
            self.body.run_batch(together, run)
        for values, copies in zip(batch, split, strict=True):
            self._collect(values, copies)

    async def arun(self, values: Channels, run: Run | None) -> None:
        copies = self._split(values, run)
        await gather([self.body.arun(copy, run) for copy in copies])
        self._collect(values, copies)

    def describe(self, depth: int = 0) -> Iterator[str]:
        yield f"{'  ' * depth}{self.name} {self.item} of {self.over}, at most {self.at_most}:"
        yield from self.body.describe(depth + 1)

    def _split(self, values: Channels, run: Run | None) -> list[Channels]:
        items: Any = values[self.over]
        count = min(len(items), self.at_most)
        if run is not None:
            left_out = f", {len(items) - count} left out" if count < len(items) else ""
            run.note(self.name, f"{count} items{left_out}")
        if isinstance(items, Hits):
            parts: list[Any] = [items.take(slice(row, row + 1)) for row in range(count)]
        else:
            parts = list(items[:count])
        return [{**values, self.item: part} for part in parts]

    def _collect(self, values: Channels, copies: list[Channels]) -> None:
        for channel in self.written:
            values[channel] = [copy[channel] for copy in copies if channel in copy]


@compile_flow.register
def _compile(flow: Each, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    name = checker.name("each")
    item, kind = _item(flow, scope, name, path, checker)
    inner = {**scope, item: Slot(kind, name)}
    body, after = compile_flow(flow.body, inner, (*path, flow.child_number("body")), checker)
    end = dict(scope)
    written = []
    for channel, slot in after.items():
        if slot is inner.get(channel) or channel in checker.inputs:
            continue  # inputs of the pipeline are as they were, as after branches
        if slot.spread:
            checker.problem(
                name,
                path,
                f"its body leaves several values in channel {channel!r}",
                "join them inside the body",
            )
        written.append(channel)
        end[channel] = Slot(slot.type, name, spread=True, writes=slot.writes)
    return EachNode(name, body, flow.over, item, written, flow.at_most), end


def _item(flow: Each, scope: Scope, name: str, path: Path, checker: Checker) -> tuple[str, Any]:
    """The channel and type in which the body finds its item."""
    slot = scope.get(flow.over)
    checker.read(slot)
    if slot is None or not slot.sure:
        checker.problem(
            name, path, f"there is no channel {flow.over!r} to go over", "put an operator before that writes it"
        )
        return flow.item or flow.over, Any
    if slot.spread or slot.type is Hits:
        return flow.item or flow.over, slot.type
    if get_origin(slot.type) is not list:
        checker.problem(name, path, f"channel {flow.over!r} holds {show_type(slot.type)}, not a list", "go over a list")
        return flow.item or flow.over, Any
    kind = get_args(slot.type)[0]
    usual = next((channel for channel, known in STANDARD_CHANNELS.items() if known == kind), None)
    if flow.item is None and usual is None:
        message = f"it is not clear which channel an item of {flow.over!r} ({show_type(kind)}) goes to"
        checker.problem(name, path, message, "name it: item=")
    return flow.item or usual or flow.over, kind
