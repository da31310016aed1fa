"""Recursive flow: new questions grow out of the answers, level by level."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from rag.operators import Flow
from rag.pipelines.execution import Run, gather
from rag.pipelines.flows.composite import Composite
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import traced
from rag.pipelines.plan import Checker, Path, Scope, Slot, compile_flow
from rag.types import Query

__all__ = ["Recurse"]


class Recurse(Composite, form="recurse"):
    """Run `body` for the query, derive new queries from what it found, and go on with those (ToC, arXiv:2310.14696).

        Recurse(retrieve >> BuildContext() >> Generate(), derive=Clarify(), max_depth=2, max_nodes=12) >> Merge()

    `derive` ends in an operator that writes `queries`. A query that was asked already, by its words, is not asked
    again. Each level is one batch. Afterwards `queries` holds all that were asked, and every channel that the body
    wrote one value for each of them, to be read as a list.
    """

    body: Flow = Field(description="what runs for every query")
    derive: Flow = Field(description="what writes the next `queries`, after the body")
    max_depth: int = Field(2, ge=0, le=20, description="levels below the first query")
    max_nodes: int = Field(16, ge=1, le=1000, description="queries that are asked in all")

    def __init__(self, body: Flow, derive: Flow, *, max_depth: int = 2, max_nodes: int = 16) -> None:
        super().__init__(body=body, derive=derive, max_depth=max_depth, max_nodes=max_nodes)


@traced
class RecurseNode(Node):
    """Goes down a tree of queries breadth first."""

    def __init__(self, name: str, body: Node, derive: Node, written: list[str], flow: Recurse) -> None:
        self.name = name
        self.body, self.derive = body, derive
        self.written = written
        self.max_depth, self.max_nodes = flow.max_depth, flow.max_nodes
        self.waits = body.waits or derive.waits

    def bind(self, resolve: Resolve) -> None:
        self.body.bind(resolve)
        self.derive.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        tree = _Tree(values, self.max_nodes)
        for depth in range(self.max_depth + 1):
            level = tree.next_level()
            if not level:
                break
            self.body.run_batch(level, run)
            if depth < self.max_depth and not tree.full:
                self.derive.run_batch(level, run)
                tree.grow(level)
        self._collect(values, tree, run)

    async def arun(self, values: Channels, run: Run | None) -> None:
        tree = _Tree(values, self.max_nodes)
        for depth in range(self.max_depth + 1):
            level = tree.next_level()
            if not level:
                break
            await gather([self.body.arun(node, run) for node in level])
            if depth < self.max_depth and not tree.full:
                await gather([self.derive.arun(node, run) for node in level])
                tree.grow(level)
        self._collect(values, tree, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        for values in batch:
            self.run(values, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        indent = "  " * depth
        yield f"{indent}{self.name}, {self.max_depth} levels and {self.max_nodes} queries at most:"
        yield from self.body.describe(depth + 1)
        yield f"{indent}{self.name} goes on with:"
        yield from self.derive.describe(depth + 1)

    def _collect(self, values: Channels, tree: _Tree, run: Run | None) -> None:
        if run is not None:
            run.note(self.name, f"asked {len(tree.visited)} queries")
        for channel in self.written:
            values[channel] = [node[channel] for node in tree.visited if channel in node]
        values["queries"] = [node["query"] for node in tree.visited]


class _Tree:
    """The queries asked so far and those to ask next."""

    def __init__(self, values: Channels, max_nodes: int) -> None:
        self.start = values
        self.max_nodes = max_nodes
        self.visited: list[Channels] = []
        self.waiting: list[Query] = [values["query"]]
        self.known = {_key(values["query"])}

    @property
    def full(self) -> bool:
        return len(self.visited) >= self.max_nodes

    def next_level(self) -> list[Channels]:
        room = self.max_nodes - len(self.visited)
        level = [{**self.start, "query": query} for query in self.waiting[:room]]
        self.visited.extend(level)
        self.waiting = []
        return level

    def grow(self, level: list[Channels]) -> None:
        for node in level:
            for query in node["queries"]:
                if _key(query) not in self.known:
                    self.known.add(_key(query))
                    self.waiting.append(query)


def _key(query: Query) -> str:
    return " ".join(query.text.casefold().split()).rstrip("?.! ")


@compile_flow.register
def _compile(flow: Recurse, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    name = checker.name("recurse")
    first = scope.get("query")
    checker.read(first)
    if first is None or not first.sure or first.spread or first.type is not Query:
        checker.problem(
            name, path, "there is no channel 'query' with one query to begin with", "make it an input of the pipeline"
        )
    body, after = compile_flow(flow.body, scope, (*path, flow.child_number("body")), checker)
    derive, derived = compile_flow(flow.derive, after, (*path, flow.child_number("derive")), checker)
    queries = derived.get("queries")
    checker.read(queries)
    if queries is None or queries is after.get("queries") or queries.type != list[Query] or not queries.sure:
        checker.problem(name, path, "its `derive` does not write the channel 'queries'", "take an operator that does")
    if flow.max_depth == 0 or flow.max_nodes == 1:
        bound = "max_depth is 0" if flow.max_depth == 0 else "max_nodes is 1"
        checker.warn(name, path, f"its `derive` never runs, since {bound}", "raise it, or use the body alone")
    end = dict(scope)
    written = []
    for channel, slot in after.items():
        if slot is scope.get(channel) or channel in checker.inputs:
            continue
        if slot.spread:
            checker.problem(
                name, path, f"its body leaves several values in channel {channel!r}", "join them inside the body"
            )
        written.append(channel)
        end[channel] = Slot(slot.type, name, spread=True, writes=slot.writes)
    end["queries"] = Slot(list[Query], name)
    return RecurseNode(name, body, derive, written, flow), end
