"""Indexes of the native engine: vectors (what they offer is `VectorIndex`) and words."""

from rag.index.filter import IdFilter
from rag.index.graph import GraphIndex, GraphStats
from rag.index.hybrid import search_hybrid
from rag.index.lexical import LexicalIndex, merge_lexical, search_lexical
from rag.index.merge import merge_matches
from rag.index.native import CODECS, Codec, ScanStats
from rag.index.opening import open_index
from rag.index.protocol import Matches, Metric, VectorIndex
from rag.index.reduction import Reduction
from rag.index.scan import ScanIndex

__all__ = [
    "CODECS",
    "Codec",
    "GraphIndex",
    "GraphStats",
    "IdFilter",
    "LexicalIndex",
    "Matches",
    "Metric",
    "Reduction",
    "ScanIndex",
    "ScanStats",
    "VectorIndex",
    "merge_lexical",
    "merge_matches",
    "open_index",
    "search_hybrid",
    "search_lexical",
]
