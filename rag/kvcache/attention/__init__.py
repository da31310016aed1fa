"""Attention over keys that are weighted, or searched for, and what was seen of attention while a prompt was read."""

from rag.kvcache.attention.cache import search_cache
from rag.kvcache.attention.interface import attending
from rag.kvcache.attention.observe import Observation, Observed, Received, observing, received
from rag.kvcache.attention.partial import Logits, Partial, attend_to, joined
from rag.kvcache.attention.retrievers import RETRIEVERS, IndexRetriever, PageRetriever, Retriever

__all__ = [
    "RETRIEVERS",
    "IndexRetriever",
    "Logits",
    "Observation",
    "Observed",
    "PageRetriever",
    "Partial",
    "Received",
    "Retriever",
    "attend_to",
    "attending",
    "joined",
    "observing",
    "received",
    "search_cache",
]
