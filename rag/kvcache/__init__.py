"""Keys and values of prompt segments, kept between requests and put together at new positions."""

from rag.kvcache.manager import KVCacheManager, Prefilled
from rag.kvcache.rehearsal import rehearsals_of
from rag.kvcache.report import Report, SegmentReport
from rag.kvcache.segments import Segment
from rag.kvcache.store import MemoryStore, SegmentStates, StateKey, StateStore
from rag.kvcache.strategies import CacheBlend, CacheCraft, First, Full, Naive, Prefix, Share, Strategy

__all__ = [
    "CacheBlend",
    "CacheCraft",
    "First",
    "Full",
    "KVCacheManager",
    "MemoryStore",
    "Naive",
    "Prefilled",
    "Prefix",
    "Report",
    "Segment",
    "SegmentReport",
    "SegmentStates",
    "Share",
    "StateKey",
    "StateStore",
    "Strategy",
    "rehearsals_of",
]
