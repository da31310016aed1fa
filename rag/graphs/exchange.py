"""Knowledge graphs to networkx and back, and to files that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import ConfigError, InputError, did_you_mean
from rag.graphs.knowledge import KnowledgeGraph

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["FORMATS", "export", "from_networkx", "to_networkx"]

FORMATS = ("graphml", "json")


def to_networkx(graph: KnowledgeGraph) -> nx.MultiDiGraph:
    """The nodes that are there by their numbers, with `kind`, `name` and their attributes, and the edges, each under
    its relation, with `relation`, `weight` and `count`, how many statements say so."""
    import networkx as nx

    made = nx.MultiDiGraph()
    for number in graph.nodes().tolist():
        node = graph.at(number)
        made.add_node(number, **{**node.attributes, "kind": node.kind, "name": node.name})
    edges = graph.edges()
    names = graph.relations
    columns = (edges.subjects, edges.relations, edges.objects, edges.weights, edges.counts)
    for subject, relation, target, weight, count in zip(*(column.tolist() for column in columns), strict=True):
        name = names[relation]
        made.add_edge(subject, target, key=name, relation=name, weight=weight, count=count)
    return made


def from_networkx(other: nx.Graph[Any], *, kind: str = "entity", relation: str = "related") -> KnowledgeGraph:
    """A knowledge graph of any networkx graph; its edges have no source, undirected ones lead one way.

    Nodes are of the kind that their attribute `kind` tells, else of `kind`, and named by `name`, else by what they are
    in that graph; edges have the relation and weight of their attributes, else `relation` and 1. Nodes without edges
    are kept. Raises InputError for two nodes of one kind and name, and for weights that are no numbers.
    """
    graph = KnowledgeGraph()
    numbers: dict[Any, int] = {}
    for key, attributes in other.nodes(data=True):
        own = dict(attributes)
        of, name = str(own.pop("kind", kind)), str(own.pop("name", key))
        if graph.find(of, name) is not None:
            raise InputError(f"two nodes are of kind {of!r} and have the name {name!r}", hint="rename one")
        numbers[key] = graph.node(of, name, **own)
        graph.keep(numbers[key])
    by_relation: dict[str, tuple[list[int], list[int], list[float]]] = {}
    for subject, target, attributes in other.edges(data=True):
        subjects, targets, weights = by_relation.setdefault(str(attributes.get("relation", relation)), ([], [], []))
        try:
            weights.append(float(attributes.get("weight", 1)))
        except (TypeError, ValueError):
            raise InputError(f"the edge from {subject!r} to {target!r} weighs {attributes['weight']!r}") from None
        subjects.append(numbers[subject])
        targets.append(numbers[target])
    for name, (subjects, targets, weights) in by_relation.items():
        graph.add(subjects, name, targets, weights)
    return graph


def export(graph: KnowledgeGraph, path: str | Path, format: str | None = None) -> None:
    """Write a graph for other programs: `graphml` (Gephi, yEd, igraph) or `json` (node-link, for networkx and D3).

    The ending of the file's name tells the format where none is given. Attributes that GraphML has no type for are
    written as JSON. Raises ConfigError for an unknown format.
    """
    import networkx as nx

    file = Path(path)
    format = format or file.suffix.lstrip(".").lower()
    if format not in FORMATS:
        raise ConfigError(f"graphs are not written as {format!r}", hint=did_you_mean(format, FORMATS))
    made = to_networkx(graph)
    if format == "json":
        file.write_text(json.dumps(nx.node_link_data(made, edges="edges"), ensure_ascii=False), encoding="utf-8")
        return
    for _, attributes in made.nodes(data=True):
        for name, value in attributes.items():
            if not isinstance(value, str | int | float):
                attributes[name] = json.dumps(value, ensure_ascii=False)
    nx.write_graphml(made, file)
