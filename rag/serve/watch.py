"""Looking into a pipeline: its plan as a tree that can be drawn, and the values that its nodes write, in brief."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rag.operators.registry import short_name
from rag.pipelines import Pipeline
from rag.pipelines.node import Node
from rag.pipelines.parallel import Branches, Chain
from rag.pipelines.step import Step
from rag.serve.show import as_json
from rag.types import Hits

__all__ = ["brief", "plan_tree"]


def plan_tree(pipeline: Pipeline) -> dict[str, Any]:
    """The compiled plan as JSON: a tree of `sequence`, `parallel`, `operator`, and flows with labelled parts.

    The names are those that events and traces use.
    """
    return _tree(pipeline.plan.root)


def _parts(node: Node) -> Iterator[tuple[str, str | None, Node]]:
    """The nodes inside a node: the attribute that holds it, the key in that attribute if it is a mapping, the node."""
    for attribute, value in vars(node).items():
        if isinstance(value, Node):
            yield attribute, None, value
        elif isinstance(value, list):
            yield from ((attribute, None, item) for item in value if isinstance(item, Node))
        elif isinstance(value, dict):
            yield from ((attribute, key, item) for key, item in value.items() if isinstance(item, Node))


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
        {"field": attribute, "label": key or attribute, "node": _tree(part)} for attribute, key, part in _parts(node)
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
