"""Many vectors a document, one for each token: stores of them and the search by late interaction."""

from rag.index.multivector.carving import carve
from rag.index.multivector.store import TOKEN_CODECS, TokenCodec, TokenMatches, TokenStats, TokenStore

__all__ = ["TOKEN_CODECS", "TokenCodec", "TokenMatches", "TokenStats", "TokenStore", "carve"]
