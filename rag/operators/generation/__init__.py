"""Generation: from a context to an answer."""

from rag.operators.generation.extractive_answer import ExtractiveAnswer
from rag.operators.generation.generate import Generate

__all__ = ["ExtractiveAnswer", "Generate"]
