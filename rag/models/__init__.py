"""Language models."""

from rag.models.loading import default_spec, load
from rag.models.protocol import ChatModel, Completion

__all__ = ["ChatModel", "Completion", "default_spec", "load"]
