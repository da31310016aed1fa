"""Documents, chunks and their indexes in one folder on disk."""

from rag.collection.collection import Collection
from rag.collection.info import Info, SegmentInfo, TokensInfo
from rag.collection.late import TokenMatch
from rag.collection.repair import Report
from rag.collection.rows import Fingerprint
from rag.collection.writer import Writer

__all__ = ["Collection", "Fingerprint", "Info", "Report", "SegmentInfo", "TokenMatch", "TokensInfo", "Writer"]
