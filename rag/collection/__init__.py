"""Documents, chunks and their indexes in one folder on disk."""

from rag.collection.collection import Collection, Info
from rag.collection.repair import Report
from rag.collection.writer import Fingerprint, Writer

__all__ = ["Collection", "Fingerprint", "Info", "Report", "Writer"]
