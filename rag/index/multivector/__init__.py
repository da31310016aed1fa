"""Many vectors a document, one for each token: stores of them and the search by late interaction."""

from rag.index.multivector.budget import CandidateCurve
from rag.index.multivector.carving import carve
from rag.index.multivector.fde import FixedDimensionalEncoding
from rag.index.multivector.index import MultiVectorIndex, MultiVectorStats
from rag.index.multivector.store import TOKEN_CODECS, TokenCodec, TokenMatches, TokenStats, TokenStore

__all__ = [
    "TOKEN_CODECS",
    "CandidateCurve",
    "FixedDimensionalEncoding",
    "MultiVectorIndex",
    "MultiVectorStats",
    "TokenCodec",
    "TokenMatches",
    "TokenStats",
    "TokenStore",
    "carve",
]
