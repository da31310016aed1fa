"""Vector indexes: what they offer (`VectorIndex`) and those of the native engine."""

from rag.index.merge import merge_matches
from rag.index.protocol import Matches, Metric, VectorIndex
from rag.index.scan import Codec, ScanIndex, ScanStats

__all__ = ["Codec", "Matches", "Metric", "ScanIndex", "ScanStats", "VectorIndex", "merge_matches"]
