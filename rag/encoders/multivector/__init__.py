"""Encoders of token vectors, for late interaction."""

from rag.encoders.multivector.encoder import LateInteractionEncoder, TokenStateEncoder
from rag.encoders.multivector.fixed import FixedDimensionalEncoder
from rag.encoders.multivector.hashing import HashingTokenEncoder
from rag.encoders.multivector.loading import load_multi_vector
from rag.encoders.multivector.pooling import pool

__all__ = [
    "FixedDimensionalEncoder",
    "HashingTokenEncoder",
    "LateInteractionEncoder",
    "TokenStateEncoder",
    "load_multi_vector",
    "pool",
]
