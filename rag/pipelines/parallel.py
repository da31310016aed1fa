"""Nodes made of other nodes: one after another, and side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from rag.pipelines.execution import Run, gather, side_by_side
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import Execution, traced

__all__ = ["Branches", "Chain", "Merge", "Whole"]


class Chain(Node):
    """Nodes one after another."""

    def __init__(self, nodes: list[Node]) -> None:
        self.name = "sequence"
        self.waits = any(n.waits for n in nodes)
        self.nodes = nodes

    def bind(self, resolve: Resolve) -> None:
        for node in self.nodes:
            node.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        for node in self.nodes:
            node.run(values, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        for node in self.nodes:
            node.run_batch(batch, run)

    async def arun(self, values: Channels, run: Run | None) -> None:
        for node in self.nodes:
            await node.arun(values, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        for node in self.nodes:
            yield from node.describe(depth)


@traced
class _Branch(Chain):
    """A chain among branches, which a trace tells from the others."""

    def __init__(self, name: str, nodes: list[Node]) -> None:
        super().__init__(nodes)
        self.name = name


class Whole(Node):
    """All of a pipeline: what a trace begins with."""

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.waits = node.waits
        self.node = node

    def bind(self, resolve: Resolve) -> None:
        self.node.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        if run is None:
            self.node.run(values, None)
        else:
            with Execution(run, self.name, "pipeline", [values], owner=self):
                self.node.run(values, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        if run is None:
            self.node.run_batch(batch, None)
        else:
            with Execution(run, self.name, "pipeline", batch, owner=self):
                self.node.run_batch(batch, run)

    async def arun(self, values: Channels, run: Run | None) -> None:
        if run is None:
            await self.node.arun(values, None)
        else:
            with Execution(run, self.name, "pipeline", [values], owner=self):
                await self.node.arun(values, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        return self.node.describe(depth)


@dataclass(frozen=True, slots=True)
class Merge:
    """What becomes of one channel after branches: the value of one branch, or a list with one value a branch.

    It goes to the channel `target`. `sources` are branch numbers (-1: the value from before them); `spread` says which
    of these hold a list already.
    """

    channel: str
    target: str
    sources: tuple[int, ...]
    spread: tuple[bool, ...]
    collect: bool


@traced
class Branches(Node):
    """Nodes side by side, each on a copy of the channels, and one merge of what they wrote."""

    def __init__(self, name: str, branches: list[Node], merges: list[Merge]) -> None:
        self.name = name
        self.branches = [
            _Branch(f"branch {i}", b.nodes) if isinstance(b, Chain) and len(b.nodes) > 1 else b
            for i, b in enumerate(branches, 1)
        ]
        self.merges = merges
        self.waits = any(b.waits for b in branches)
        self._together = sum(b.waits for b in branches) > 1  # one that waits gains nothing from company

    def bind(self, resolve: Resolve) -> None:
        for branch in self.branches:
            branch.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        copies = [dict(values) for _ in self.branches]
        if self._together:
            side_by_side([partial(b.run, c, run) for b, c in zip(self.branches, copies, strict=True)])
        else:
            for branch, copy in zip(self.branches, copies, strict=True):
                branch.run(copy, run)
        self._merge(values, copies)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        copies = [[dict(values) for values in batch] for _ in self.branches]
        if self._together:
            side_by_side([partial(b.run_batch, c, run) for b, c in zip(self.branches, copies, strict=True)])
        else:
            for branch, copy in zip(self.branches, copies, strict=True):
                branch.run_batch(copy, run)
        for i, values in enumerate(batch):
            self._merge(values, [copy[i] for copy in copies])

    async def arun(self, values: Channels, run: Run | None) -> None:
        copies = [dict(values) for _ in self.branches]
        if self._together:
            await gather([b.arun(c, run) for b, c in zip(self.branches, copies, strict=True)])
        else:
            for branch, copy in zip(self.branches, copies, strict=True):
                await branch.arun(copy, run)
        self._merge(values, copies)

    def describe(self, depth: int = 0) -> Iterator[str]:
        indent = "  " * depth
        for i, branch in enumerate(self.branches, 1):
            yield f"{indent}{self.name}, branch {i} of {len(self.branches)}:"
            yield from branch.describe(depth + 1)
        joined = [m.target for m in self.merges if m.collect]
        if joined:
            yield f"{indent}{self.name} leaves one value a branch in: {', '.join(joined)}"

    def _merge(self, values: Channels, copies: list[Channels]) -> None:
        for merge in self.merges:
            collected = []
            for source, spread in zip(merge.sources, merge.spread, strict=True):
                written = values if source < 0 else copies[source]
                if merge.channel not in written:
                    continue  # a route inside the branch went another way
                value = written[merge.channel]
                collected.extend(value) if spread and merge.collect else collected.append(value)
            if not merge.collect:
                if collected:
                    values[merge.target] = collected[0]
                continue
            values[merge.target] = collected
