"""Indexes of the native engine: vectors (what they offer is `VectorIndex`) and words."""

from rag.index.lexical import LexicalIndex, merge_lexical, search_lexical
from rag.index.merge import merge_matches
from rag.index.protocol import Matches, Metric, VectorIndex
from rag.index.scan import CODECS, Codec, ScanIndex, ScanStats

__all__ = [
    "CODECS",
    "Codec",
    "LexicalIndex",
    "Matches",
    "Metric",
    "ScanIndex",
    "ScanStats",
    "VectorIndex",
    "merge_lexical",
    "merge_matches",
    "search_lexical",
]
