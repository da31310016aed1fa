"""Fewer keys and values that stand for all of a prompt's."""

from rag.kvcache.compress.cache import compress_cache, compressible
from rag.kvcache.compress.codecs import CODECS, D2O, EMS, Codec, Evict, KVMerger, as_codec, importance
from rag.kvcache.compress.groups import Compressed
from rag.kvcache.compress.packed import PackedStates, pack

__all__ = [
    "CODECS",
    "D2O",
    "EMS",
    "Codec",
    "Compressed",
    "Evict",
    "KVMerger",
    "PackedStates",
    "as_codec",
    "compress_cache",
    "compressible",
    "importance",
    "pack",
]
