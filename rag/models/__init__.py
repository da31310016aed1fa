"""Language models."""

from rag.models.loading import load
from rag.models.protocol import ChatModel, Completion

__all__ = ["ChatModel", "Completion", "load"]
