"""Conditional flow: one of several, chosen for each item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import Field

from rag.errors import OperatorError, did_you_mean
from rag.operators import Flow
from rag.pipelines.execution import Run
from rag.pipelines.flows.composite import Composite
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.observe import traced
from rag.pipelines.plan import Checker, Path, Scope, compile_flow, merge_scopes

__all__ = ["Route"]


class Route(Composite, form="route"):
    """Run one of several flows, the one that the router names (Modular RAG, arXiv:2407.21059, conditional pattern).

        Route(ByKeywords(...), simple=answer, multi_hop=loop, default="simple")

    `by` is an operator, or a flow that ends in one, that writes the channel `route`. What it names decides; a name that
    is no flow goes to `default`, and is an error when there is none. Afterwards a channel is there for certain when
    every flow writes it. In a batch each item takes its own way, and items that take the same way stay together.
    """

    by: Flow = Field(description="what writes the channel `route`")
    flows: dict[str, Flow] = Field(description="the ways, by name", min_length=1)
    default: str | None = Field(None, description="the way to take when the router names none of them")

    def __init__(
        self, by: Flow, flows: dict[str, Flow] | None = None, *, default: str | None = None, **named: Flow
    ) -> None:
        super().__init__(by=by, flows={**(flows or {}), **named}, default=default)


@traced
class RouteNode(Node):
    """Runs the router, then the node that it names."""

    def __init__(self, name: str, by: Node, ways: dict[str, Node], default: str | None) -> None:
        self.name = name
        self.by = by
        self.ways = ways
        self.default = default
        self.waits = by.waits or any(way.waits for way in ways.values())

    def bind(self, resolve: Resolve) -> None:
        for node in (self.by, *self.ways.values()):
            node.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        self.by.run(values, run)
        self._way(values, run).run(values, run)

    async def arun(self, values: Channels, run: Run | None) -> None:
        await self.by.arun(values, run)
        await self._way(values, run).arun(values, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        self.by.run_batch(batch, run)
        together: dict[Node, list[Channels]] = {}
        for values in batch:
            together.setdefault(self._way(values, run), []).append(values)
        for way, items in together.items():
            way.run_batch(items, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        yield from self.by.describe(depth)
        for key, way in self.ways.items():
            yield f"{'  ' * depth}{self.name}, when {key!r}" + (" or none of them:" if key == self.default else ":")
            yield from way.describe(depth + 1)

    def _way(self, values: Channels, run: Run | None) -> Node:
        route = values["route"]
        taken = route if route in self.ways else self.default
        if taken is None:
            error = OperatorError(
                f"the router names {route!r}, which is no way; there are {', '.join(self.ways)}",
                hint="give the route a default",
            )
            error.node = self.name
            raise error
        if run is not None:
            instead = "" if route == taken else f", since there is no {route!r}"
            run.note(self.name, f"took {taken!r}{instead}", route=taken)
        return self.ways[taken]


@compile_flow.register
def _compile(flow: Route, scope: Scope, path: Path, checker: Checker) -> tuple[Node, Scope]:
    name = checker.name("route")
    by, scope = compile_flow(flow.by, scope, (*path, flow.child_number("by")), checker)
    slot = scope.get("route")
    checker.read(slot)
    if slot is None:
        checker.problem(name, path, "its router does not write the channel 'route'", "take one that does")
    elif slot.spread:
        message = "its router leaves one value a branch in the channel 'route'"
        checker.problem(name, path, message, "route with a single operator, or join the branches first")
    elif not slot.sure:
        message = f"the channel 'route' is not there on every way through its router: {slot.writer!r} may not run"
        checker.problem(name, path, message, "write it on every way")
    else:
        _check_names(flow, slot.type, name, path, checker)
    if flow.default is not None and flow.default not in flow.flows:
        checker.problem(
            name, path, f"its default {flow.default!r} is none of its ways", did_you_mean(flow.default, flow.flows)
        )
    ways, ends = {}, []
    for key, way in flow.flows.items():
        ways[key], end = compile_flow(way, scope, (*path, flow.child_number("flows", key)), checker)
        ends.append(end)
    return RouteNode(name, by, ways, flow.default), merge_scopes(ends, name, path, checker)


def _check_names(flow: Route, kind: Any, name: str, path: Path, checker: Checker) -> None:
    """When the router's type lists what it may name, every name needs a way and every way a name."""
    if get_origin(kind) is not Literal:
        return
    names = set(get_args(kind))
    missing = sorted(names - set(flow.flows))
    if missing and flow.default is None:
        checker.problem(
            name, path, f"its router may name {', '.join(missing)}, which is no way", "add it, or a default"
        )
    reached = names | ({flow.default} if missing else set())
    for unreachable in sorted(set(flow.flows) - reached):
        hint = f"it names {', '.join(sorted(names))}"
        if unreachable == flow.default:
            hint += ", and each of these has a way of its own: leave the default out"
        checker.problem(name, path, f"its router never names {unreachable!r}", hint)
