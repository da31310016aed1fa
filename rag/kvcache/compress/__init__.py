"""Fewer keys and values that stand for all of a prompt's."""

from rag.kvcache.compress.cache import compress_cache, compressible
from rag.kvcache.compress.codecs import CODECS, D2O, EMS, Codec, Evict, KVMerger, as_codec, importance
from rag.kvcache.compress.groups import Compressed

__all__ = [
    "CODECS",
    "D2O",
    "EMS",
    "Codec",
    "Compressed",
    "Evict",
    "KVMerger",
    "as_codec",
    "compress_cache",
    "compressible",
    "importance",
]
