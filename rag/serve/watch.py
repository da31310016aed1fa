"""Looking into a pipeline: its plan as a tree that can be drawn, and what each of its nodes writes as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rag.operators import Sequence
from rag.operators.registry import short_name
from rag.pipelines import Pipeline, Run
from rag.pipelines.node import Channels, Node, Resolve
from rag.pipelines.parallel import Branches, Chain
from rag.pipelines.step import Step
from rag.serve.show import as_json
from rag.types import Hits

__all__ = ["Wrote", "brief", "plan_tree", "watched"]


@dataclass(frozen=True, slots=True)
class Wrote:
    """An event of a watched run: the values that a node wrote, by channel."""

    node: str
    values: dict[str, Any]


def plan_tree(pipeline: Pipeline) -> dict[str, Any]:
    """The compiled plan as JSON: a tree of `sequence`, `parallel`, `operator`, and flows with labelled parts.

    The names are those that events and traces use.
    """
    return _tree(pipeline.plan.root)


def watched(pipeline: Pipeline) -> Pipeline:
    """The same pipeline, sharing its resources; its observed runs emit `Wrote` after every operator."""
    twin = Pipeline(
        Sequence((pipeline.runs_as,)),  # so that even a single operator stands in a node whose parts can be replaced
        resources=pipeline.resources,
        cache=pipeline.cache,
        rewrite=False,
        inputs=pipeline.inputs,
        name=pipeline.name,
        description=pipeline.description,
    )
    _watch(twin.plan.root)
    return twin


class _Watched(Node):
    """Runs one step, and tells what it wrote."""

    def __init__(self, step: Step) -> None:
        self.name = step.name
        self.waits = step.waits
        self._step = step

    def bind(self, resolve: Resolve) -> None:
        self._step.bind(resolve)

    def run(self, values: Channels, run: Run | None) -> None:
        self._step.run(values, run)
        self._tell(values, run)

    def run_batch(self, batch: list[Channels], run: Run | None) -> None:
        self._step.run_batch(batch, run)
        for values in batch:
            self._tell(values, run)

    async def arun(self, values: Channels, run: Run | None) -> None:
        await self._step.arun(values, run)
        self._tell(values, run)

    def describe(self, depth: int = 0) -> Iterator[str]:
        return self._step.describe(depth)

    def _tell(self, values: Channels, run: Run | None) -> None:
        if run is not None:
            written = {w.channel: values[w.channel] for w in self._step.operator.signature().writes}
            run.emit(Wrote(self.name, written))  # type: ignore[arg-type]


def _parts(node: Node) -> Iterator[tuple[str, Any, Node]]:
    """The nodes inside a node: the attribute that holds it, the key in that attribute, the node."""
    for attribute, value in vars(node).items():
        if isinstance(value, Node):
            yield attribute, None, value
        elif isinstance(value, list | dict):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(item, Node):
                    yield attribute, key, item


def _watch(node: Node) -> None:
    for attribute, key, part in list(_parts(node)):
        if not isinstance(part, Step):
            _watch(part)
        elif key is None:
            setattr(node, attribute, _Watched(part))
        else:
            getattr(node, attribute)[key] = _Watched(part)


def _tree(node: Node) -> dict[str, Any]:
    if isinstance(node, Step):
        operator, signature = node.operator, node.operator.signature()
        return {
            "kind": "operator",
            "name": node.name,
            "operator": type(operator).operator_name,
            "title": short_name(type(operator)),
            "summary": (type(operator).__doc__ or "").strip().split("\n", 1)[0],
            "settings": operator.settings(),
            "reads": [read.channel for read in signature.reads],
            "writes": [write.channel for write in signature.writes],
            "needs": [need.channel for need in signature.resources],
        }
    if isinstance(node, Chain | Branches):
        kind = "sequence" if isinstance(node, Chain) else "parallel"
        return {"kind": kind, "name": node.name, "children": [_tree(part) for _, _, part in _parts(node)]}
    parts = [
        {"field": attribute, "label": attribute if key is None else str(key), "node": _tree(part)}
        for attribute, key, part in _parts(node)
    ]
    kind = type(node).__name__.removesuffix("Node").lower()
    return {"kind": kind, "name": node.name, "about": next(node.describe(), "").strip(), "parts": parts}


def brief(value: Any, hits: int = 10) -> Any:
    """A channel's value as JSON for a person to look at: of many hits the first, with how many there are."""
    if isinstance(value, Hits):
        return {"total": len(value), "hits": as_json(value.top(hits))}
    if isinstance(value, list) and value and all(isinstance(v, Hits) for v in value):
        return [brief(v, 3) for v in value]
    return as_json(value)
