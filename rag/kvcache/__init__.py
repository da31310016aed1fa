"""Keys and values of prompt segments, kept between requests and put together at new positions."""

from rag.kvcache.disk import DiskStore
from rag.kvcache.folder import open_store
from rag.kvcache.manager import KVCacheManager, Prefilled
from rag.kvcache.memory import MemoryStore
from rag.kvcache.quality import Agreement, Quality, Recompute
from rag.kvcache.rehearsal import rehearsals_of
from rag.kvcache.report import Report, SegmentReport
from rag.kvcache.segments import Segment
from rag.kvcache.store import SegmentStates, StateKey, StateStore
from rag.kvcache.strategies import CacheBlend, CacheCraft, First, Full, Naive, Prefix, Share, Strategy
from rag.kvcache.tiers import TieredStore

__all__ = [
    "Agreement",
    "CacheBlend",
    "CacheCraft",
    "DiskStore",
    "First",
    "Full",
    "KVCacheManager",
    "MemoryStore",
    "Naive",
    "Prefilled",
    "Prefix",
    "Quality",
    "Recompute",
    "Report",
    "Segment",
    "SegmentReport",
    "SegmentStates",
    "Share",
    "StateKey",
    "StateStore",
    "Strategy",
    "TieredStore",
    "open_store",
    "rehearsals_of",
]
