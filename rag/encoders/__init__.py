"""Encoders: from texts to vectors."""

from rag.encoders.loading import DEFAULT, load
from rag.encoders.protocol import Encoder

__all__ = ["DEFAULT", "Encoder", "load"]
