"""Knowledge graphs as a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.graphs.knowledge import KnowledgeGraph
from rag.graphs.statements import Statements
from rag.index.tensors import Tensors, read_tensors, write_tensors

__all__ = ["load_graph", "save_graph"]

FORMAT = 1
_COLUMNS = ("subjects", "relations", "objects", "weights", "sources", "spans")


def save_graph(graph: KnowledgeGraph, path: Path) -> None:
    """Write a graph, completely or not at all: nodes that are there, renumbered in their order, and all statements.

    Raises CollectionError when that cannot be done.
    """
    live = graph.nodes()
    numbers = np.full(int(live.max()) + 1 if len(live) else 0, -1, np.int32)
    numbers[live] = np.arange(len(live), dtype=np.int32)
    stated = graph.statements()
    nodes = [graph.at(number) for number in live.tolist()]
    kinds = sorted({node.kind for node in nodes})
    tensors: Tensors = dict(zip(_COLUMNS, stated.columns(), strict=True))
    tensors |= {"subjects": numbers[stated.subjects], "objects": numbers[stated.objects]}
    tensors["kinds"] = np.array([kinds.index(node.kind) for node in nodes], np.int32)
    tensors |= _packed("names", [node.name for node in nodes])
    tensors |= _packed("attributes", [json.dumps(dict(node.attributes)) if node.attributes else "" for node in nodes])
    tensors["kept"] = np.array([graph.is_kept(number) for number in live.tolist()], np.bool_)
    head = {"format": FORMAT, "kinds": kinds, "relations": list(graph.relations)}
    write_tensors(path, {name: np.ascontiguousarray(part) for name, part in tensors.items()}, "graph", head)


def load_graph(path: Path) -> KnowledgeGraph:
    """Read a graph, checking that it is whole; NotFoundError, DamagedFileError, CollectionError for a newer format."""
    return read_tensors(path, "graph", "knowledge graph", FORMAT, "rag graph build", _graph)


def _graph(head: Mapping[str, Any], tensors: Tensors) -> KnowledgeGraph:
    graph = KnowledgeGraph()
    kinds = [str(kind) for kind in head["kinds"]]
    names, attributes = _unpacked("names", tensors), _unpacked("attributes", tensors)
    for at, (kind, name, own) in enumerate(zip(tensors["kinds"].tolist(), names, attributes, strict=True)):
        if graph.node(kinds[kind], name, **(json.loads(own) if own else {})) != at:
            raise ValueError(f"node {at} is there twice")
        if tensors["kept"][at]:
            graph.keep(at)
    for name in head["relations"]:
        graph.relation(str(name))
    graph.extend(Statements.of(*(tensors[name] for name in _COLUMNS)))
    return graph


def _packed(name: str, texts: Sequence[str]) -> Tensors:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *(len(text) for text in encoded)]).astype(np.int64)
    return {name: np.frombuffer(b"".join(encoded), np.uint8), f"{name}.offsets": offsets}


def _unpacked(name: str, tensors: Tensors) -> list[str]:
    content: bytes = tensors[name].tobytes()
    offsets: NDArray[np.int64] = tensors[f"{name}.offsets"]
    return [content[a:b].decode() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
