"""Knowledge graphs: build, resolve, embed, walk, query."""

from rag.graphs.exchange import export, from_networkx, to_networkx
from rag.graphs.files import load_graph, save_graph
from rag.graphs.knowledge import Edges, KnowledgeGraph, Node
from rag.graphs.statements import NO_SOURCE, Statements
from rag.graphs.walks import Neighbourhood, Ranked, neighbourhood, pagerank, rank

__all__ = [
    "NO_SOURCE",
    "Edges",
    "KnowledgeGraph",
    "Neighbourhood",
    "Node",
    "Ranked",
    "Statements",
    "export",
    "from_networkx",
    "load_graph",
    "neighbourhood",
    "pagerank",
    "rank",
    "save_graph",
    "to_networkx",
]
