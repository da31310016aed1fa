"""Encoders: from texts to vectors, one a text or one a token."""

from rag.encoders.both import encode_both, encode_both_queries
from rag.encoders.loading import DEFAULT, load
from rag.encoders.multivector import load_multi_vector
from rag.encoders.protocol import Encoder, MultiVectorEncoder, TokenVectors

__all__ = [
    "DEFAULT",
    "Encoder",
    "MultiVectorEncoder",
    "TokenVectors",
    "encode_both",
    "encode_both_queries",
    "load",
    "load_multi_vector",
]
